"""Status as text: tables made from the same JSON that ``--json`` prints."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mesh.connection.reasons import explain

Json = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned by spaces; nothing but the head when there are no rows."""
    cells = [[*head], *[["-" if c is None or c == "" else str(c) for c in row] for row in rows]]
    widths = [max(len(row[n]) for row in cells) for n in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines) + "\n"


def duration(seconds: float) -> str:
    """An age as people say it: 5s, 3m12s, 2h05m, 4d3h."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds * 1000:.1f}ms"


def peers_text(peers: Sequence[Json]) -> str:
    rows = [
        (
            p["name"],
            p["nickname"],
            p["short_id"],
            "yes" if p["reachable"] else "no",
            len(p["connections"]),
            p["program"],
        )
        for p in peers
    ]
    return table(("PEER", "NICKNAME", "SHORT", "REACHABLE", "CONNECTIONS", "PROGRAM"), rows)


def connections_text(connections: Sequence[Json]) -> str:
    rows = [
        (
            c["remote"],
            "out" if c["outbound"] else "in",
            c["state"],
            c["nickname"] or c["peer"],
            _milliseconds(c["rtt"]),
            duration(c["age"]),
            c["reason"],
            c["explanation"],
        )
        for c in connections
    ]
    head = ("REMOTE", "DIR", "STATE", "PEER", "RTT", "AGE", "REASON", "")
    return table(head, [(*r[:7], r[7] or " ") for r in rows])


def targets_text(targets: Sequence[Json]) -> str:
    rows = [
        (
            t["target"],
            t["state"],
            t["origin"],
            t["tries"],
            None if t["next_attempt_in"] is None else duration(t["next_attempt_in"]),
            t["last_error"],
        )
        for t in targets
    ]
    return table(("TARGET", "STATE", "ORIGIN", "TRIES", "NEXT", "LAST ERROR"), rows)


def links_text(links: Sequence[Json]) -> str:
    """A line a peer."""
    names = {link["peer"]: link["nickname"] or link["peer"] for link in links}
    rows = [
        (
            names[link["peer"]],
            link["overlay"],
            link["state"],
            link["reason"],
            link["not_kernel"],
            None if link["since"] is None else duration(link["since"]),
            names.get(link["next_hop"], link["next_hop"]) if link["hops"] > 1 else None,
            link["hops"],
            _milliseconds(link["rtt"]),
            _loss(link),
            link["mtu"],
            link["segment"],
            link["endpoint"],
            link["cipher"],
            None if link["key_age"] is None else duration(link["key_age"]),
        )
        for link in links
    ]
    head = ("PEER", "OVERLAY", "STATE", "REASON", "NOT IN KERNEL", "SINCE", "VIA", "HOPS", "RTT")
    return table((*head, "LOSS", "MTU", "SEGMENT", "ENDPOINT", "CIPHER", "KEY AGE"), rows)


def _loss(link: Json) -> str | None:
    """Of the direct path by its probes; of a whole path over relays by what the peer reports."""
    traffic = link["traffic"]
    relayed = link["state"] == "relayed" and traffic is not None
    share = traffic["tx_loss"] if relayed else link["loss"]
    return None if share is None else f"{share:.1%}"


def links_page(links: Sequence[Json]) -> str:
    """The table, then every change of path that is remembered, the newest first."""
    names = {link["peer"]: link["nickname"] or link["peer"] for link in links}
    made = sorted(
        ((entry["ago"], names[link["peer"]], entry) for link in links for entry in link["history"]),
        key=lambda change: change[:2],
    )
    changes = [
        (
            f"{duration(ago)} ago",
            name,
            entry["overlay"],
            entry["path"],
            names.get(entry["next_hop"], entry["next_hop"]) if entry["path"] == "relayed" else None,
            entry["reason"],
            entry["not_kernel"],
            None if entry["after"] is None else f"{entry['after']:.1f}s",
        )
        for ago, name, entry in made
    ]
    head = ("CHANGED", "PEER", "OVERLAY", "TO", "VIA", "REASON", "NOT IN KERNEL", "AFTER")
    counted = kernel_text(links)
    text = f"{links_text(links)}\n{counted}" if counted else links_text(links)
    return f"{text}\n{table(head, changes)}" if changes else text


def kernel_text(links: Sequence[Json]) -> str:
    """The paths in the kernel and what went over them; nothing where there are none."""
    rows = [
        (
            link["nickname"] or link["peer"],
            path["host"] if path else None,
            ("well" if path["well"] else "not well") if path else None,
            path["reason"] if path else None,
            _milliseconds(path["rtt"]) if path else None,
            None if not path or path["loss"] is None else f"{path['loss']:.1%}",
            *(
                counted[field] if counted else None
                for field in ("tx_frames", "tx_octets", "rx_frames", "rx_octets", "relayed_frames")
            ),
        )
        for link in links
        for path, counted in ((link["kernel_path"], link.get("kernel")),)
        if path or counted
    ]
    head = ("KERNEL PATH", "ADDRESS", "STATE", "REASON", "RTT", "LOSS", "TX", "TX OCTETS", "RX")
    return table((*head, "RX OCTETS", "RELAYED"), rows) if rows else ""


def _fast_line(status: Json) -> str:
    """Which overlay the kernel plays, or why it plays none."""
    fast = status["fastdp"]
    if fast["problem"] is not None:
        why = f" ({fast['explanation']})" if fast["explanation"] else ""
        return f"sleeve only: {fast['problem']}{why}"
    by_kernel = sum(link["overlay"] == "fastdp" for link in status["links"])
    return f"fastdp and sleeve; {by_kernel} of {len(status['links'])} peers by the kernel"


def ciphers_text(costs: Json) -> str:
    """What this host offers, the fastest first, with what it measured."""
    fastest = sorted(costs, key=lambda cipher: costs[cipher])
    return ", ".join(f"{cipher} ({costs[cipher] / 1000:.0f} us per 64 KiB)" for cipher in fastest)


def routes_text(routes: Sequence[Json]) -> str:
    rows = [
        (r["nickname"] or r["peer"], r["next_hop"], r["hops"], f"{r['cost_us']}us", r["mtu"])
        for r in routes
    ]
    return table(("PEER", "NEXT HOP", "HOPS", "COST", "SEGMENT"), rows)


def ipam_text(ipam: Json) -> str:
    """A block a range."""
    leaks = [
        f"SUSPECTED {s['container']} {s['interface']} {' '.join(s['addresses'])}: {s['reason']}\n"
        for s in ipam["suspected"]
    ]
    blocks = [_range_text(one) for one in (ipam, *ipam["others"])]
    return "".join(leaks) + "\n".join(blocks)


def _range_text(ipam: Json) -> str:
    asked = "" if ipam["is_default"] else ", for whoever asks for it"
    lines = [
        f"range     {ipam['range']}{asked}",
        f"cluster   {ipam['cluster'] or 'none yet: the first need of an address elects it'}",
        f"here      {ipam['used']} used, {ipam['free']} free of {ipam['owned']} owned",
    ]
    if ipam["excluded"]:
        used = ipam["excluded_used"]
        still = f"; in use all the same: {', '.join(used)}" if used else ""
        lines.append(f"excluded  {', '.join(ipam['excluded'])}{still}")
    if ipam["fault"]:
        lines.append(f"FAULT     {ipam['fault']}")
    if ipam["withheld"]:
        lines.append(f"WITHHELD  nothing is given out: {ipam['withheld']}")
    lines += [_conflict(c) for c in ipam["conflicts"]]
    lines += [f"ASTRAY    {address}: in another's space, asked back" for address in ipam["astray"]]
    lines += [f"LOST      {x['address']} of {x['container']}" for x in ipam["lost"]]
    rows = [
        (
            s["nickname"],
            s["addresses"],
            f"{s['percent']:.1f}%",
            "yes" if s["reachable"] else "no",
        )
        for s in ipam["shares"]
    ]
    shares = table(("PEER", "OWNS", "SHARE", "REACHABLE"), rows)
    return "\n".join(lines) + "\n\n" + shares


def who_text(who: Json) -> str:
    owner = who["nickname"] or "nobody"
    lines = [
        f"address    {who['address']} {who['state']}",
        f"owner      {owner}{'' if who['reachable'] or not who['owner'] else ', out of reach'}",
    ]
    if who["container"] is not None:
        since = "" if who["since"] is None else f" since {_moment(who['since'])}"
        lines.append(f"container  {who['container']} {who['interface']}{since}")
    if (piece := who["slice"]) is not None:
        how = "taken over by" if piece["takeover"] else "issued by"
        lines.append(f"slice      {piece['start']} to {piece['end']}, {how} {piece['issuer']}")
    past = f"\n{history_text(who['history'])}" if who["history"] else ""
    return "\n".join(lines) + "\n" + past


def history_text(rows: Sequence[Json]) -> str:
    return table(
        ("AT", "WHAT", "ADDRESS", "CONTAINER", "INTERFACE"),
        [(_moment(r["at"]), r["what"], r["address"], r["container"], r["interface"]) for r in rows],
    )


def check_text(check: Json) -> str:
    whole = "".join(_checked_text(one) for one in (check, *check["others"]))
    if not check["findings"]:
        return f"{whole}nothing is wrong\n"
    rows = [(f["what"], f["where"], f["why"]) for f in check["findings"]]
    return whole + table(("WHAT", "WHERE", "WHY"), rows)


def _checked_text(one: Json) -> str:
    silent = sum(not row["answered"] for row in one["asked"])
    text = (
        f"{one['range']}: {one['slices']} slices of {one['peers']} peers, {one['used']} used here"
    )
    if one["asked"]:
        text += f"; asked {len(one['asked'])} peers" + (f", {silent} silent" if silent else "")
    return f"{text}\n"


def collected_text(done: Json) -> str:
    rows = [
        (what, row["container"], row["interface"], " ".join(row["addresses"]), row["reason"])
        for what in ("collected", "suspected")
        for row in done[what]
    ]
    head = ("", "CONTAINER", "INTERFACE", "ADDRESS", "REASON")
    return table(head, rows) if rows else "nothing leaks\n"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _conflict(c: Json) -> str:
    where = c["start"] if c["start"] == c["end"] else f"{c['start']} to {c['end']}"
    return f"CONFLICT  {where}: {c['reason']}, {c['held']} and {c['said']} (from {c['source']})"


_REFUSED = {
    "range-mismatch": "the two ends were launched with different --range",
    "cluster-mismatch": "two meshes that each divided the range by themselves have met; reset the"
    " hosts of one of them",
}
"""What an operator can do about gossip that was refused, where there is something."""


def channels_text(channels: Sequence[Json]) -> str:
    rows = [
        (
            c["channel"],
            c["items"],
            c["octets"],
            None if c["quiet_for"] is None else duration(c["quiet_for"]),
            sum(c["rejected"].values()),
            "relayed only" if c["surrogate"] else "",
        )
        for c in channels
    ]
    text = table(("CHANNEL", "ITEMS", "OCTETS", "CHANGED", "REFUSED", ""), rows)
    refused = refused_text(channels)
    return f"{text}\n{refused}" if refused else text


def refused_text(channels: Sequence[Json]) -> str:
    """Gossip that was not believed; nothing when all was."""
    entries = [(c["channel"], entry) for c in channels for entry in c["quarantine"]]
    if not entries:
        return ""
    rows = [
        (channel, e["reason"], e["nickname"] or e["source"], e["count"], e["detail"] or e["key"])
        for channel, e in entries
    ]
    text = table(("CHANNEL", "REFUSED FOR", "FROM", "TIMES", "WHAT"), rows)
    reasons = dict.fromkeys(entry["reason"] for _, entry in entries)
    return text + "".join(f"{r}: {_REFUSED[r]}\n" for r in reasons if r in _REFUSED)


def attachments_text(attachments: Sequence[Json]) -> str:
    rows = [
        (a["container"], a["ifname"], " ".join(a["addresses"]), a["mac"], a["host"], a["netns"])
        for a in attachments
    ]
    return table(("CONTAINER", "INTERFACE", "ADDRESS", "MAC", "HOST END", "NAMESPACE"), rows)


def _mtu(status: Json) -> str:
    """And what it follows from."""
    mtu, found = status["us"]["mtu"], status["pod_mtu"]
    if found["by"] == "--mtu":
        return f"{mtu} (--mtu)"
    if found["underlay"] is None:
        return f"{mtu}"
    return f"{mtu} (underlay {found['underlay']} towards {found['towards']})"


def status_text(status: Json) -> str:
    """The whole page."""
    us, links = status["us"], status["links"]
    states = [link["state"] for link in links]
    up = [c for c in status["connections"] if c["state"] == "established"]
    sealed = "sealed end to end" if us["encrypted"] else "NOT ENCRYPTED (no password)"
    trusted = status["fastdp"]["trusted_subnets"]
    if us["encrypted"] and trusted:
        sealed += f" but where both ends trust the way ({', '.join(trusted)} here)"
    lines = [
        f"weaver {status['version']}  {us['nickname']}  {us['name']}"
        f"  up {duration(status['uptime'])}",
        f"state        {'ready' if status['ready'] else 'NOT READY: ' + status['not_ready']}",
        f"data plane   {sealed}, pods' MTU {_mtu(status)}, worker {us['worker']}",
        f"overlays     {_fast_line(status)}",
        f"connections  {len(up)} established",
        f"links        {states.count('direct')} direct, {states.count('relayed')} relayed,"
        f" {states.count('down')} down",
        *(
            f"addresses    {one['used']} used, {one['free']} free here, range {one['range']}"
            for one in (status["ipam"], *status["ipam"]["others"])
        ),
        f"pods         {len(status['attachments'])} attached",
    ]
    if us["encrypted"]:
        lines.insert(3, f"ciphers      {ciphers_text(us['ciphers'])}")
    if us["clone_suspected"]:
        lines.append(
            f"WARNING      our identity is in use elsewhere: {explain('cloned-identity', False)}"
        )
    if status["state_fault"]:
        lines.append(f"WARNING      not remembered over a restart: {status['state_fault']}")
    if status["exposed"]:
        lines.append(f"host         {' '.join(status['exposed'])} on the bridge")
    page = "\n".join(lines) + "\n"
    for title, text in (
        ("peers", peers_text(status["peers"])),
        ("connections", connections_text(status["connections"])),
        ("links", links_text(links)),
        ("ipam", ipam_text(status["ipam"])),
        ("refused gossip", refused_text(status["channels"])),
    ):
        if text:
            page += f"\n== {title}\n{text}"
    return page

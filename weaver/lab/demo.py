"""``weaver lab demo``: the whole product in a minute, each claim shown so that it could fail.

Five hosts, of which h1 and h5 reach each other only through others. Pods ping in all pairs, TCP
crosses a relay, a marker that pods exchange is nowhere on the underlay, a host dies and comes back.
"""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path

from weaver.lab.capture import Tap, capturing, holds, octets_on
from weaver.lab.interrupts import undisturbed
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Plan, Pod, Shape
from weaver.lab.traffic import send_marked, tcp_rate, unreachable_pairs
from weaver.status import table

HOSTS = 5
APART = ("h1", "h5")
VICTIM = "h3"
SETTLED_WITHIN = 5.0
"""Seconds after which every pair of pods of a mesh that just began must reach each other."""

BACK_WITHIN = 10.0
"""Seconds after its start in which a killed host's pods must be reached again."""

Row = tuple[str, str, str]


def demo(lab: Lab) -> bool:
    """Show everything and take it all down again, also when it fails or is interrupted."""
    order = Order(name=lab.name, hosts=HOSTS, shape=Shape.MESH, pods=1, deny=(APART,))
    rows: list[Row] = []
    began = time.monotonic()
    lab.up(order, secrets.token_urlsafe(16))
    try:  # nothing between the two: from here on whatever happens takes the lab down
        plan = lab.plan()
        directory = lab.directory / "demo"  # goes with the lab, also after a SIGKILL
        directory.mkdir()
        _pings(lab, plan, rows)
        _relay(lab, plan, rows, directory)
        _secrecy(lab, plan, rows, directory)
        _crash(lab, plan, rows)
    finally:
        with undisturbed(), lab.progress.step("everything removed"):
            lab.down()
    failed = [row for row in rows if row[2] != "ok"]
    sys.stdout.write("\n" + table(("SHOWN", "MEASURED", ""), rows))
    print(f"\n{len(rows) - len(failed)} of {len(rows)} in {time.monotonic() - began:.0f} s")
    return not failed


def _addresses(lab: Lab) -> dict[str, str]:
    return {
        pod["name"]: pod["address"]
        for host in lab.status()["hosts"]
        for pod in host["pods"]
        if pod["address"] is not None
    }


def _far_pods(plan: Plan) -> tuple[Pod, Pod]:
    """The two pods whose hosts are not neighbours."""
    near, far = (plan.host(name).pods[0] for name in APART)
    return near, far


def _pings(lab: Lab, plan: Plan, rows: list[Row]) -> None:
    """Frames that cross while paths are still being chosen may be lost; what is asked again later
    than that must be answered."""
    with lab.progress.step("pods ping in all pairs"):
        began = time.monotonic()
        first = lost = unreachable_pairs(plan, _addresses(lab))
        while lost and time.monotonic() - began < SETTLED_WITHIN:
            lost = unreachable_pairs(plan, _addresses(lab))
    pairs = len(plan.pods) * (len(plan.pods) - 1)
    said = f"{pairs - len(lost)} of {pairs} ordered pairs"
    if first:
        said += f", {pairs - len(first)} at the first ping"
    rows.append(("pods ping in all pairs", said, "ok" if not lost else "FAILED"))


def _relay(lab: Lab, plan: Plan, rows: list[Row], directory: Path) -> None:
    near, far = _far_pods(plan)
    with lab.progress.step(f"TCP from {near.name} to {far.name}, through a relay"):
        links = lab.site(plan.host(APART[0])).get("/v1/links")
        link = next(row for row in links if row["nickname"] == APART[1])
        rate = tcp_rate(near, far, _addresses(lab)[far.name], directory / "iperf3.log")
    said = f"{rate / 1e6:,.0f} Mbit/s, link {link['state']} over {link['hops']} hops"
    relayed = link["state"] == "relayed" and link["hops"] > 1 and rate > 0
    rows.append(("TCP through a relay", said, "ok" if relayed else "FAILED"))


def _secrecy(lab: Lab, plan: Plan, rows: list[Row], directory: Path) -> None:
    """The marker must be seen where it is in clear, or not seeing it elsewhere proves nothing."""
    near, far = _far_pods(plan)
    marker = secrets.token_hex(16).encode()
    underlay = [
        Tap(end[0].namespace, end[1], directory / f"{end[0].name}-{end[1]}.pcap")
        for wire in plan.wires
        for end in wire.ends[:1]
    ]
    control = Tap(far.namespace, "eth0", directory / "control.pcap")
    with lab.progress.step(f"a marker, and captures of all {len(underlay)} underlay links"):
        with capturing([*underlay, control]):
            send_marked(near, far, _addresses(lab)[far.name], marker, directory)
        seen = [tap.device for tap in underlay if holds(tap, marker)]
        octets = sum(octets_on(tap) for tap in underlay)
        inside = holds(control, marker)
    rows.append(
        (
            "the marker is in clear inside the pod",
            "found" if inside else "not found",
            "ok" if inside else "FAILED",
        )
    )
    said = f"found on {len(seen)} of {len(underlay)}, {octets / 1e6:.1f} MB captured"
    fine = not seen and octets > 0
    rows.append(("it is on no underlay link", said, "ok" if fine else "FAILED"))


def _crash(lab: Lab, plan: Plan, rows: list[Row]) -> None:
    site = lab.site(plan.host(VICTIM))
    before, addresses = site.get("/v1/status")["us"]["name"], _addresses(lab)
    with lab.progress.step(f"{VICTIM} killed and started again"):
        lab.kill([VICTIM])
        began = time.monotonic()
        lab.start([VICTIM])
        lost = unreachable_pairs(plan, addresses)
        while lost and time.monotonic() - began < BACK_WITHIN:
            lost = unreachable_pairs(plan, addresses)
        took = time.monotonic() - began
    same = site.get("/v1/status")["us"]["name"] == before and _addresses(lab) == addresses
    said = f"all pairs again after {took:.1f} s" if not lost else f"{len(lost)} pairs lost"
    rows.append((f"{VICTIM} killed and back", said, "ok" if not lost else "FAILED"))
    kept = "same name, same addresses" if same else "another name or address"
    rows.append((f"{VICTIM} is who it was", kept, "ok" if same else "FAILED"))

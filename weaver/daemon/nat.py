"""What nftables is told so that pods reach the world behind their host: pure, in nft's own JSON."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

FAMILY = "inet"
TABLE = "weaver"
CHAIN = "postrouting"
SRCNAT = 100
"""The priority of source NAT among postrouting hooks."""

Ruleset = dict[str, Any]
Json = dict[str, Any]


def masquerade(ranges: Sequence[str], bridge: str, plain: Sequence[str] = ()) -> Ruleset:
    """Replace our table: packets of pods that leave by another device than the bridge get its
    address, but for the ``plain`` addresses. Run twice, it is there once."""
    chain = {"family": FAMILY, "table": TABLE, "name": CHAIN}
    hook = {"type": "nat", "hook": "postrouting", "prio": SRCNAT, "policy": "accept"}
    return {
        "nftables": [
            *remove()["nftables"],
            {"add": {"table": {"family": FAMILY, "name": TABLE}}},
            {"add": {"chain": {**chain, **hook}}},
            *({"add": {"rule": _rule(range, bridge, plain)}} for range in ranges),
        ]
    }


def _rule(range: str, bridge: str, plain: Sequence[str]) -> Json:
    network = ip_network(range)
    protocol = "ip" if network.version == 4 else "ip6"
    source = {"payload": {"protocol": protocol, "field": "saddr"}}
    pods = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
    spared = _spared(range, plain)
    but = [{"match": {"op": "!=", "left": source, "right": {"set": spared}}}] if spared else []
    return {
        "family": FAMILY,
        "table": TABLE,
        "chain": CHAIN,
        "comment": "pods reach the world as their host",
        "expr": [
            *but,
            {"match": {"op": "==", "left": source, "right": pods}},
            {"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": bridge}},
            {"masquerade": None},
        ],
    }


def _spared(range: str, plain: Sequence[str]) -> list[str]:
    """Those of the range's family: a set of nft holds one kind of address."""
    return [address for address in plain if (":" in address) == (":" in range)]


def remove() -> Ruleset:
    """Remove our table, whether it is there or not: nft's JSON knows no "destroy" before 1.0.7."""
    table = {"table": {"family": FAMILY, "name": TABLE}}
    return {"nftables": [{"add": table}, {"delete": table}]}


def is_whole(listing: Any, ranges: Sequence[str], plain: Sequence[str]) -> bool:  # noqa: ANN401  # nft's JSON
    """Whether what nft lists is our table as ``masquerade`` makes it: somebody may have flushed
    it, or taken a rule out."""
    entries = listing.get("nftables", ()) if isinstance(listing, dict) else ()
    chains = [e["chain"] for e in entries if "chain" in e]
    rules = [e["rule"] for e in entries if "rule" in e]
    if [chain.get("hook") for chain in chains] != ["postrouting"] or len(rules) != len(ranges):
        return False
    return all(
        _is_rule(rule.get("expr", []), _spared(range, plain))
        for rule, range in zip(rules, ranges, strict=True)
    )


def _is_rule(expressions: list[Json], plain: Sequence[str]) -> bool:
    spared = [
        sorted(right["set"]) if isinstance(right := match["right"], dict) else [right]
        for e in expressions
        if (match := e.get("match")) is not None
        and match["op"] == "!="
        and "payload" in match["left"]
    ]
    wanted = [sorted(plain)] if plain else []
    return spared == wanted and expressions[-1:] == [{"masquerade": None}]

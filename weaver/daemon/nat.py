"""What nftables is told so that pods reach the world behind their host: pure, in nft's own JSON."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

FAMILY = "inet"
TABLE = "weaver"
CHAIN = "postrouting"
SRCNAT = 100
"""The priority of source NAT among postrouting hooks."""

Ruleset = dict[str, Any]


def masquerade(range: str, bridge: str) -> Ruleset:
    """Replace our table: packets of pods that leave by another device than the bridge get its
    address. Run twice, it is there once."""
    network = ip_network(range)
    protocol = "ip" if network.version == 4 else "ip6"
    source = {"payload": {"protocol": protocol, "field": "saddr"}}
    pods = {"prefix": {"addr": str(network.network_address), "len": network.prefixlen}}
    chain = {"family": FAMILY, "table": TABLE, "name": CHAIN}
    rule = {
        "family": FAMILY,
        "table": TABLE,
        "chain": CHAIN,
        "comment": "pods reach the world as their host",
        "expr": [
            {"match": {"op": "==", "left": source, "right": pods}},
            {"match": {"op": "!=", "left": {"meta": {"key": "oifname"}}, "right": bridge}},
            {"masquerade": None},
        ],
    }
    hook = {"type": "nat", "hook": "postrouting", "prio": SRCNAT, "policy": "accept"}
    return {
        "nftables": [
            *remove()["nftables"],
            {"add": {"table": {"family": FAMILY, "name": TABLE}}},
            {"add": {"chain": {**chain, **hook}}},
            {"add": {"rule": rule}},
        ]
    }


def remove() -> Ruleset:
    """Remove our table, whether it is there or not: nft's JSON knows no "destroy" before 1.0.7."""
    table = {"table": {"family": FAMILY, "name": TABLE}}
    return {"nftables": [{"add": table}, {"delete": table}]}

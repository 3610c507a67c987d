"""What of the list of nodes a mesh needs: pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from mesh.connection.maker import Target
from mesh.names import PeerName

Json = dict[str, Any]

ANNOTATION = "weaver/peer"
"""On a node: the name of the peer that runs there, which outlives the node in others' memory."""

CONDITION = "NetworkUnavailable"
REASON = "WeaverIsUp"


@dataclass(frozen=True, slots=True)
class Node:
    """``is_told``: whether the node's condition says that weaver is up."""

    addresses: tuple[str, ...]
    peer: str
    is_told: bool


def reduce(thing: Json) -> Node:
    """What is kept of a node. Raises TypeError, KeyError, AttributeError for what is none."""
    status, meta = thing.get("status") or {}, thing["metadata"]
    by_kind: dict[str, list[str]] = {}
    for entry in status.get("addresses") or ():
        text = entry["address"]
        try:
            by_kind.setdefault(entry["type"], []).append(str(ip_address(text)))
        except ValueError:
            continue  # a name, which is of another kind
    peer = (meta.get("annotations") or {}).get(ANNOTATION, "")
    conditions = {
        c["type"]: (c.get("status"), c.get("reason")) for c in status.get("conditions") or ()
    }
    return Node(
        addresses=tuple(by_kind.get("InternalIP") or by_kind.get("ExternalIP") or ()),
        peer=peer if _is_name(peer) else "",
        is_told=conditions.get(CONDITION) == ("False", REASON),
    )


def targets(nodes: Mapping[str, Node], own: str, port: int) -> frozenset[Target]:
    """The addresses of all other nodes: the first of each."""
    first = (node.addresses[0] for name, node in nodes.items() if name != own and node.addresses)
    return frozenset(Target(address, port) for address in first)


def remembered(known: Mapping[str, str], nodes: Mapping[str, Node]) -> dict[str, str]:
    """Peer -> node: whom we knew to run on a node, and whom we know now."""
    return {**known, **{node.peer: name for name, node in nodes.items() if node.peer}}


def gone(known: Mapping[str, str], nodes: Mapping[str, Node]) -> list[str]:
    """Peers whose node is no more. One that came back under its name with another identity is
    another peer, and the former one is gone."""
    there = {node.peer for node in nodes.values()}
    # A node that has not said who runs on it yet may be any of those that were there before.
    silent = {name for name, node in nodes.items() if not node.peer}
    return sorted(peer for peer, name in known.items() if peer not in there and name not in silent)


def leads(us: str, nodes: Mapping[str, Node]) -> bool:
    """Whether it is our turn to take the space of those who are gone: the lowest peer's."""
    return us == min((node.peer for node in nodes.values() if node.peer), default="")


def _is_name(text: object) -> bool:
    try:
        return isinstance(text, str) and bool(PeerName.parse(text))
    except ValueError:
        return False

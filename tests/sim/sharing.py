"""What the peers of one simulated mesh need not each work out anew.

Twelve peers check the same signature and walk the same graph. All of that are functions of their
arguments alone, so the first answer is everybody's: a quarter of a run's time is saved and not an
octet changes, which ``tests/sim/test_story.py`` checks.
"""

from __future__ import annotations

import functools
import gc
from typing import TypeVar

import mesh.connection.handshake
import mesh.router.unicast
import mesh.topology.record
from mesh.crypto.identity import Identity, verify
from mesh.names import PeerName
from mesh.topology import routes
from mesh.topology.record import Record

_K = TypeVar("_K")
_V = TypeVar("_V")

KEPT = 1 << 12
"""Answers of each kind that are remembered."""


def share() -> None:
    """For the whole process, which does nothing but simulate."""
    _share_signatures()
    _share_graphs()
    _share_records()
    gc.disable()  # ``collect`` is called between stories: what one leaves behind is small


def _share_signatures() -> None:
    """What ``Identity.sign`` made here is genuine; anything else is checked, once."""
    made: dict[tuple[bytes, bytes, bytes, bytes], None] = {}
    sign = Identity.sign
    once = functools.lru_cache(KEPT)(verify)

    def signing(self: Identity, context: bytes, message: bytes) -> bytes:
        signature = sign(self, context, message)
        _make_room(made)
        made[self.public_key, context, message, signature] = None
        return signature

    def verifying(key: bytes, context: bytes, message: bytes, signature: bytes) -> bool:
        return (key, context, message, signature) in made or once(key, context, message, signature)

    Identity.sign = signing  # type: ignore[method-assign]
    for module in (mesh.connection.handshake, mesh.router.unicast, mesh.topology.record):
        vars(module)["verify"] = verifying


def _share_graphs() -> None:
    """One graph for all whose records are the same, told by their signatures, and its trees."""
    graphs: dict[tuple[bytes, ...], routes.Graphs] = {}
    trees: dict[tuple[int, int], tuple[routes.Graph, routes._Tree]] = {}
    make_graphs, make_tree = routes._graphs, routes._tree

    def shared_graphs(records: list[Record], numbers: dict[PeerName, int]) -> routes.Graphs:
        view = tuple(record.signature for record in records)
        if view not in graphs:
            _make_room(graphs)
            graphs[view] = make_graphs(records, numbers)
        return graphs[view]

    def shared_tree(graph: routes.Graph, root: int) -> routes._Tree:
        # Kept with its graph, so that no other graph can come to lie at the same address.
        place = (id(graph), root)
        if place not in trees:
            _make_room(trees)
            trees[place] = (graph, make_tree(graph, root))
        return trees[place][1]

    routes._graphs, routes._tree = shared_graphs, shared_tree


def _share_records() -> None:
    """The same octets are the same record, which nobody can change."""
    once = functools.lru_cache(KEPT)(Record.decode)
    Record.decode = staticmethod(once)  # type: ignore[method-assign]


def _make_room(kept: dict[_K, _V]) -> None:
    if len(kept) >= KEPT:
        del kept[next(iter(kept))]

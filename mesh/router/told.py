"""What the worker was told, and the difference to what it should know."""

from __future__ import annotations

from dataclasses import dataclass, field

from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w


@dataclass
class Told:
    """What the worker was told, and, in another instance, what it should know."""

    peers: dict[ShortID, tuple[PeerName, int, bool]] = field(default_factory=dict)
    neighbours: dict[ShortID, tuple[Endpoint, int]] = field(default_factory=dict)
    routes: dict[ShortID, tuple[ShortID, int]] = field(default_factory=dict)
    trees: dict[ShortID, tuple[ShortID, ...]] = field(default_factory=dict)


def dropped(told: Told, wanted: Told) -> dict[ShortID, PeerName]:
    """Peers that go, or whose short ID is another's now."""
    return {
        short_id: name
        for short_id, (name, *_) in told.peers.items()
        if wanted.peers.get(short_id, (None,))[0] != name
    }


def difference(told: Told, wanted: Told) -> list[w.ToWorker]:
    """The messages that turn the one into the other, in an order the worker can follow."""
    gone = dropped(told, wanted)
    out: list[w.ToWorker] = [w.DropPeer(short_id) for short_id in gone]
    neighbours = {s: v for s, v in told.neighbours.items() if s not in gone}
    routes = {s: v for s, v in told.routes.items() if s not in gone}
    out += [w.DropNeighbour(short_id) for short_id in neighbours.keys() - wanted.neighbours.keys()]
    out += [w.DropRoute(short_id) for short_id in routes.keys() - wanted.routes.keys()]
    out += [w.SetTree(short_id, ()) for short_id in told.trees.keys() - wanted.trees.keys()]
    for short_id, peer in wanted.peers.items():
        if told.peers.get(short_id) != peer:
            out.append(w.SetPeer(short_id, *peer))
    for short_id, neighbour in wanted.neighbours.items():
        if neighbours.get(short_id) != neighbour:
            out.append(w.SetNeighbour(short_id, *neighbour))
    for short_id, route in wanted.routes.items():
        if routes.get(short_id) != route:
            out.append(w.SetRoute(short_id, *route))
    for short_id, children in wanted.trees.items():
        if told.trees.get(short_id) != children:
            out.append(w.SetTree(short_id, children))
    return out

"""What the kernel should be told, from one view of the mesh (docs/protocol.md 14.2 to 14.4, 14.6).

Who drives it: ``mesh.router.fastdp``. Pure functions over tables: what follows from routes and
trees, and what is kept of what was told because nothing better is known.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from mesh.link.datapath import MAX_CHILDREN, MAX_MACS, SLEEVE, Answer, Tables, Tree
from mesh.names import PeerName, ShortID
from mesh.topology.attachments import Pod
from mesh.topology.routes import Routes

MAX_SOURCES = 16_384
"""Pairs of outer address and source that are let in beforehand, whatever path they may take next;
beyond it only those of present paths are."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a peer is reached in the kernel; ``held``: as it was, because nobody knows better."""

    next_hop: PeerName | None
    hops: int
    held: bool = False


def steer(
    us: PeerName,
    ids: Mapping[PeerName, ShortID],
    routes: Routes,
    hosts: Mapping[PeerName, str],
    by_sleeve: Collection[PeerName],
) -> tuple[Tables, dict[PeerName, Way]]:
    """Tables for this view, and whom they reach in the kernel.

    ``hosts``: outer addresses of neighbours that heartbeats may go to.
    """
    tables, ways = Tables(), {}
    tables.neighbours = {ids[peer]: host for peer, host in hosts.items()}
    for peer, short_id in ids.items():
        if peer == us:
            continue
        route = routes.kernel.get(peer)
        if route is not None and route.next_hop in hosts and route.next_hop in ids:
            tables.routes[short_id] = ids[route.next_hop]
            ways[peer] = Way(route.next_hop, route.hops)
        elif peer in by_sleeve:
            tables.routes[short_id] = SLEEVE
    _plant(tables, us, ids, routes, ways, hosts, by_sleeve)
    _let_in(tables, us, ids, routes, ways, hosts)
    return tables, ways


def _plant(
    tables: Tables,
    us: PeerName,
    ids: Mapping[PeerName, ShortID],
    routes: Routes,
    ways: Mapping[PeerName, Way],
    hosts: Mapping[PeerName, str],
    by_sleeve: Collection[PeerName],
) -> None:
    """Our place in the tree of every origin. Who is served by sleeve has a parent that nobody is,
    so that what still comes of it by the kernel is dropped, and nothing is heard twice."""
    own = ids[us]
    for origin, short_id in ids.items():
        place = routes.kernel_place(origin)
        children: tuple[ShortID, ...] = ()
        if place is not None:
            children = tuple(ids[c] for c in place.children if c in hosts and c in ids)
        if origin == us:
            to_sleeve = any(peer in ids and peer not in ways for peer in by_sleeve)
            tables.trees[own] = Tree(None, children[:MAX_CHILDREN], to_sleeve)
        elif origin not in ways:
            tables.trees[short_id] = Tree(own)
        elif place is None or place.parent not in ids or place.parent is None:
            tables.trees[short_id] = Tree(short_id)
        else:
            tables.trees[short_id] = Tree(ids[place.parent], children[:MAX_CHILDREN])


def _let_in(
    tables: Tables,
    us: PeerName,
    ids: Mapping[PeerName, ShortID],
    routes: Routes,
    ways: Mapping[PeerName, Way],
    hosts: Mapping[PeerName, str],
) -> None:
    """From which outer addresses frames of whom may come."""
    sources = {(host, ids[peer]) for peer, host in hosts.items()}
    if routes.relays_in_kernel and len(hosts) * len(ids) <= MAX_SOURCES:
        # Also of whom we serve by sleeve: it may know sooner than we do that the kernel serves us.
        others = [short_id for peer, short_id in ids.items() if peer != us]
        tables.sources = {(host, other) for host in hosts.values() for other in others}
        return
    for peer in ways:
        place = routes.kernel_place(peer)
        relays = {*routes.kernel_relays(peer)}
        if place is not None and place.parent is not None:
            relays.add(place.parent)
        sources.update((hosts[hop], ids[peer]) for hop in relays & hosts.keys())
    tables.sources = sources


def name_pods(
    tables: Tables, pods: Mapping[PeerName, Collection[Pod]], ids: Mapping[PeerName, ShortID]
) -> None:
    """Where each pod is and who has which address, of peers that are reached, and of us.

    What two of them claim is left out: their frames will tell, and they are asked by broadcast.
    """
    macs: dict[bytes, set[ShortID]] = {}
    addresses: dict[str, set[Answer]] = {}
    for peer, theirs in pods.items():
        if (place := ids.get(peer)) is None:
            continue
        for pod in theirs:
            macs.setdefault(pod.mac, set()).add(place)
            for address in pod.addresses:
                addresses.setdefault(address, set()).add(Answer(pod.mac, place))
    alone = {mac: next(iter(places)) for mac, places in macs.items() if len(places) == 1}
    tables.attached = dict(sorted(alone.items())[:MAX_MACS])
    tables.answers = {
        address: next(iter(found))
        for address, found in addresses.items()
        if len(found) == 1 and next(iter(found)).mac in tables.attached
    }


def held_over(
    told: Tables, wanted: Tables, kept: Collection[ShortID], own: ShortID
) -> set[ShortID]:
    """Put into ``wanted`` what was told of ``kept`` peers that nothing reaches now; which they are.

    Their kernels may forward on while a daemon is away. A short ID that the view gives to somebody
    who is reached is that one's, and nothing of it is held.
    """
    held: set[ShortID] = set()
    for short_id in kept:
        via = told.routes.get(short_id, SLEEVE)
        if short_id == own or short_id in wanted.routes or via == SLEEVE:
            continue
        if via not in told.neighbours:
            continue
        held.add(short_id)
        wanted.routes[short_id] = via
        if short_id in told.mtus:
            wanted.mtus[short_id] = told.mtus[short_id]
        _keep_neighbour(told, wanted, via)
        wanted.sources |= {pair for pair in told.sources if pair[1] == short_id}
        if (tree := told.trees.get(short_id)) is not None:
            wanted.trees[short_id] = tree
            for child in tree.children:
                _keep_neighbour(told, wanted, child)
    _keep_children(told, wanted, held)
    for mac, place in told.attached.items():
        if place in held:
            wanted.attached.setdefault(mac, place)
    for address, answer in told.answers.items():
        if answer.place in held:
            wanted.answers.setdefault(address, answer)
    return held


def _keep_children(told: Tables, wanted: Tables, held: set[ShortID]) -> None:
    """What passes through us goes on to them as well, whoever it is from."""
    for origin, tree in wanted.trees.items():
        if (was := told.trees.get(origin)) is None:
            continue
        more = tuple(c for c in was.children if c in held and c not in tree.children)
        if more and was.parent == tree.parent:
            for child in more:
                _keep_neighbour(told, wanted, child)
            children = (*tree.children, *more)[:MAX_CHILDREN]
            wanted.trees[origin] = replace(tree, children=children)


def _keep_neighbour(told: Tables, wanted: Tables, short_id: ShortID) -> None:
    if short_id in told.neighbours:
        wanted.neighbours.setdefault(short_id, told.neighbours[short_id])


def lost_names(
    before: Mapping[ShortID, PeerName], now: Mapping[ShortID, PeerName]
) -> list[ShortID]:
    """Short IDs that are another peer's now."""
    return [s for s, name in now.items() if before.get(s, name) != name]


def went_to_kernel(told: Tables, wanted: Tables) -> bool:
    """Whether somebody's frames, by sleeve until now, go by the kernel: addresses that were learned
    behind the sleeve may be theirs."""
    return any(
        via != SLEEVE and told.routes.get(short_id, SLEEVE) == SLEEVE
        for short_id, via in wanted.routes.items()
    )

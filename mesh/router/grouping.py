"""Trees of single groups: those branches of an origin's tree that lead to somebody who listens.

Who drives it: ``mesh.router.fastdp``. Pure functions over tables. Where the view has a group that
nobody is known to listen to, or that goes to everybody, there is no tree of its own, and the
origin's serves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mesh.link.datapath import MAX_GROUP_TREES, Tables, Tree
from mesh.link.snooping import MAX_GROUPS
from mesh.names import PeerName, ShortID
from mesh.router.steering import Way
from mesh.topology.routes import Routes

Listening = Mapping[PeerName, frozenset[bytes] | None]
"""Groups by peer, as MAC addresses; None, as of a peer that is not in it: all there are."""


def plant_groups(
    tables: Tables,
    us: PeerName,
    ids: Mapping[PeerName, ShortID],
    routes: Routes,
    ways: Mapping[PeerName, Way],
    by_sleeve: Collection[PeerName],
    listening: Listening,
) -> None:
    """Put the groups' trees beside those of ``tables``, as far as they differ."""
    known = {group for peer in ids for group in listening.get(peer) or ()}
    origins = [peer for peer in ids if peer == us or tables.trees[ids[peer]].children]
    for group in sorted(known)[:MAX_GROUPS]:
        members = {peer for peer in ids if _listens(listening.get(peer), group)}
        for origin in origins:
            if origin != us and origin not in ways:
                continue
            whole = tables.trees[ids[origin]]
            leading = {ids[c] for c in routes.kernel_branches(origin, members) if c in ids}
            pruned = Tree(
                whole.parent,
                tuple(child for child in whole.children if child in leading),
                whole.to_sleeve and any(p in members and p not in ways for p in by_sleeve),
                origin == us or us in members,
            )
            if pruned != whole and len(tables.groups) < MAX_GROUP_TREES:
                tables.groups[ids[origin], group] = pruned


def _listens(groups: frozenset[bytes] | None, group: bytes) -> bool:
    return groups is None or group in groups

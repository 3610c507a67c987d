"""Which way frames go to a peer by sleeve, and why that way.

Who drives it: ``mesh.router.links``, once a view of the mesh for each peer.
"""

from __future__ import annotations

from mesh.names import PeerName
from mesh.router.choices import Path
from mesh.router.directs import Direct
from mesh.topology.record import Record
from mesh.topology.routes import HOP_TOLL_US, Route, is_good_enough

Way = tuple[Path, PeerName | None]
"""A path and the next hop on it."""


def chosen_way(
    us: PeerName, peer: PeerName, record: Record, route: Route | None, direct: Direct | None
) -> Way:
    """The mesh's way to a peer, or our own direct one that the mesh does not know of.

    What goes straight to its end cannot go round, whatever others believe meanwhile.
    """
    if direct is not None and direct.up:
        unknown = direct.is_orphan or not _calls_up(record, us)
        if route is None or (unknown and direct.steady and _is_worth_it(direct, route.cost_us)):
            return Path.DIRECT, peer
    if route is None:
        return Path.DOWN, None
    return (Path.DIRECT if route.next_hop == peer else Path.RELAYED), route.next_hop


def why(path: Path, problem: str | None, direct: Direct | None) -> str:
    """The reason of a choice. ``problem``: what keeps all frames from the peer."""
    if problem is not None:
        return problem
    if path is Path.DIRECT:
        return "probes-answered" if direct is None else direct.reason
    if direct is None:
        return "no-connection" if path is Path.RELAYED else "no-route"
    if not direct.up or not direct.steady:
        return direct.reason
    return "cheaper-path"


def _is_worth_it(direct: Direct, relayed_us: int) -> bool:
    """Whether our own measure of the direct path says what the routes would (8.2)."""
    rtt = direct.probe.cost_rtt
    return rtt is None or is_good_enough(round(rtt * 1e6) + HOP_TOLL_US, relayed_us)


def _calls_up(record: Record, us: PeerName) -> bool:
    """Whether this peer says that its direct path to us works."""
    return any(edge.peer == us and edge.established for edge in record.edges)

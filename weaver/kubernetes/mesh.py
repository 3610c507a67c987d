"""The daemon, as far as the agent needs it."""

from __future__ import annotations

from collections.abc import Callable

from mesh.connection.maker import Target
from mesh.names import PeerName
from weaver.daemon.daemon import Daemon


class DaemonMesh:
    """The production ``Mesh`` of ``weaver.kubernetes.agent``."""

    def __init__(self, daemon: Daemon, not_ready: Callable[[], str | None]) -> None:
        self._daemon, self._not_ready = daemon, not_ready

    @property
    def us(self) -> PeerName:
        return self._daemon.identity.name

    @property
    def port(self) -> int:
        return self._daemon.config.port

    def not_ready(self) -> str | None:
        return self._not_ready()

    def connect(self, peers: frozenset[Target]) -> None:
        self._daemon.mesh.connect(tuple(sorted(peers, key=str)))

    def forget(self, peers: frozenset[Target]) -> None:
        self._daemon.mesh.forget(tuple(sorted(peers, key=str)))

    async def reclaim(self, peer: PeerName, rest: float) -> None:
        # One node does this, by the cluster's list of nodes: no majority of ours need agree.
        await self._daemon.ranges.reclaim(peer, force=True, rest=rest)

    def load_nodes(self) -> dict[str, str]:
        return self._daemon.state.nodes

    def save_nodes(self, known: dict[str, str]) -> None:
        self._daemon.state.save_nodes(known)

"""The MTU of pods: as the operator says, or what the underlay carries less what goes around.

    what leads to neighbours ──look──> Sizes ──changed──> router (record, heartbeats, sleeve)
                                                     └──> pods' interfaces, the bridge

Who sends must know before a pod takes less, and not before it takes more: so the mesh is told
first of the one and last of the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from mesh.clock import Clock
from mesh.drivers.underlay import Underlay
from mesh.errors import OperatorError
from mesh.link.podmtu import Sizes, pod_mtu

log = logging.getLogger(__name__)

LOOK_INTERVAL = 2.0
"""Seconds between looks at the ways to neighbours: 0.1 ms each."""

SPREAD = 3.0
"""Seconds from telling the mesh of less until pods take less."""


class PodMtu:
    """``asked``: the operator's ``--mtu``. ``sealed``: frames may go by the sleeve for good.

    ``targets``: addresses of those who are to become neighbours, as far as they are known.
    """

    def __init__(
        self,
        asked: int | None,
        clock: Clock,
        *,
        sealed: bool,
        targets: Collection[str],
        note: Callable[..., None],
    ) -> None:
        self._asked, self._sealed, self._targets, self._note = asked, sealed, targets, note
        self._clock = clock
        self._underlay = None if asked is not None else Underlay()
        self.towards: tuple[str, int] | None = None
        """The way that bounds it: an address at its other end, and the MTU of what leads there."""
        self._sizes = Sizes(asked if asked is not None else self._look(targets))

    @property
    def value(self) -> int:
        return self._sizes.mtu

    @property
    def is_asked(self) -> bool:
        return self._asked is not None

    async def watch(
        self,
        hosts: Callable[[], Collection[str]],
        tell: Callable[[int], None],
        resize: Callable[[int], Awaitable[int]],
    ) -> None:
        """Follow the underlay, until cancelled.

        ``hosts``: addresses of neighbours. ``tell`` lets the mesh know; ``resize`` changes what is
        there already, and answers what pods take that it could not change.
        """
        told: int | None = None
        while True:
            try:
                if told != self.value:
                    told = await self._follow(told or self.value, tell, resize)
            except OperatorError as err:
                log.warning("MTU not changed", extra={"reason": err.reason, "error": str(err)})
            await asyncio.sleep(LOOK_INTERVAL)
            if self._asked is not None:
                continue
            before, found = self.value, self._look(hosts() or self._targets)
            if self._sizes.found(found, self._clock.now()):
                self._note("MTU of pods changed", mtu=self.value, before=before)

    async def _follow(
        self, told: int, tell: Callable[[int], None], resize: Callable[[int], Awaitable[int]]
    ) -> int:
        """Make it so everywhere; what the mesh was told."""
        wanted = self.value
        if wanted < told:
            tell(wanted)
            await asyncio.sleep(SPREAD)
        possible = min(wanted, await resize(wanted))
        tell(possible)
        return possible

    def _look(self, hosts: Collection[str]) -> int:
        assert self._underlay is not None
        found = [(h, mtu) for h in hosts if (mtu := self._underlay.mtu_towards(h))]
        if not found and (default := self._underlay.default_mtu()) is not None:
            found = [default]
        self.towards = min(found, key=lambda way: pod_mtu([way], sealed=self._sealed), default=None)
        return pod_mtu(found, sealed=self._sealed)

    def close(self) -> None:
        if self._underlay is not None:
            self._underlay.close()

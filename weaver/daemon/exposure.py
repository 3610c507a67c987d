"""The host's own addresses: one of each range on the bridge, and pods' way out through them.

Who drives it: ``weaver.daemon.attach``, one call at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

from ipam.effects import AllocationKey
from weaver.daemon.attach_store import AttachmentStore
from weaver.daemon.network import BRIDGE, NetworkPort
from weaver.daemon.pools import Pools

log = logging.getLogger(__name__)

EXPOSED = AllocationKey("weave:expose", BRIDGE)
"""The key of the bridge's own addresses."""


class Exposure:
    """``plain``: addresses of pods that the world sees as they are."""

    def __init__(
        self,
        pools: Pools,
        network: NetworkPort,
        store: AttachmentStore,
        plain: Callable[[], list[str]],
    ) -> None:
        self._pools, self._network, self._store, self._plain = pools, network, store, plain
        self.addresses: tuple[str, ...] = ()
        """With their prefixes, in the order of the ranges; none: not exposed."""

    @property
    def gateways(self) -> tuple[str, ...]:
        """The addresses that pods reach the world through."""
        return tuple(cidr.partition("/")[0] for cidr in self.addresses)

    async def expose(self, asked: Collection[str] = ()) -> tuple[str, ...]:
        """An address of every range, those ``asked`` for among them. Raises OperatorError; then
        what was there is as it was, or nothing is."""
        ranges, wanted = self._ranges(), [self._known(address) for address in asked]
        choices = self._pools.choose(wanted, ranges)
        if self.addresses:
            fits = set(wanted) <= set(self.gateways)
            if fits and len(self.addresses) == len(ranges):
                return self.addresses
            if not fits:
                await self.hide()
        had = self.addresses
        try:
            addresses = await self._pools.take(EXPOSED, choices)
        except BaseException:
            if not had:
                await self._pools.free(EXPOSED)
            raise
        self._store.exposed = addresses
        await self._network.expose(addresses, ranges, self._plain())
        self.addresses = addresses
        return addresses

    def _known(self, address: str) -> str:
        """Raises OperatorError for what is no address of ours."""
        pool, number = self._pools.of(address)
        return pool.range.text(number)

    async def hide(self) -> tuple[str, ...]:
        """Take them back; which they were."""
        was = self.addresses
        if was:
            await self._network.hide(was)
            await self._pools.free(EXPOSED)
            self.addresses = self._store.exposed = ()
        return was

    async def start(self) -> None:
        """As a former life left it."""
        if addresses := self._store.exposed:
            await self._network.expose(addresses, self._ranges(), self._plain())
            self.addresses = addresses

    async def put_back(self) -> None:
        """Onto a bridge that was made anew."""
        if self.addresses:
            await self._network.expose(self.addresses, self._ranges(), self._plain())

    async def mend_rules(self) -> None:
        """See that pods' way out is there, and right, while the host is exposed; and that they
        reach each other whatever others make of forwarding."""
        exposed = bool(self.addresses)
        wrong = await self._network.mend_rules(self._ranges(), self._plain(), exposed=exposed)
        if wrong is not None:
            log.warning("rules mended", extra={"reason": "rules-changed", "error": wrong})

    def _ranges(self) -> list[str]:
        return [str(range) for range in self._pools.ranges]

"""What nobody gives back: found by two looks, never by one (docs/ipam.md R23).

A runtime that dies, or forgets a pod, never says DEL. What it believes is not asked: it may be
wrong for minutes. The kernel is, which knows whether a pod's interface is there. Only what looked
the same, of the same row, at two looks that lie ``apart``, is given up, and it is looked at once
more while nobody else can work on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mesh.clock import Clock, Instant
from mesh.errors import OperatorError
from weaver.daemon.attach import EXPOSED, Attacher, host_name, try_all
from weaver.daemon.attach_store import Attachment, Key

log = logging.getLogger(__name__)

LOOK_INTERVAL = 60.0
"""Seconds between looks of our own accord."""

APART = 10.0
"""Seconds that lie between two looks at the least: an ADD that makes an interface anew takes none
of them."""

POD_GONE, UNFINISHED, NOBODYS = "pod-gone", "unfinished", "nobodys"
"""Its interface is gone, and its namespace with it · an attachment failed and could not be undone ·
an address whose key no interface, no other plugin and no operator has."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """``evidence`` is what was looked at; something else under the same key is another matter."""

    key: Key
    why: str
    addresses: tuple[str, ...]
    evidence: Attachment | tuple[str, ...]

    @property
    def is_certain(self) -> bool:
        """Whether it may be given up with no operator having said so. Addresses of keys that nobody
        knows may be those that an older version gave to an operator."""
        return self.why != NOBODYS

    @property
    def row(self) -> dict[str, Any]:
        return {
            "container": self.key[0],
            "interface": self.key[1],
            "addresses": list(self.addresses),
            "reason": self.why,
        }


class TwoLooks:
    """What was seen before, and since when it has looked the same at every look. Pure."""

    def __init__(self, apart: float = APART) -> None:
        self._apart = apart
        self.seen: dict[Key, tuple[Suspect, Instant]] = {}

    def look(self, found: Collection[Suspect], now: Instant) -> list[Suspect]:
        """Those that looked just like that long enough ago, and at every look since."""
        before = self.seen
        self.seen = {}
        for suspect in found:
            held, since = before.get(suspect.key, (None, now))
            self.seen[suspect.key] = (suspect, since if held == suspect else now)
        return [s for s, since in self.seen.values() if now >= since + self._apart]

    def forget(self) -> None:
        """A look failed: the next one is the first."""
        self.seen = {}

    def wait(self, now: Instant) -> float:
        """Seconds until a second look at all that was seen counts."""
        return max((since + self._apart - now for _, since in self.seen.values()), default=0.0)


class Present(Protocol):
    async def present(self, hosts: Collection[str]) -> frozenset[str]: ...


class Leaks:
    """``addresses``: of keys, as the allocators have them."""

    def __init__(
        self,
        attacher: Attacher,
        network: Present,
        addresses: Callable[[], Mapping[Key, tuple[str, ...]]],
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        tell: Callable[[int], None] = lambda count: None,
    ) -> None:
        """``tell`` is told how many are suspected."""
        self._attacher, self._network = attacher, network
        self._addresses, self._clock = addresses, clock
        self._sleep, self._tell = sleep, tell
        self._looks = TwoLooks()
        self._one_at_a_time = asyncio.Lock()

    @property
    def suspects(self) -> list[Suspect]:
        """Of the last look."""
        return sorted((s for s, _ in self._looks.seen.values()), key=lambda s: s.key)

    async def run(self) -> None:
        """Look now and then, and give up what is certain, until cancelled."""
        while True:
            await self._sleep(LOOK_INTERVAL)
            try:
                await self._give_up(await self._look(), only_certain=True)
            except OperatorError as err:
                log.warning("leaks not collected", extra={"reason": err.reason, "error": str(err)})

    async def collect(self, *, dry_run: bool) -> tuple[list[Suspect], list[Suspect]]:
        """Two looks, and what was given up; what is suspected still. Raises OperatorError.

        ``dry_run``: the same looks, and nothing is given up.
        """
        await self._look()
        if (wait := self._looks.wait(self._clock.now())) > 0:
            await self._sleep(wait)
        ripe = await self._look()
        if dry_run:
            return [], ripe
        given = await self._give_up(ripe, only_certain=False)
        return given, self.suspects

    async def _look(self) -> list[Suspect]:
        async with self._one_at_a_time:
            try:
                found = await self._suspected()
            except BaseException:
                self._looks.forget()
                raise
            ripe = self._looks.look(found, self._clock.now())
            self._tell(len(self.suspects))
            return ripe

    async def _suspected(self) -> list[Suspect]:
        """What looks as if nobody will ever give it back."""
        attacher, held = self._attacher, self._addresses()
        found = []
        for row in attacher.rows():
            if attacher.is_busy(row.key):
                continue
            if not row.ready:
                found.append(Suspect(row.key, UNFINISHED, held.get(row.key, ()), row))
            elif row.netns:  # else it is for a runtime that makes it anew whenever it likes
                found.append(Suspect(row.key, POD_GONE, row.addresses, row))
        known = {row.key for row in attacher.rows()} | attacher.leases()
        known.add((EXPOSED.container, EXPOSED.interface))
        found += [
            Suspect(key, NOBODYS, addresses, addresses)
            for key, addresses in held.items()
            if key not in known and not attacher.is_busy(key)
        ]
        there = await self._network.present([host_name(*suspect.key) for suspect in found])
        return [s for s in found if s.why == UNFINISHED or host_name(*s.key) not in there]

    async def _give_up(self, ripe: list[Suspect], *, only_certain: bool) -> list[Suspect]:
        """Those that were given up, each after a last look. Raises OperatorError at the end, when
        one of them could not be."""
        given: list[Suspect] = []

        async def give_up(suspect: Suspect) -> None:
            if await self._attacher.give_up(suspect.key, lambda: self._is_still_so(suspect)):
                log.info(
                    "leak collected", extra={"container": suspect.key[0], "reason": suspect.why}
                )
                given.append(suspect)
                self._looks.seen.pop(suspect.key, None)
                self._tell(len(self.suspects))

        await try_all([s for s in ripe if s.is_certain or not only_certain], give_up)
        return given

    async def _is_still_so(self, suspect: Suspect) -> bool:
        """The last look, at one of them alone, by whoever has its lock."""
        key, attacher = suspect.key, self._attacher
        row, held = attacher.row(key), self._addresses().get(key)
        if suspect.why == NOBODYS:
            if row is not None or key in attacher.leases() or held is None:
                return False
            if held != suspect.evidence:
                return False
        elif row is not suspect.evidence:
            return False
        there = await self._network.present([host_name(*key)])
        return not there or suspect.why == UNFINISHED

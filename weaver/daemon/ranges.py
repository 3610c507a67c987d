"""Every range's allocator, its store and its place in the channels: made and told together.

The first range that a state directory ever had is in ``ipam.db``, each other in a file of its own:
a range that was there once is there at every start until ``weaver reset``.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.by_range import HEAD_SIZE, ByRange, check_ranges, unwrap, wrap
from ipam.drivers.service import IpamService
from ipam.drivers.store import SqliteStore, explained, range_of
from ipam.election import CHANNEL as ELECTION
from ipam.exclusions import Exclusion
from ipam.ring import CHANNEL as RING
from mesh.clock import Clock, Instant
from mesh.crypto.identity import Identity
from mesh.errors import MalformedMessageError, OperatorError
from mesh.names import PeerName
from weaver.daemon.attach_store import Key
from weaver.daemon.pools import Pool, Pools

if TYPE_CHECKING:
    from random import Random

log = logging.getLogger(__name__)

FIRST = "ipam.db"
OTHERS = "ipam-*.db"


@dataclass(frozen=True, slots=True)
class Terms:
    """What all ranges of a host have in common."""

    electors: int
    observer: bool
    rest: float
    exclusions: tuple[Exclusion, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """One range at work."""

    range: AddressRange
    ipam: IpamService
    store: SqliteStore

    @property
    def allocator(self) -> Allocator:
        return self.ipam.allocator


class Ranges:
    """``send`` and ``publish`` are the mesh's. Raises OperatorError for a store that is none."""

    def __init__(
        self,
        directory: Path,
        ranges: tuple[AddressRange, ...],
        identity: Identity,
        rng: Random,
        clock: Clock,
        terms: Terms,
        *,
        send: Callable[[PeerName, str, bytes], None],
        publish: Callable[[str, tuple[bytes, ...]], None],
    ) -> None:
        self._directory, self._identity, self._rng = directory, identity, rng
        self._clock, self._terms = clock, terms
        self._send, self._publish = send, publish
        self.rings, self.elections = ByRange(RING), ByRange(ELECTION)
        self._named = frozenset(ranges)
        self._kept: list[Kept] = []
        self._reachable: dict[PeerName, str] = {}
        try:
            for range, path in stores(directory, ranges):
                self._keep(range, path)
        except BaseException:
            self.close()
            raise
        self.pools = Pools([Pool(kept.range, kept.ipam) for kept in self._kept])

    def __iter__(self) -> Iterator[Kept]:
        return iter(self._kept)

    @property
    def first(self) -> Kept:
        return self._kept[0]

    @property
    def for_docker(self) -> Kept:
        """A network of Docker's has one pool, of IPv4 where there is any."""
        return next((kept for kept in self._kept if kept.range.family == 4), self.first)

    def of(self, address: str) -> tuple[Kept, Address]:
        """The range of an address. Raises OperatorError."""
        pool, number = self.pools.of(address)
        return next(kept for kept in self._kept if kept.range == pool.range), number

    def _keep(self, range: AddressRange, path: Path) -> Kept:
        store = SqliteStore(path, str(self._identity.name), str(range))
        try:
            allocator = Allocator(
                self._identity,
                range,
                self._rng,
                entropy_id=os.urandom(16),
                electors=self._terms.electors,
                observer=self._terms.observer,
                stored=store.load(),
                rest=self._terms.rest,
                exclusions=self._terms.exclusions,
            )
        except MalformedMessageError as err:
            store.close()
            raise explained(path, err) from err
        except BaseException:
            store.close()
            raise
        head = range.head()
        ipam = IpamService(
            allocator,
            store,
            self._clock,
            send=lambda peer, message: self._send(peer, RING, wrap(range, message)),
            publish=lambda channel, keys: self._publish(channel, tuple(head + k for k in keys)),
        )
        kept = Kept(range, ipam, store)
        self.rings.add(range, allocator.ring)
        self.elections.add(range, allocator.election)
        self._kept.append(kept)
        return kept

    def add(self, range: AddressRange) -> Kept:
        """One more, while all others go on; kept over restarts. Raises OperatorError."""
        check_ranges([*self.pools.ranges, range])
        kept = self._keep(range, self._directory / file_name(range))
        self.pools.add(Pool(range, kept.ipam))
        kept.ipam.start(company=bool(self._reachable))
        kept.ipam.peers_changed(self._reachable)
        return kept

    # ---- life

    def start(self, *, company: bool) -> None:
        for kept in self._kept:
            kept.ipam.start(company=company)

    async def seed(self) -> None:
        """Own what nobody has divided yet, of the ranges that we were launched with: one that was
        added may have been divided among others since, who are not heard yet."""
        for kept in self._kept:
            if kept.range in self._named and not kept.allocator.ring.is_seeded:
                await kept.ipam.seed(())

    def close(self) -> None:
        for kept in self._kept:
            kept.ipam.close()
            kept.store.close()

    async def leave(self, patience: float) -> bool:
        """Hand all space over; whether all was taken in time."""
        for kept in self._kept:
            kept.ipam.leave()
        try:
            async with asyncio.timeout(patience):
                for kept in self._kept:
                    await kept.ipam.left.wait()
        except TimeoutError:
            return False
        return True

    def stay(self) -> None:
        for kept in self._kept:
            kept.ipam.stay()

    async def reclaim(
        self, peer: PeerName, *, force: bool = False, gaps: bool = False, rest: float | None = None
    ) -> None:
        """Take over a peer's space of every range. Raises OperatorError: what one range refuses,
        unless the peer just owned nothing of it and something of another."""
        refused: list[OperatorError] = []
        for kept in self._kept:
            try:
                await kept.ipam.reclaim(peer, force=force, gaps=gaps, rest=rest)
            except OperatorError as err:
                refused.append(err)
        worse = [err for err in refused if err.reason != "owns-nothing"]
        if worse or len(refused) == len(self._kept):
            raise (worse or refused)[0]

    @property
    def fault(self) -> str | None:
        """Why nothing can be written, while that is so."""
        return next((kept.ipam.fault for kept in self._kept if kept.ipam.fault is not None), None)

    # ---- what the mesh brings

    def received(self, src: PeerName, payload: bytes) -> None:
        try:
            head, message = unwrap(payload)
        except MalformedMessageError as err:
            log.warning("ipam message refused", extra={"peer": str(src), "reason": err.reason})
            return
        for kept in self._kept:
            if kept.range.head() == head:
                kept.ipam.received(src, message)
                return
        log.info("ipam message refused", extra={"peer": str(src), "reason": "range-mismatch"})

    def channel_changed(self, channel: str, keys: tuple[bytes, ...]) -> None:
        """``keys``: what changed, or was refused."""
        heads = {key[:HEAD_SIZE] for key in keys}
        for kept in self._kept:
            if kept.range.head() in heads:
                kept.ipam.channel_changed(channel)

    def peers_changed(self, reachable: dict[PeerName, str]) -> None:
        self._reachable = reachable
        for kept in self._kept:
            kept.ipam.peers_changed(reachable)

    def doubted(self) -> None:
        for kept in self._kept:
            kept.ipam.doubted()

    def cloned(self, *, still: bool = True) -> None:
        for kept in self._kept:
            if still != (kept.allocator.fence is not None):
                kept.ipam.cloned(still=still)

    # ---- what is there

    def addresses(self) -> dict[Key, tuple[str, ...]]:
        """Of every key that has one, with their prefixes, in the order of the ranges."""
        found: dict[Key, tuple[str, ...]] = {}
        for kept in self._kept:
            for key, address in kept.allocator.allocations.items():
                name = key.container, key.interface
                found[name] = (*found.get(name, ()), kept.range.cidr(address))
        return found

    def suspected(self, count: int) -> None:
        """How many addresses seem to leak here: other peers are told when they ask."""
        self.first.allocator.leaks = count

    def now(self) -> Instant:
        return self._clock.now()


def file_name(range: AddressRange) -> str:
    """Of the store of a range that is not the first: ``ipam-fd00.10..-64.db``."""
    return f"ipam-{str(range).replace('/', '-').replace(':', '.')}.db"


def stores(directory: Path, ranges: tuple[AddressRange, ...]) -> list[tuple[AddressRange, Path]]:
    """The ranges of a host and their files: those it was launched with, in their order, then those
    that were added to it. Raises OperatorError."""
    first = directory / FIRST
    home = range_of(first)
    if home is not None and home not in map(str, ranges):
        # The store says so in its own words.
        return [(ranges[0], first)]
    if home is None:
        home = str(ranges[0])
    found = [
        (range, first if str(range) == home else directory / file_name(range)) for range in ranges
    ]
    known = {path for _, path in found}
    for path in sorted(directory.glob(OTHERS)):
        if path not in known:
            text = range_of(path)
            if text is None:
                raise OperatorError(f"{path} is damaged", "store-corrupt")
            found.append((AddressRange.parse(text), path))
    check_ranges([range for range, _ in found])
    return found

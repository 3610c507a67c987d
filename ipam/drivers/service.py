"""The allocator on asyncio: requests that wait together share one transaction.

Nothing is answered, sent or published before what it rests on is durable. The service knows no
router: it is given ``send`` and ``publish``, and told what comes in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from ipam.address import Address
from ipam.allocator import Allocator
from ipam.batch import Batch
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Change,
    Left,
    LostAddress,
    Publish,
    Refused,
    SendTo,
    Surveyed,
)
from mesh.clock import Clock, Instant, Timer
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError, OperatorError
from mesh.names import PeerName

log = logging.getLogger(__name__)


Result = Allocated | Surveyed
Ask = Callable[[int, Instant], list[AllocatorEffect]]


class Store(Protocol):
    def apply(self, changes: list[Change]) -> None: ...


class IpamService:
    """One allocator's face to the daemon. ``send`` and ``publish`` are the mesh's."""

    def __init__(
        self,
        allocator: Allocator,
        store: Store,
        clock: Clock,
        *,
        send: Callable[[PeerName, bytes], None],
        publish: Callable[[str, tuple[bytes, ...]], None],
    ) -> None:
        self.allocator, self._store, self._clock = allocator, store, clock
        self._send, self._publish = send, publish
        self._answers: dict[int, asyncio.Future[Result]] = {}
        self._request = 0
        self._timer: Timer | None = None
        self._batch = Batch(allocator)
        self._scheduled = False
        self.lost: list[LostAddress] = []
        self.left = asyncio.Event()
        self.fault: str | None = None
        """Why nothing can be written, while that is so."""

    # ---- requests

    async def allocate(self, key: AllocationKey) -> Address:
        """The key's address. Raises OperatorError with the allocator's reason."""
        address = await self._ask(lambda n, now: self.allocator.allocate(n, key, now))
        assert address is not None
        return address

    async def claim(self, key: AllocationKey, address: Address, *, force: bool = False) -> Address:
        """``force``: also one that is excluded here."""
        claimed = await self._ask(
            lambda n, now: self.allocator.claim(n, key, address, now, force=force)
        )
        assert claimed is not None
        return claimed

    async def free(self, key: AllocationKey) -> Address | None:
        """The address that the key had, if any."""
        return await self._ask(lambda n, now: self.allocator.free(n, key, now))

    def holds(self, key: AllocationKey) -> bool:
        return key in self.allocator.allocations

    async def reclaim(
        self,
        peer: PeerName,
        *,
        force: bool = False,
        gaps: bool = False,
        rest: float | None = None,
    ) -> None:
        """``force``: whoever says that it is gone knows. ``gaps``: what nobody owns, too.
        ``rest``: seconds before anything of it is given out, if not as many as usual."""
        await self._ask(
            lambda n, now: self.allocator.reclaim(n, peer, now, force=force, gaps=gaps, rest=rest)
        )

    async def resolve(self, address: Address) -> None:
        """Say that what we hold of a disputed range is ours."""
        await self._ask(lambda n, now: self.allocator.resolve(n, address, now))

    async def survey(self) -> Surveyed:
        """What every peer in reach says of its addresses; it takes three seconds at the most."""
        result = await self._asked(self.allocator.survey)
        assert isinstance(result, Surveyed)
        return result

    def start(self, *, company: bool) -> None:
        """The mesh is about to begin. ``company``: there are others, as far as anybody knows."""
        self._take(self.allocator.start(self._clock.now(), company=company))

    def cloned(self, *, still: bool = True) -> None:
        """Another host has our identity, or has it no more."""
        self._take(self.allocator.cloned(self._clock.now(), still=still))

    def doubted(self) -> None:
        """A peer refused us as a clone."""
        self._take(self.allocator.doubted(self._clock.now()))

    async def seed(self, owners: tuple[PeerName, ...]) -> None:
        await self._ask(lambda n, now: self.allocator.seed(n, owners, now))

    def leave(self) -> None:
        """Begin to hand our space over; ``left`` is set when that is done."""
        self.left.clear()
        self._take(self.allocator.leave(self._clock.now()))

    def stay(self) -> None:
        """Leaving took too long: go on as before."""
        self._take(self.allocator.stay(self._clock.now()))

    # ---- what the mesh says

    def received(self, src: PeerName, payload: bytes) -> None:
        try:
            self._take(self.allocator.receive(src, payload, self._clock.now()))
        except MalformedMessageError as err:
            log.warning("ipam message refused", extra={"peer": src, "reason": err.reason})

    def channel_changed(self, channel: str) -> None:
        self._take(self.allocator.channel_changed(channel, self._clock.now()))

    def peers_changed(self, reachable: dict[PeerName, str]) -> None:
        self._take(self.allocator.peers(reachable, self._clock.now()))

    # ---- inside

    async def _ask(self, ask: Ask) -> Address | None:
        result = await self._asked(ask)
        assert isinstance(result, Allocated)
        return result.address

    async def _asked(self, ask: Ask) -> Result:
        self._request += 1
        number = self._request
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        self._take(ask(number, self._clock.now()))
        try:
            return await answer
        finally:
            self._answers.pop(number, None)

    def _take(self, effects: list[AllocatorEffect]) -> None:
        """Collect effects; perform them at the end of this turn of the loop, together."""
        self._batch.add(effects)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._perform)

    def _perform(self) -> None:
        self._scheduled = False
        batch = self._batch
        try:
            if batch.changes:
                self._store.apply(batch.changes)
        except OperatorError as err:
            self.fault = err.reason
            log.error("ipam store failed", extra={"reason": err.reason, "error": str(err)})
            effects = batch.failed(err.reason)
        else:
            self.fault = None
            effects = batch.written()
        for effect in effects:
            self._perform_one(effect)

    def _perform_one(self, effect: AllocatorEffect) -> None:
        match effect:
            case Answer(request, result):
                self._answer(request, result)
            case SendTo(peer, message):
                self._send(peer, message)
            case Publish(channel, keys):
                self._publish(channel, keys)
            case Arm(deadline):
                self._arm(deadline)
            case Notify(LostAddress() as lost):
                self.lost.append(lost)
                log.error(
                    "address lost to another peer",
                    extra={"container": lost.key.container, "reason": "address-lost"},
                )
            case Notify(Left()):
                self.left.set()
            case _:
                return  # Persist: the batch has done it

    def _answer(self, request: int, result: Result | Refused) -> None:
        answer = self._answers.get(request)
        if answer is None or answer.done():
            return
        if isinstance(result, Refused):
            reason = result.reason
            answer.set_exception(OperatorError(f"ipam refused: {reason}", reason))
        else:
            answer.set_result(result)

    def _arm(self, deadline: Instant | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            self._timer = self._clock.call_at(deadline, self._fire)

    def _fire(self) -> None:
        self._timer = None
        self._take(self.allocator.handle_timer(self._clock.now()))

    def close(self) -> None:
        self._arm(None)

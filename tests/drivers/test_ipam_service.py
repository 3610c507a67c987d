"""The allocator on asyncio: nothing is answered before it is durable."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.drivers.service import IpamService
from ipam.effects import AllocationKey, Change, SetAllocation
from mesh.crypto.identity import Identity
from mesh.drivers.clock import LoopClock
from mesh.errors import OperatorError
from mesh.names import PeerName


class Recorder:
    """A store that counts its transactions and fails when told to."""

    def __init__(self) -> None:
        self.transactions: list[list[Change]] = []
        self.broken = False

    def apply(self, changes: list[Change]) -> None:
        if self.broken:
            raise OperatorError("the disk is full", "store-full")
        self.transactions.append(list(changes))

    @property
    def addresses(self) -> set[Address]:
        return {
            c.address for batch in self.transactions for c in batch if isinstance(c, SetAllocation)
        }


def service(store: Recorder) -> IpamService:
    identity = Identity.from_seed(b"1" * 32)
    allocator = Allocator(
        identity, AddressRange.parse("10.0.0.0/24"), Random(1), entropy_id=b"c" * 16
    )

    def send(peer: PeerName, message: bytes) -> None:
        raise AssertionError(f"alone, and still told {peer} {message!r}")

    return IpamService(
        allocator,
        store,
        LoopClock(asyncio.get_running_loop()),
        send=send,
        publish=lambda _channel, _keys: None,
    )


def key(n: int) -> AllocationKey:
    return AllocationKey(f"c{n}", "eth0")


async def test_requests_that_wait_together_share_a_transaction() -> None:
    store = Recorder()
    ipam = service(store)
    await ipam.allocate(key(0))
    before = len(store.transactions)
    found = await asyncio.gather(*(ipam.allocate(key(n)) for n in range(1, 101)))
    assert len(set(found)) == 100
    assert len(store.transactions) == before + 1
    ipam.close()


async def test_one_key_has_one_address() -> None:
    ipam = service(Recorder())
    first = await ipam.allocate(key(1))
    assert await ipam.allocate(key(1)) == first
    assert await ipam.free(key(1)) == first
    assert await ipam.free(key(1)) is None
    assert await ipam.allocate(key(2)) != first, "a freed address rests"
    ipam.close()


async def test_a_write_that_fails_answers_nobody_until_it_is_made_good() -> None:
    store = Recorder()
    ipam = service(store)
    await ipam.allocate(key(0))
    store.broken = True
    for _ in range(2):
        with pytest.raises(OperatorError) as caught:
            await ipam.allocate(key(1))
        assert caught.value.reason == "store-full"
    assert ipam.fault == "store-full"
    store.broken = False
    address = await ipam.allocate(key(1))
    assert address in store.addresses, "answered, and not durable"
    assert ipam.fault is None
    ipam.close()


async def test_claims() -> None:
    ipam = service(Recorder())
    await ipam.allocate(key(0))
    wanted = ipam.allocator.range.number("10.0.0.77")
    assert await ipam.claim(key(1), wanted) == wanted
    start = ipam.allocator.range.start
    for bad, reason in ((wanted, "address-in-use"), (start, "address-reserved")):
        with pytest.raises(OperatorError) as caught:
            await ipam.claim(key(2), bad)
        assert caught.value.reason == reason
    ipam.close()


async def test_a_range_runs_out_and_says_so() -> None:
    ipam = service(Recorder())
    found = await asyncio.gather(*(ipam.allocate(key(n)) for n in range(254)))
    assert len(set(found)) == 254
    loop = asyncio.get_running_loop()
    waiting = loop.create_task(ipam.allocate(key(999)))
    await asyncio.sleep(0)
    assert not waiting.done()
    freed = await ipam.free(key(3))
    assert freed is not None
    assert not waiting.done(), "a freed address rests first"
    waiting.cancel()
    ipam.close()

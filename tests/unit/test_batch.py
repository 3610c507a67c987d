"""What must be durable before what. ipam.md R20."""

from __future__ import annotations

from random import Random

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.batch import Batch
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Persist,
    Publish,
    Refused,
    SetAllocation,
)
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.effects import Arm

RANGE = AddressRange.parse("10.32.0.0/24")
CHANGE = SetAllocation(AllocationKey("c", "eth0"), Address(RANGE.start + 1))
TOLD = Publish("ipam", (b"key",))
EFFECTS: list[AllocatorEffect] = [
    Persist((CHANGE,)),
    Answer(1, Allocated(CHANGE.address)),
    Answer(2, Refused("no-space")),
    TOLD,
    Arm(Instant(7.0)),
]


def batch() -> Batch:
    identity = Identity.from_seed(b"b" * 32)
    return Batch(Allocator(identity, RANGE, Random(1), entropy_id=b"c" * 16))


def test_what_was_written_is_performed_in_order() -> None:
    one = batch()
    one.add(list(EFFECTS))
    assert one.changes == [CHANGE]
    assert one.written() == EFFECTS[1:]
    assert one.changes == []
    assert one.written() == []


def test_what_was_not_written_is_neither_said_nor_given_and_time_goes_on() -> None:
    one = batch()
    one.add(list(EFFECTS))
    refused = Answer(1, Refused("store-full"))
    assert one.failed("store-full") == [refused, EFFECTS[2], Arm(Instant(7.0))]
    assert one.changes == [CHANGE], "in memory it has happened: the next write has it too"
    one.add([Answer(3, Allocated(None))])
    assert one.failed("store-full") == [Answer(3, Refused("store-full"))]
    one.add([Answer(4, Allocated(None))])
    assert one.written() == [Answer(4, Allocated(None))]
    assert one.changes == []

"""Ranges and their stores: which file holds which, whatever the order, and over restarts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from ipam.address import AddressRange
from ipam.drivers.store import range_of
from ipam.effects import AllocationKey
from mesh.crypto.identity import Identity
from mesh.drivers.clock import LoopClock
from mesh.errors import OperatorError
from mesh.names import PeerName
from weaver.daemon.ranges import Ranges, Terms, file_name

FOUR, SIX, THIRD = (
    AddressRange.parse(text) for text in ("10.32.0.0/24", "fd00:10:32::/64", "10.96.0.0/24")
)
ONE, TWO = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
KEY = AllocationKey("web", "eth0")


class Mesh:
    """What two hosts say to each other arrives at once."""

    def __init__(self) -> None:
        self.hosts: dict[PeerName, Ranges] = {}

    def start(self, directory: Path, *ranges: AddressRange, identity: Identity = ONE) -> Ranges:
        us = identity.name

        def send(peer: PeerName, channel: str, payload: bytes) -> None:
            assert channel == "ipam"
            if peer in self.hosts:
                asyncio.get_running_loop().call_soon(self.hosts[peer].received, us, payload)

        def publish(channel: str, keys: tuple[bytes, ...]) -> None:
            made = self.hosts[us]
            source = made.rings if channel == "ipam" else made.elections
            for peer, other in self.hosts.items():
                if peer != us:
                    part = other.rings if channel == "ipam" else other.elections
                    merged = part.merge(source.items(keys), us, made.now())
                    refused = tuple(r.key for r in merged.rejected)
                    other.channel_changed(channel, (*merged.news, *refused))

        directory.mkdir(exist_ok=True)
        made = Ranges(
            directory,
            ranges,
            identity,
            Random(1),
            LoopClock(asyncio.get_running_loop()),
            Terms(electors=1, observer=False, rest=60.0, exclusions=()),
            send=send,
            publish=publish,
        )
        self.hosts[us] = made
        made.start(company=False)
        return made

    def meet(self) -> None:
        for us, host in self.hosts.items():
            host.peers_changed({peer: "p" for peer in self.hosts if peer != us})


@pytest.fixture
async def mesh() -> Mesh:
    return Mesh()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("*.db"))


async def taken(ranges: Ranges, *texts: str) -> tuple[str, ...]:
    return await ranges.pools.take(KEY, ranges.pools.choose((), texts))


async def test_each_range_has_a_file_and_keeps_it_in_any_order(mesh: Mesh, tmp_path: Path) -> None:
    ranges = mesh.start(tmp_path, FOUR, SIX)
    given = await taken(ranges)
    assert len(given) == 2
    ranges.close()
    assert files(tmp_path) == [file_name(SIX), "ipam.db"]
    assert range_of(tmp_path / "ipam.db") == str(FOUR)
    for order in ((SIX, FOUR), (FOUR, SIX)):
        again = mesh.start(tmp_path, *order)
        assert again.for_docker.range == FOUR
        assert again.pools.ranges == list(order)
        assert set(again.addresses()[KEY.container, KEY.interface]) == set(given)
        again.close()
    assert len(files(tmp_path)) == 2


async def test_a_range_that_was_added_is_there_after_a_restart(mesh: Mesh, tmp_path: Path) -> None:
    ranges = mesh.start(tmp_path, FOUR)
    assert await taken(ranges) == ("10.32.0.1/24",)
    ranges.add(SIX)
    assert await taken(ranges) == ("10.32.0.1/24", "fd00:10:32::1/64")
    ranges.add(THIRD)
    assert await taken(ranges, str(THIRD)) == ("10.96.0.1/24",)
    for wrong in (THIRD, AddressRange.parse("10.0.0.0/8")):
        with pytest.raises(OperatorError) as caught:
            ranges.add(wrong)
        assert caught.value.reason == "bad-range"
    ranges.close()
    again = mesh.start(tmp_path, FOUR)
    assert again.pools.ranges == [FOUR, THIRD, SIX]
    assert len(again.addresses()[KEY.container, KEY.interface]) == 3
    assert len(await again.pools.free(KEY)) == 3
    again.close()


async def test_only_ranges_that_were_named_are_seeded(mesh: Mesh, tmp_path: Path) -> None:
    """--seed: an added range may have been divided elsewhere while we were away."""
    first = mesh.start(tmp_path, FOUR)
    first.add(SIX)
    first.close()
    again = mesh.start(tmp_path, FOUR)
    await again.seed()
    assert [kept.allocator.ring.is_seeded for kept in again] == [True, False]
    again.close()


async def test_the_first_range_is_not_exchanged_for_another(mesh: Mesh, tmp_path: Path) -> None:
    mesh.start(tmp_path, FOUR).close()
    for ranges in ((SIX,), (SIX, THIRD)):
        with pytest.raises(OperatorError) as caught:
            mesh.start(tmp_path, *ranges)
        assert caught.value.reason == "range-changed"
    assert files(tmp_path) == ["ipam.db"]
    mesh.start(tmp_path, SIX, FOUR).close()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _junk(path: Path) -> None:
    path.write_bytes(b"junk" * 5000)


def _nonsense(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = x'ff' WHERE key = 'range'")
    db.close()


@pytest.mark.parametrize("damage", [_empty, _junk, _nonsense])
@pytest.mark.parametrize("which", ["ipam.db", file_name(SIX)])
async def test_a_damaged_store_of_any_range_stops_the_start_and_is_left_as_it_is(
    mesh: Mesh, tmp_path: Path, damage: Callable[[Path], None], which: str
) -> None:
    mesh.start(tmp_path, FOUR, SIX).close()
    damage(tmp_path / which)
    before = (tmp_path / which).read_bytes()
    for ranges in ((FOUR, SIX), (FOUR,)):
        with pytest.raises(OperatorError) as caught:
            mesh.start(tmp_path, *ranges)
        assert caught.value.reason in ("store-corrupt", "range-changed")
        assert (tmp_path / which).read_bytes() == before


async def test_hosts_share_each_range_whatever_their_order(mesh: Mesh, tmp_path: Path) -> None:
    """R24: nobody makes a second ring of a range, and each asks for space of the right one."""
    one = mesh.start(tmp_path / "one", FOUR, SIX)
    first = await taken(one)
    two = mesh.start(tmp_path / "two", SIX, FOUR, identity=TWO)
    for channel, ours, theirs in (
        ("ipam", one.rings, two.rings),
        ("ipam-election", one.elections, two.elections),
    ):
        keys = tuple(ours.digest())
        theirs.merge(ours.items(keys), ONE.name, one.now())
        two.channel_changed(channel, keys)
    mesh.meet()
    second = await taken(two)
    assert len(set(first) | set(second)) == 4
    for kept, other in zip(one, reversed(list(two)), strict=True):
        assert kept.range == other.range
        survey = await kept.ipam.survey()
        assert survey.silent == ()
        assert survey.reports[ONE.name].ring == survey.reports[TWO.name].ring
        assert survey.reports[TWO.name].used == 1
    one.close()
    two.close()


async def test_a_host_that_has_not_a_range_says_nothing_of_it(mesh: Mesh, tmp_path: Path) -> None:
    one = mesh.start(tmp_path / "one", FOUR, SIX)
    two = mesh.start(tmp_path / "two", FOUR, identity=TWO)
    await taken(one)
    mesh.meet()
    kept = {kept.range: kept for kept in one}
    assert (await kept[FOUR].ipam.survey()).silent == ()
    assert (await kept[SIX].ipam.survey()).silent == (TWO.name,)
    two.received(ONE.name, b"short")
    two.received(ONE.name, SIX.head() + b"\x01\0\0\0\x01")
    assert list(two.pools.ranges) == [FOUR]
    one.close()
    two.close()


async def test_what_is_taken_over_is_of_all_ranges(mesh: Mesh, tmp_path: Path) -> None:
    one = mesh.start(tmp_path / "one", FOUR, SIX)
    await taken(one)
    two = mesh.start(tmp_path / "two", FOUR, SIX, identity=TWO)
    keys = tuple(one.rings.digest())
    two.rings.merge(one.rings.items(keys), ONE.name, one.now())
    two.channel_changed("ipam", keys)
    one.close()
    del mesh.hosts[ONE.name]
    await two.reclaim(ONE.name, force=True)
    assert [kept.allocator.space.size for kept in two] == [FOUR.size, SIX.size]
    with pytest.raises(OperatorError) as caught:
        await two.reclaim(ONE.name, force=True)
    assert caught.value.reason == "owns-nothing"
    two.close()


@pytest.fixture(autouse=True)
def _no_stray_files(tmp_path: Path) -> Iterator[None]:
    yield
    left = [p.name for p in tmp_path.rglob("*.db*") if not p.name.endswith((".db", "-wal", "-shm"))]
    assert left == []

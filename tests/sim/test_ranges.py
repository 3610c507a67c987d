"""docs/ipam.md R24: two ranges on hosts that list them in any order, of which one lacks one.

What is said is lost, late and out of order; hosts die and come back from their disks. In each range
an address has one holder and one owner, and in the end all that have a range have one ring of it.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.batch import Batch
from ipam.by_range import HEAD_SIZE, ByRange, unwrap, wrap
from ipam.effects import (
    Allocated,
    AllocationKey,
    AllocatorEffect,
    Answer,
    Publish,
    SendTo,
)
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.gossip.channel import Item
from mesh.names import PeerName
from tests.store_twin import MemoryStore

FOUR, SIX = AddressRange.parse("10.32.0.0/28"), AddressRange.parse("fd00:32::/124")
CHANNELS = ("ipam", "ipam-election")
HOSTS = [(FOUR, SIX), (SIX, FOUR), (FOUR, SIX), (FOUR,)]
STEPS = 150


class Host:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.identity = Identity.from_seed(bytes([number + 1]) * 32)
        self.disks = {range: MemoryStore() for range in HOSTS[number]}
        self.granted: dict[tuple[AddressRange, AllocationKey], Address] = {}
        self.asked: dict[tuple[AddressRange, int], AllocationKey] = {}
        self.count = 0
        self.start()

    def start(self) -> None:
        self.cores: dict[AddressRange, Allocator] = {}
        self.batches: dict[AddressRange, Batch] = {}
        self.channels = {name: ByRange(name) for name in CHANNELS}
        self.asked.clear()
        for range in HOSTS[self.number]:
            core = Allocator(
                self.identity,
                range,
                Random(self.world.rng.getrandbits(32)),
                entropy_id=self.world.rng.randbytes(16),
                electors=3,
                stored=self.disks[range].stored(),
                rest=1.0,
            )
            self.cores[range], self.batches[range] = core, Batch(core)
            self.channels["ipam"].add(range, core.ring)
            self.channels["ipam-election"].add(range, core.election)
            self.perform(range, core.start(self.world.now))
        self.see()

    def see(self) -> None:
        others = {h.identity.name: "h" for h in self.world.hosts if h is not self}
        for range, core in self.cores.items():
            self.perform(range, core.peers(others, self.world.now))

    def perform(self, range: AddressRange, effects: list[AllocatorEffect]) -> None:
        batch = self.batches[range]
        batch.add(effects)
        self.disks[range].write(batch.changes)
        for effect in batch.written():
            match effect:
                case SendTo(peer, message):
                    self.world.say(self, peer, wrap(range, message))
                case Publish(channel, keys):
                    self.world.gossip(self, channel, [range.head() + key for key in keys])
                case Answer(request, Allocated(address)) if address is not None:
                    key = self.asked.pop((range, request), None)
                    if key is not None:
                        self.granted[range, key] = address
                        self.world.check()
                case _:
                    continue

    def hear(self, src: PeerName, data: bytes) -> None:
        head, message = unwrap(data)
        for range, core in self.cores.items():
            if range.head() == head:
                self.perform(range, core.receive(src, message, self.world.now))

    def merge(self, src: Host, channel: str, items: list[Item]) -> None:
        merged = self.channels[channel].merge(items, src.identity.name, self.world.now)
        self.world.refused.update(r.reason for r in merged.rejected)
        heads = {key[:HEAD_SIZE] for key in (*merged.news, *(r.key for r in merged.rejected))}
        for range, core in self.cores.items():
            if range.head() in heads:
                self.perform(range, core.channel_changed(channel, self.world.now))
        if merged.news:
            self.world.gossip(self, channel, list(merged.news))

    def allocate(self, range: AddressRange) -> None:
        self.count += 1
        key = AllocationKey(f"c{self.number}-{self.count}", "eth0")
        self.asked[range, self.count] = key
        core = self.cores[range]
        self.perform(range, core.allocate(self.count, key, self.world.now))

    def free(self, range: AddressRange) -> None:
        held = [key for at, key in self.granted if at == range]
        if held:
            key = self.world.rng.choice(held)
            del self.granted[range, key]
            self.count += 1
            self.perform(range, self.cores[range].free(self.count, key, self.world.now))


class World:
    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now = Instant(1.0)
        self.loss = 0.2
        self.hosts: list[Host] = []
        self.refused: Counter[str] = Counter()
        self._late: list[tuple[str, Host, Host, object]] = []
        for number in range(len(HOSTS)):
            self.hosts.append(Host(self, number))
        for host in self.hosts:
            host.see()

    def say(self, src: Host, peer: PeerName, data: bytes) -> None:
        for host in self.hosts:
            if host.identity.name == peer and self.rng.random() >= self.loss:
                self._late.append(("", src, host, data))

    def gossip(self, src: Host, channel: str, keys: list[bytes]) -> None:
        for host in self.hosts:
            if host is not src and self.rng.random() >= self.loss:
                self._late.append((channel, src, host, src.channels[channel].items(keys)))

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.rng.shuffle(self._late)
            late, self._late = self._late, []
            for channel, src, host, what in late:
                if channel:
                    host.merge(src, channel, what)  # type: ignore[arg-type]
                else:
                    host.hear(src.identity.name, what)  # type: ignore[arg-type]
                self.check()
            self.now = Instant(self.now + 0.1)
            for host in self.hosts:
                for at, core in list(host.cores.items()):
                    host.perform(at, core.handle_timer(self.now))
            if self.rng.random() < 0.1:
                self.compare()

    def compare(self) -> None:
        """Digests of two: what either has newer goes over."""
        one, other = self.rng.sample(self.hosts, 2)
        for channel in CHANNELS:
            for src, dst in ((one, other), (other, one)):
                mine, theirs = src.channels[channel].digest(), dst.channels[channel].digest()
                newer = [key for key, stamp in mine.items() if stamp > theirs.get(key, -1)]
                if newer:
                    items = src.channels[channel].items(newer)
                    self._late.append((channel, src, dst, items))

    def check(self) -> None:
        for range_ in (FOUR, SIX):
            having = [host for host in self.hosts if range_ in host.cores]
            owned = [(start, end) for h in having for start, end in h.cores[range_].space.slices]
            owned.sort()
            for (_, end), (start, _) in pairwise(owned):
                assert end <= start, f"two own {range_.text(start)}"
            held = [a for h in having for (at, _), a in h.granted.items() if at == range_]
            assert len(held) == len(set(held)), f"an address of {range_} twice"


@pytest.mark.parametrize("seed", range(12))
def test_two_ranges_in_a_mesh_that_loses_things(seed: int) -> None:
    world = World(seed)
    for _ in range(STEPS):
        host = world.rng.choice(world.hosts)
        match world.rng.choice("aaaafffkr"):
            case "a":
                host.allocate(world.rng.choice(list(host.cores)))
            case "f":
                host.free(world.rng.choice(list(host.cores)))
            case "k" if world.rng.random() < 0.3:
                host.start()
            case _:
                world.run(world.rng.choice([0.1, 0.5, 2.0]))
        world.check()
    world.loss = 0.0
    world.run(45.0)
    rings = {
        at: [host.cores[at].ring for host in world.hosts if at in host.cores] for at in (FOUR, SIX)
    }
    assert [len(made) for made in rings.values()] == [4, 3]
    for at, made in rings.items():
        assert all(ring.is_seeded for ring in made), at
        first = made[0]
        assert all(ring.digest() == first.digest() for ring in made), at
        assert first.gaps() == []
    assert world.refused["range-mismatch"], "the host that lacks a range never heard of it"
    last = world.hosts[1]
    before = len(last.granted)
    for at in last.cores:
        last.allocate(at)
    world.run(40.0)
    full = [
        at
        for at in (FOUR, SIX)
        if sum(a == at for h in world.hosts for a, _ in h.granted) >= at.size - 2
    ]
    assert len(last.granted) - before + len(full) >= len(last.cores)

"""A peer that is let in and then lies: of others, of itself, of the ring, in its octets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipam.address import Address
from ipam.slices import Slice, encode_slice, sign_slice
from mesh.crypto.identity import Identity
from mesh.names import PeerName
from mesh.topology.record import Record
from mesh.wire import gossip as wire
from mesh.wire.control import Gossiped, Unicast
from tests.sim.host import SimHost
from tests.sim.mesh import SimMesh


class Liars:
    """Four honest hosts and a liar, all connected and settled."""

    def __init__(self) -> None:
        self.mesh = SimMesh(3, peers=5)
        self.mesh.join()
        self.mesh.allocate(self.mesh.hosts[0])
        self.mesh.settle(within=60)
        *self.honest, self.liar = self.mesh.hosts
        self.links = {h.address: len(h.router.neighbours.by_peer) for h in self.honest}

    def tell(self, body: bytes) -> None:
        """The liar says this to every neighbour."""
        self.liar.perform([])
        for peer in list(self.liar.router.neighbours.by_peer):
            self.liar.router.neighbours.send(peer, Gossiped(body))
        self.flush()

    def flush(self) -> None:
        router = self.liar.router
        self.liar.perform(router._finish())
        self.mesh.run(2.0)

    def items(self, channel: str, *items: tuple[bytes, int, bytes]) -> None:
        self.tell(wire.encode(wire.Items(channel, items)))

    def assert_healthy(self) -> None:
        """Every honest host has its connections and its view, and the mesh still works."""
        for host in self.honest:
            assert len(host.router.neighbours.by_peer) == self.links[host.address]
        self.mesh.settle(within=60)
        self.mesh.allocate(self.honest[1])
        self.mesh.run(3)
        self.mesh.assert_addresses()

    def counted(self, host: SimHost, reason: str) -> int:
        return host.router.hub.counters[reason]


@pytest.fixture
def liars() -> Liars:
    return Liars()


def victim_record(liars: Liars) -> Record:
    return liars.liar.router.topology.records[liars.honest[0].name]


def test_an_altered_record_of_another_dies_at_the_first_honest_peer(liars: Liars) -> None:
    """protocol.md 7.2: a record whose signature does not hold MUST be refused, never relayed."""
    record = victim_record(liars)
    forged = replace(record, nickname="mine", version=record.version + 100)
    liars.items("topology", (record.name.octets, forged.stamp, forged.encode()))
    for host in liars.honest:
        assert host.router.topology.records[record.name].nickname != "mine"
    assert any(liars.counted(host, "bad-signature") for host in liars.honest[1:])
    liars.assert_healthy()


def test_a_record_under_a_name_that_is_not_its_keys(liars: Liars) -> None:
    own = liars.liar.router.topology.own
    liars.items("topology", (liars.honest[0].name.octets, own.stamp + (1 << 80), own.encode()))
    assert any(liars.counted(host, "mislabelled") for host in liars.honest)
    liars.assert_healthy()


def test_a_version_used_twice_stays_what_it_was_first(liars: Liars) -> None:
    liar = liars.liar
    own = liar.router.topology.own
    other = replace(own, nickname="two-faced").signed(liar.identity)
    liars.items("topology", (own.name.octets, other.stamp, other.encode()))
    for host in liars.honest:
        assert host.router.topology.records[liar.name].nickname == own.nickname
    liars.assert_healthy()


def test_garbage_on_every_channel_costs_the_liar_nothing_and_us_neither(liars: Liars) -> None:
    for body in (b"", b"\xff" * 300, b"\x04\x00\x08topology\xff\xff\xff\xff", bytes(1000)):
        liars.tell(body)
    assert all(liars.counted(host, "malformed-message") for host in liars.honest)
    liars.assert_healthy()


def test_a_channel_full_of_invented_keys_is_bounded(liars: Liars) -> None:
    """protocol.md 6.6: what surrogates hold MUST be bounded."""
    for batch in range(12):
        entries = tuple(((batch * 1000 + n).to_bytes(8, "big"), 1, bytes(20)) for n in range(1000))
        liars.items("invented", *entries)
    for host in liars.honest:
        sizes = {s.channel: s.items for s in host.router.rumours.engine.status()}
        assert 0 < sizes["invented"] <= 10_000
    liars.assert_healthy()


def test_somebody_elses_slice_is_not_taken_by_saying_so(liars: Liars) -> None:
    """protocol.md 12.1: what we own, no slice of another issuer changes."""
    victim = liars.honest[0]
    ring = liars.mesh.ipams[victim.address].core.ring
    held = ring.owned(victim.name)[0]
    assert ring.id is not None
    stolen = Slice(held.start, held.end, liars.liar.name, held.version + 5)
    signed = sign_slice(ring.id, stolen, liars.liar.identity)
    liars.items("ipam", (signed.key, signed.stamp, encode_slice(ring.id, signed)))
    assert ring.slices[held.start].owner == victim.name
    assert liars.counted(victim, "slice-forged")
    liars.assert_healthy()


def test_a_slice_outside_the_range(liars: Liars) -> None:
    ring = liars.mesh.ipams[liars.honest[0].address].core.ring
    assert ring.id is not None
    wild = Slice(Address(1), Address(2), liars.liar.name, 1)
    signed = sign_slice(ring.id, wild, liars.liar.identity)
    liars.items("ipam", (signed.key, signed.stamp, encode_slice(ring.id, signed)))
    assert all(Address(1) not in liars.mesh.ipams[h.address].core.ring.slices for h in liars.honest)
    liars.assert_healthy()


def test_a_unicast_in_anothers_name_is_not_delivered(liars: Liars) -> None:
    """protocol.md 4.5: a unicast whose signature does not hold MUST be dropped."""
    source, target = liars.honest[0], liars.honest[1]
    forged = Unicast(
        hops=8,
        src=source.name,
        uid=victim_record(liars).uid,
        sequence=10**6,
        dst=target.name,
        channel="ipam",
        payload=b"\x01\x00\x00\x00\x01",
        signature=bytes(64),
    )
    liars.liar.router.neighbours.send(target.name, forged)
    liars.flush()
    assert liars.counted(target, "bad-signature")
    liars.assert_healthy()


def test_invented_peers_do_not_stay(liars: Liars) -> None:
    """protocol.md 7.5: records of the unreachable MUST be collected."""
    rng = liars.mesh.rng
    invented: list[PeerName] = []
    entries = []
    for _ in range(40):
        identity = Identity.from_seed(rng.randbytes(32))
        own = liars.liar.router.topology.own
        record = replace(own, public_key=identity.public_key, edges=()).signed(identity)
        invented.append(identity.name)
        entries.append((identity.name.octets, record.stamp, record.encode()))
    liars.items("topology", *entries)
    liars.mesh.run(200.0)
    for host in liars.honest:
        assert not set(invented) & set(host.router.topology.records)
    liars.assert_healthy()

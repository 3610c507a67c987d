"""What a peer that was let in may say and should not: one lie at a time, to all its neighbours.

The liar is an honest host whose owner has taken it over: its cores go on as before, and what it
says beside them is made here. Nothing of it may stay with the others once they can talk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from ipam.ring import Ring
from ipam.slices import Slice, encode_slice, sign_slice
from mesh.crypto.identity import Identity
from mesh.topology.record import Record
from mesh.wire import gossip as wire
from mesh.wire.control import Gossiped, Message, Unicast
from tests.sim.host import SimHost

Lie = Callable[[SimHost, Ring, Random], list[Message]]


def lie(liar: SimHost, ring: Ring, rng: Random) -> str:
    """Tell one of them; its name."""
    chosen = rng.choice(LIES)
    for message in chosen(liar, ring, rng):
        tell(liar, message)
    return chosen.__name__


def tell(liar: SimHost, message: Message) -> None:
    """Say something to every neighbour, behind the back of our own router."""
    router = liar.router
    for peer in list(router.neighbours.by_peer):
        router.neighbours.send(peer, message)
    liar.perform(router._finish())


def items(channel: str, *entries: tuple[bytes, int, bytes]) -> Gossiped:
    return Gossiped(wire.encode(wire.Items(channel, entries)))


def record_item(record: Record, name: bytes | None = None) -> Gossiped:
    return items("topology", (name or record.name.octets, record.stamp, record.encode()))


def _victim(liar: SimHost, rng: Random) -> Record:
    records = liar.router.topology.records
    return records[rng.choice(sorted(records))]


# ---- the lies


def altered_record(liar: SimHost, _ring: Ring, rng: Random) -> list[Message]:
    """Somebody's record with less in it, newer, under the signature it had."""
    record = _victim(liar, rng)
    return [record_item(replace(record, edges=(), version=record.version + rng.randint(1, 99)))]


def mislabelled_record(liar: SimHost, _ring: Ring, rng: Random) -> list[Message]:
    """Our own record under the name of another."""
    return [record_item(liar.router.topology.own, _victim(liar, rng).name.octets)]


def two_faced(liar: SimHost, _ring: Ring, _rng: Random) -> list[Message]:
    """Another record of ours under the version that everybody has."""
    other = replace(liar.router.topology.own, nickname="two-faced", edges=())
    return [record_item(other.signed(liar.identity))]


def invented_peers(liar: SimHost, _ring: Ring, rng: Random) -> list[Message]:
    """Genuine records of peers that never were, connected to us as they say."""
    said: list[Message] = []
    for _ in range(3):
        identity = Identity.from_seed(rng.randbytes(32))
        own = liar.router.topology.own
        edges = tuple(replace(edge, peer=liar.name) for edge in own.edges[:1])
        record = replace(own, public_key=identity.public_key, edges=edges)
        said.append(record_item(record.signed(identity)))
    return said


def anothers_slice(_liar: SimHost, ring: Ring, rng: Random) -> list[Message]:
    """Part of the ring is nobody's: given to a peer that never was, by far the newest version."""
    if ring.id is None or not ring.slices:
        return []
    held = ring.slices[rng.choice(sorted(ring.slices))]
    ghost = Identity.from_seed(rng.randbytes(32))
    stolen = Slice(held.start, held.end, ghost.name, held.version + rng.randint(1, 9))
    signed = sign_slice(ring.id, stolen, ghost)
    return [items("ipam", (signed.key, signed.stamp, encode_slice(ring.id, signed)))]


def anothers_message(liar: SimHost, _ring: Ring, rng: Random) -> list[Message]:
    """A message about addresses in the name of somebody else, to whoever hears it."""
    source, target = _victim(liar, rng), _victim(liar, rng)
    payload = bytes((rng.randint(1, 5), 0, 0, 0, 1, 0, 0))
    sequence, forged = rng.getrandbits(32), rng.randbytes(64)
    args = (8, source.name, source.uid, sequence, target.name, "ipam", payload, forged)
    return [Unicast(*args)]


def invented_channel(_liar: SimHost, _ring: Ring, rng: Random) -> list[Message]:
    """A channel that nobody knows, with a hundred keys."""
    entries = [(n.to_bytes(8, "big"), rng.getrandbits(64), rng.randbytes(8)) for n in range(100)]
    return [items(f"invented-{rng.randint(1, 3)}", *entries)]


def noise(_liar: SimHost, _ring: Ring, rng: Random) -> list[Message]:
    """Octets that mean nothing."""
    return [Gossiped(rng.randbytes(rng.randint(0, 200))) for _ in range(5)]


LIES: tuple[Lie, ...] = (
    altered_record,
    mislabelled_record,
    two_faced,
    invented_peers,
    anothers_slice,
    anothers_message,
    invented_channel,
    noise,
)

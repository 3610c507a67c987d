"""Whatever arrives, in whatever pieces: right messages, or one reason."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.clock import Instant
from mesh.connection.connection import HEADER_TIMEOUT, Connection
from mesh.connection.reasons import Refusal
from mesh.crypto.noise import CipherState
from mesh.crypto.records import RecordForgedError, RecordReader, RecordTooLargeError, RecordWriter
from tests.sim.kem import SimKem
from tests.sim.talk import NOW, End, Talk, established, local, ring

KEY = bytes(range(32))


def pieces(rng: Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(6)))
    edges = [0, *cuts, len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(messages=st.lists(st.binary(max_size=300), max_size=8), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_records_arrive_whole_however_they_are_cut(messages: list[bytes], seed: int) -> None:
    """protocol.md 3.1"""
    writer = RecordWriter(CipherState("AESGCM", KEY), NOW)
    reader = RecordReader(CipherState("AESGCM", KEY))
    data = b"".join(writer.seal(message, NOW) for message in messages)
    got = [m for piece in pieces(Random(seed), data) for m in reader.feed(piece)]
    assert got == messages


@given(
    messages=st.lists(st.binary(max_size=60), min_size=1, max_size=5),
    where=st.floats(0, 1, exclude_max=True),
    flip=st.integers(1, 255),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_one_altered_octet_never_makes_a_wrong_message(
    messages: list[bytes], where: float, flip: int, seed: int
) -> None:
    """protocol.md 3.3: the messages in front of it, then record-forged, too-large or a wait."""
    writer = RecordWriter(CipherState("AESGCM", KEY), NOW)
    sealed = [writer.seal(message, NOW) for message in messages]
    data = bytearray(b"".join(sealed))
    at = int(where * len(data))
    data[at] ^= flip
    untouched = 0
    while len(b"".join(sealed[: untouched + 1])) <= at:
        untouched += 1
    reader = RecordReader(CipherState("AESGCM", KEY))
    got: list[bytes] = []
    waits = True
    try:
        for piece in pieces(Random(seed), bytes(data)):
            got.extend(reader.feed(piece))
    except (RecordForgedError, RecordTooLargeError):
        waits = False
    assert got == messages[:untouched]
    if waits:  # only a length made longer leaves the reader hungry, and boundedly so
        begin = len(b"".join(sealed[:untouched]))
        assert at - begin < 2
        assert len(reader._buffer) < 1 << 16


@given(seed=st.integers(0, 2**32), data=st.data())
@settings(deadline=None)
def test_a_talk_survives_any_cutting(seed: int, data: st.DataObject) -> None:
    rng = Random(seed)
    talk = established(seed=seed, cut=lambda octets: pieces(rng, octets))
    sent: dict[str, list[bytes]] = {"a": [], "b": []}
    for who, body in data.draw(st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=99)))):
        sent[who].append(b"\1" + body)
        talk.send(talk.a if who == "a" else talk.b, b"\1" + body)
    talk.run()
    assert talk.b.received == sent["a"]
    assert talk.a.received == sent["b"]


@given(
    seed=st.integers(0, 2**32),
    side=st.sampled_from("ab"),
    at=st.integers(0, 4000),
    flip=st.integers(1, 255),
)
@settings(deadline=None)
def test_an_altered_handshake_ends_with_a_reason_on_both_ends(
    seed: int, side: str, at: int, flip: int
) -> None:
    """protocol.md 2.9: no altered octet of a handshake goes unnoticed, wherever it is."""
    talk = Talk(local(1, ring("p")), local(2, ring("p")), seed=seed).start()
    victim = talk.a if side == "a" else talk.b
    passed = 0
    altered = False
    while talk.a.outbox or talk.b.outbox:
        for sender, receiver in ((talk.a, talk.b), (talk.b, talk.a)):
            octets = bytearray(sender.take())
            if sender is victim and passed <= at < passed + len(octets):
                octets[at - passed] ^= flip
                altered = True
            passed += len(octets) if sender is victim else 0
            receiver.perform(receiver.machine.receive_data(bytes(octets), NOW))
    if not altered:
        assert talk.a.remote is not None
        return
    late = Instant(NOW + HEADER_TIMEOUT)
    for end in (talk.a, talk.b):
        end.perform(end.machine.handle_timer(late))
    talk.run(late)
    for end in (talk.a, talk.b):
        if not end.closed:  # the other end's farewell was the octet that was altered
            end.perform(end.machine.receive_eof(late))
        assert len(end.closed) == 1
        assert end.closed[0] in set(Refusal)
    assert talk.a.remote is None  # the initiator was told by CONFIRM, if at all


@given(st.lists(st.binary(max_size=2000), max_size=10), st.booleans(), st.booleans())
@settings(deadline=None)
def test_noise_of_any_kind_ends_in_one_reason(
    chunks: list[bytes], outbound: bool, has_header: bool
) -> None:
    """protocol.md 2.1: and what is held of it is bounded."""
    end = End(Connection(local(1), outbound=outbound, kem=SimKem(), entropy=Random(1).randbytes))
    end.perform(end.machine.start(NOW))
    if has_header:
        chunks = [b"weaver\1\1\0\1\0", *chunks]
    for chunk in chunks:
        end.perform(end.machine.receive_data(chunk, NOW))
        assert len(end.machine._buffer) < 16 * 1024
    end.perform(end.machine.handle_timer(Instant(NOW + HEADER_TIMEOUT)))
    assert len(end.closed) == 1
    assert end.closed[0] in set(Refusal)

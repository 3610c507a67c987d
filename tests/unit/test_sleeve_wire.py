"""Datagram headers, records and worker messages, against octets written by hand.

docs/protocol.md 10.1, 10.2 and 11.
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mesh.errors import MalformedMessageError
from mesh.link.drops import Drop
from mesh.link.records import broadcast_record, frames_in, unicast_record
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import sleeve
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher

A, B = ShortID(1), ShortID(0x0ABC)
NAME = PeerName(bytes(range(8)))
FRAME = bytes(10) + bytes(range(14)) + b"payload"


def test_header_octets() -> None:
    """10.1: every field where the picture has it."""
    packed = sleeve.HEADER.pack(1, 16, 0x0102, 0x0304, 5, 0x06070809, 0x0A, 0x0B, 0x0C, 0)
    assert packed.hex(" ") == (
        "01 10 01 02 03 04 00 05 06 07 08 09 00 00 00 00 00 00 00 0a 0b 0c 00 00"
    )
    assert sleeve.HEADER_SIZE == 24
    assert packed[: sleeve.PREFIX.size] == sleeve.PREFIX.pack(1, 16, 0x0102, 0x0304, 5, 0x06070809)
    assert (packed[sleeve.INDEX_AT], packed[sleeve.TOTAL_AT]) == (0x0B, 0x0C)
    assert packed[sleeve.SEQ_AT : sleeve.SEQ_AT + 8] == bytes(7) + b"\x0a"


def test_nonce_octets() -> None:
    """10.4: the record's number, big-endian, behind four zeroes."""
    assert sleeve.nonce(0x0102).hex() == "000000000000000000000102"


def test_record_octets() -> None:
    """10.2: length, envelope when the top bit is set, offload header, frame."""
    assert bytes(unicast_record(FRAME)) == bytes.fromhex("0000001f") + FRAME
    envelope = (ShortID(0x0102), 0x0304, 5)
    assert bytes(broadcast_record(envelope, FRAME)) == (
        bytes.fromhex("8000001f 0102 0000000000000304 05") + FRAME
    )


def test_frames_come_out_as_they_went_in() -> None:
    envelope = (ShortID(7), 99, 3)
    record = bytes(unicast_record(FRAME)) + bytes(broadcast_record(envelope, FRAME + b"x"))
    found = [(e, bytes(f)) for e, f in frames_in(memoryview(record))]
    assert found == [(None, FRAME), (envelope, FRAME + b"x")]
    assert list(frames_in(memoryview(b""))) == []


@pytest.mark.parametrize(
    "tail",
    [b"\0", bytes.fromhex("00000010"), bytes.fromhex("00000017") + bytes(23),
     bytes.fromhex("8000001f 0102"), bytes.fromhex("7fffffff") + FRAME],
    ids=["half a length", "no frame", "short frame", "half an envelope", "too long"],
)  # fmt: skip
def test_a_record_that_ends_wrongly(tail: bytes) -> None:
    """10.2: the frames before the fault are delivered, the rest is malformed."""
    frames = frames_in(memoryview(bytes(unicast_record(FRAME)) + tail))
    envelope, frame = next(frames)
    assert (envelope, bytes(frame)) == (None, FRAME)
    with pytest.raises(MalformedMessageError):
        next(frames)


@given(st.binary(max_size=200))
def test_any_octets_as_a_record(data: bytes) -> None:
    try:
        total = sum(len(frame) for _, frame in frames_in(memoryview(data)))
    except MalformedMessageError:
        return
    assert total <= len(data)


MESSAGES: list[tuple[w.Message, str]] = [
    (w.Configure(A, NAME, 1420, True), "01 0001 0001020304050607 058c 01"),
    (w.SetPeer(B, NAME, 1420, True), "02 0abc 0001020304050607 058c 01"),
    (w.DropPeer(B), "03 0abc"),
    (w.SetNeighbour(B, Endpoint("::1", 6783), 1232), "04 0abc 0003 3a3a31 1a7f 04d0"),
    (w.DropNeighbour(B), "05 0abc"),
    (w.SetRoute(B, A, 1472), "06 0abc 0001 05c0"),
    (w.DropRoute(B), "07 0abc"),
    (w.SetTree(A, (B, ShortID(3))), "08 0001 00000002 0abc 0003"),
    (
        w.InstallEpoch(B, 2, b"rr", b"ttt", 3, 4, Cipher.AES_256_GCM),
        "09 0abc 0002 0002 7272 0003 747474 0000000000000003 0000000000000004"
        "000b 6165732d3235362d67636d",
    ),
    (w.ActivateEpoch(B, 2), "0a 0abc 0002"),
    (w.RetireEpoch(B, 2), "0b 0abc 0002"),
    (w.Probe(B, 5, 1472), "0c 0abc 0000000000000005 05c0"),
    (w.GetCounters(), "0d"),
    (w.GetMacs(), "0e"),
    (w.Shutdown(), "0f"),
    (w.Ready(77), "10 000000000000004d"),
    (w.EpochInstalled(B, 2), "11 0abc 0002"),
    (w.ProbeReplied(B, 5, 1472, 250), "12 0abc 0000000000000005 05c0 00000000000000fa"),
    (w.ProbeSeen(B, Endpoint("10.0.0.1", 1)), "13 0abc 0008 31302e302e302e31 0001"),
    (w.TooBig(B, 1472), "14 0abc 05c0"),
    (
        w.Counters(
            1, 2, 3, 4, 5, (("loop", 6),), (w.PeerCounters(B, *range(7, 19)),), ((B, "a", 2),)
        ),
        "15" + "".join(f"{n:016x}" for n in range(1, 6)) + "00000001 0004 6c6f6f70"
        "0000000000000006 00000001 0abc" + "".join(f"{n:016x}" for n in range(7, 19))
        + "00000001 0abc 0001 61 0000000000000002",
    ),
    (w.Macs(((0x020000000001, A),), 9), "16 00000001 0000020000000001 0001 0000000000000009"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "octets"), MESSAGES, ids=lambda m: type(m).__name__)
def test_worker_messages(message: w.Message, octets: str) -> None:
    """11.2: each message is these octets and these octets are that message."""
    data = bytes.fromhex(octets)
    assert w.encode(message) == data
    assert w.decode(data) == message
    for cut in range(len(data)):
        with pytest.raises(MalformedMessageError):
            w.decode(data[:cut])
    with pytest.raises(MalformedMessageError):
        w.decode(data + b"\0")


def test_every_kind_of_message_is_in_the_table() -> None:
    assert {type(message) for message, _ in MESSAGES} == set(w._KINDS)


@given(st.binary(max_size=300))
def test_any_octets_as_a_worker_message(data: bytes) -> None:
    """11.2: a packet that does not decode raises MalformedMessageError and nothing else."""
    try:
        message = w.decode(data)
    except MalformedMessageError:
        return
    assert w.decode(w.encode(message)) == message


def test_keys_are_not_in_the_printed_form() -> None:
    printed = repr(
        w.InstallEpoch(A, 1, b"secret-rx", b"secret-tx", 123456, 654321, Cipher.AES_256_GCM)
    )
    assert "secret" not in printed
    assert "123456" not in printed


def test_the_largest_counters_fit_a_packet() -> None:
    """11.2: as many peers as are told."""
    peers = tuple(w.PeerCounters(ShortID(n), 1, 1) for n in range(1, w.MAX_PEERS_TOLD + 1))
    reason = max(Drop, key=len).value
    drops = tuple((drop.value, 1) for drop in Drop)
    most = tuple((ShortID(n), reason, 1) for n in range(w.MAX_PEER_DROPS_TOLD))
    assert len(w.encode(w.Counters(0, 0, 0, 0, 0, drops, peers, most))) < w.MAX_PACKET
    macs = tuple((n, A) for n in range(w.MAX_MACS_TOLD))
    assert len(w.encode(w.Macs(macs, 1))) < w.MAX_PACKET

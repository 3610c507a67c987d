"""Whatever is joined, segmentation makes of it what was given: octet for octet, flow by flow."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable

import hypothesis.strategies as st
from hypothesis import given, settings

from mesh.link.frames import split
from mesh.link.joining import MAX_JOINED, MAX_TCP_SEGMENTS, MAX_UDP_SEGMENTS, Joiner
from tests.frames import ACK, CWR, FIN, PARTIAL, PSH, SYN, VALID, VNET, build, on_the_wire
from tests.frames import without_ident as bare

FLOWS = [
    {"six": six, "tcp": tcp, "port": 1000 + n, "host": 1 + n % 2, "df": n % 2 > 0, "known": known}
    for six in (False, True)
    for tcp in (False, True)
    for n, known in enumerate((PARTIAL, PARTIAL, VALID, PARTIAL))
]

Event = tuple[int, str, int]
"""(flow, what its next frame is like, a number to vary it with)."""

SAME, ODD = "same", ("short", "long", "super", "odd super", "push", "fin", "syn", "cwr", "gap",
                     "ack", "window", "ident", "fixed", "ttl", "mac", "full", "tiny", "flush"
                     )  # fmt: skip


@st.composite
def stories(draw: st.DrawFn) -> list[Event]:
    """A few flows and a few oddities in each, so that they meet often enough."""
    flows = draw(st.lists(st.integers(0, len(FLOWS) - 1), min_size=1, max_size=3))
    odd = draw(st.lists(st.sampled_from(ODD), min_size=1, max_size=3))
    likes = st.one_of(st.just(SAME), st.just(SAME), st.sampled_from(odd))
    event = st.tuples(st.sampled_from(flows), likes, st.integers(1, 12))
    return draw(st.lists(event, min_size=4, max_size=40))


def frames_of(events: Iterable[Event], size: int) -> list[bytes | None]:
    """The frames of these events, each payload unlike all others; None is a flush."""
    seqs: dict[int, int] = defaultdict(lambda: 2**32 - 3 * size)
    idents: dict[int, int] = defaultdict(lambda: 65_530)
    made: list[bytes | None] = []
    for number, (flow, like, vary) in enumerate(events):
        if like == "flush":
            made.append(None)
            continue
        settings: dict[str, object] = dict(FLOWS[flow])
        octets, segments, gso_size = size, 1, 0
        if like in ("short", "long", "tiny"):
            octets = {"short": max(1, size - vary), "long": size + vary, "tiny": 1}[like]
        elif like in ("super", "odd super"):
            segments, gso_size = vary + 1, size
            octets = size * segments - (1 if like == "odd super" and size > 1 else 0)
        bits = {"push": PSH, "fin": FIN, "syn": SYN, "cwr": CWR}.get(like, 0) | ACK
        if like == "gap":
            seqs[flow] += vary
        if like == "ident":
            idents[flow] += vary
        if like == "fixed":
            idents[flow] -= 1
        settings["ack"] = 4 if like == "ack" else 3
        settings["window"] = 501 if like == "window" else 500
        settings["ttl"] = 63 if like == "ttl" else 64
        settings["mac"] = 0xAB if like == "mac" else 0xAA
        if like == "full":
            settings["known"] = 0
        if gso_size:
            settings["known"] = PARTIAL
        payload = random.Random(number).randbytes(octets)
        settings |= {"seq": seqs[flow] % 2**32, "ident": idents[flow] % 65536, "bits": bits}
        made.append(build(payload, gso_size=gso_size, **settings))  # type: ignore[arg-type]  # of FLOWS
        seqs[flow] += octets
        idents[flow] += segments
    return made


def joined(frames: Iterable[bytes | None]) -> list[bytes]:
    """What leaves, copied when it leaves; what was added is scratched after the call."""
    written: list[bytes] = []
    joiner = Joiner(lambda frame: written.append(bytes(frame)))
    for frame in frames:
        if frame is None:
            joiner.flush()
            continue
        scratch = bytearray(b"\xee" * 3 + frame)
        joiner.add(memoryview(scratch)[3:])
        scratch[:] = b"\xee" * len(scratch)
    joiner.flush()
    return written


def by_flow(wholes: Iterable[bytes]) -> dict[bytes, list[bytes]]:
    flows: dict[bytes, list[bytes]] = defaultdict(list)
    for whole in wholes:
        ports = whole[64:68] if whole[22] == 0x86 else whole[44:48]
        protocol = whole[30] if whole[22] == 0x86 else whole[33]
        flows[bytes((whole[22], protocol)) + ports] += [bare(f) for f in on_the_wire(whole)]
    return flows


@settings(max_examples=3 * settings().max_examples)
@given(stories(), st.sampled_from([1, 7, 100, 1400]))
def test_what_is_joined_segments_to_what_was_given(events: list[Event], size: int) -> None:
    """virtio specification 1.2, 5.1.6.2; also where we cut the super-frame ourselves."""
    frames = frames_of(events, size)
    given_frames = [frame for frame in frames if frame is not None]
    written = joined(frames)
    assert by_flow(written) == by_flow(given_frames)
    for whole in written:
        assert len(whole) <= MAX_JOINED or whole in given_frames
        if whole not in given_frames:
            most = MAX_UDP_SEGMENTS if whole[1] == 5 else MAX_TCP_SEGMENTS
            assert len(on_the_wire(whole)) <= most
        pieces = [bare(f) for piece in split(whole, 4000) for f in on_the_wire(piece)]
        assert pieces == [bare(f) for f in on_the_wire(whole)]


@given(st.integers(2, 150), st.sampled_from(FLOWS), st.integers(1, 1400), st.integers(0, 2**32 - 1))
def test_a_stream_needs_the_fewest_writes(
    count: int, flow: dict[str, int], size: int, seq: int
) -> None:
    """Frames of one size are joined up to the limits, whatever numbers wrap on the way."""
    frames: list[bytes | None] = [
        build(bytes((n,)) * size, seq=(seq + n * size) % 2**32, ident=(seq + n) % 65536, **flow)  # type: ignore[arg-type]  # of FLOWS
        for n in range(count)
    ]
    overhead = len(frames[0] or b"") - size
    most = (MAX_JOINED - overhead) // size
    most = min(most, MAX_TCP_SEGMENTS if flow["tcp"] else MAX_UDP_SEGMENTS)
    assert len(joined(frames)) == -(-count // most)


HEADER_LENGTH = (2, 3)
"""Where it stands in the virtio-net header."""


@given(
    stories(),
    st.lists(
        st.tuples(st.integers(0, 59), st.integers(1, 110), st.integers(1, 255)),
        min_size=1,
        max_size=8,
    ),
)
def test_damaged_headers_leave_as_they_came(
    events: list[Event], damage: list[tuple[int, int, int]]
) -> None:
    """No octet of a header may be wrong in what leaves if it was right before, or the other way.

    Flags are left alone: a sender that vouches for a checksum is believed. So is the length of
    headers, a hint that kernels fill with what happens to be linear (virtio 1.2, 5.1.6.2).
    """
    frames = [frame for frame in frames_of(events, 20) if frame is not None and frame[0] == PARTIAL]
    for which, at, flip in damage:
        if which < len(frames) and at < len(frames[which]) and at not in HEADER_LENGTH:
            frame = bytearray(frames[which])
            frame[at] ^= flip
            frames[which] = bytes(frame)
    before = sorted(bare(f) for whole in frames for f in on_the_wire(whole))
    assert sorted(bare(f) for whole in joined(frames) for f in on_the_wire(whole)) == before


@given(st.lists(st.tuples(st.sampled_from([b"\x08\0\x45", b"\x86\xdd\x60", b"\x81\0\x45"]),
                          st.binary(max_size=120)), max_size=20))  # fmt: skip
def test_no_octets_raise_or_vanish(frames: list[tuple[bytes, bytes]]) -> None:
    """Frames of nonsense leave as they came, in order or not."""
    wholes = [VNET.pack(1, 0, 0, 0, 34, 6) + bytes(12) + kind + data for kind, data in frames]
    assert sorted(joined(wholes)) == sorted(wholes)

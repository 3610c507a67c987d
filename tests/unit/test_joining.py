"""Each rule of joining, with what it comes from; words of Linux' GRO where it is GRO's.

``tcp_gro_receive`` and ``tcp_gso_segment`` (net/ipv4/tcp_offload.c), ``udp_gro_receive_segment``
(net/ipv4/udp_offload.c), ``inet_gro_receive`` (net/ipv4/af_inet.c), ``ipv6_gro_receive``
(net/ipv6/ip6_offload.c), ``inet_gro_flush`` (include/net/gro.h).

Why it is built so: sleeve.md 3.
"""

from __future__ import annotations

from typing import Any

import pytest

from mesh.link.joining import LARGEST, MAX_FLOWS, MAX_JOINED, Joiner
from tests.frames import (
    ACK,
    CWR,
    ECE,
    FIN,
    PARTIAL,
    PSH,
    RST,
    SYN,
    URG,
    VALID,
    VNET,
    build,
    on_the_wire,
)

KINDS = pytest.mark.parametrize(
    ("tcp", "six"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["udp4", "tcp4", "udp6", "tcp6"],
)


def joined(frames: list[bytes], *, udp: bool = True) -> list[bytes]:
    written: list[bytes] = []
    joiner = Joiner(lambda frame: written.append(bytes(frame)), udp=udp)
    for frame in frames:
        joiner.add(memoryview(frame))
    joiner.flush()
    return written


def run(*changes: dict[str, Any], size: int = 100, **common: Any) -> list[bytes]:
    """Frames that follow one another rightly but for what ``changes`` says of each."""
    frames, seq, ident = [], 1000, 50
    for n, change in enumerate(changes):
        settings = {"seq": seq, "ident": ident, **common, **change}
        octets = settings.pop("size", size)
        frames.append(build(bytes((n % 255 + 1,)) * octets, **settings))
        seq += octets
        ident += max(1, -(-octets // settings["gso_size"])) if settings.get("gso_size") else 1
    return frames


def check_right(written: list[bytes], frames: list[bytes]) -> None:
    assert [f for w in written for f in on_the_wire(w)] == [
        f for frame in frames for f in on_the_wire(frame)
    ]


def writes(frames: list[bytes]) -> int:
    """How many writes these frames become; that they are right is checked on the way."""
    written = joined(frames)
    check_right(written, frames)
    return len(written)


# ---- what joins, and what it becomes


@KINDS
@pytest.mark.parametrize("known", [PARTIAL, VALID])
def test_the_header_of_a_super_frame(tcp: bool, six: bool, known: int) -> None:
    """virtio specification 1.2, 5.1.6.2: NEEDS_CSUM, type, header length, segment size."""
    frames = run({}, {}, {"size": 40}, tcp=tcp, six=six, known=known)
    (whole,) = joined(frames)
    start = 54 if six else 34
    kind = (4 if six else 1) if tcp else 5
    head, offset = start + (32 if tcp else 8), 16 if tcp else 6
    assert VNET.unpack_from(whole) == (1, kind, head, 100, start, offset)
    assert len(whole) == 10 + head + 240
    check_right([whole], frames)


@KINDS
def test_a_shorter_frame_is_the_last(tcp: bool, six: bool) -> None:
    """tcp_gro_receive: flush when a segment is smaller than the first; udp: the same."""
    assert writes(run({}, {}, {"size": 99}, {"size": 99}, {"size": 99}, tcp=tcp, six=six)) == 2


@KINDS
def test_a_longer_frame_begins_anew(tcp: bool, six: bool) -> None:
    """tcp_gro_receive: do not aggregate if its length is bigger than our mss."""
    assert writes(run({}, {}, {"size": 101}, {"size": 101}, tcp=tcp, six=six)) == 2


def test_a_datagram_and_a_shorter_one_stay_two() -> None:
    """Measured: joining two costs more than the write it saves; TCP's saves more than a write."""
    assert writes(run({}, {"size": 50}, {"size": 20})) == 3
    assert writes(run({}, {"size": 50}, tcp=True)) == 1


@KINDS
@pytest.mark.parametrize(
    "other",
    [{"port": 1001}, {"host": 3}, {"mac": 0xAB}, {"tos": 8}, {"ttl": 63}, {"known": VALID}],
    ids=["port", "address", "mac", "tos", "ttl", "checksum state"],
)
def test_all_of_one_flow(tcp: bool, six: bool, other: dict[str, int]) -> None:
    """inet_gro_receive, ipv6_gro_receive: addresses, ports, MACs, TOS, TTL are the same."""
    assert writes(run({}, {}, other, other, tcp=tcp, six=six)) == 2


def test_one_flow_label() -> None:
    """ipv6_gro_receive: a different flow label or traffic class is a different flow."""
    assert writes(run({}, {}, {"label": 6}, {"label": 6}, six=True)) == 2


# ---- TCP


@pytest.mark.parametrize(
    "other",
    [{"ack": 4}, {"window": 501}, {"options": b"\1\1\x08\x0a" + bytes(8)}, {"options": b""},
     {"bits": ACK | ECE}, {"seq": 1101 + 100}, {"seq": 1100}],
    ids=["ack", "window", "timestamps", "no options", "ece", "gap", "again"],
)  # fmt: skip
@pytest.mark.parametrize("six", [False, True])
def test_headers_of_a_stream(six: bool, other: dict[str, Any]) -> None:
    """tcp_gro_receive: acknowledgement, window, flags and options are the same, sequence
    numbers go on where the last ended."""
    assert writes(run({}, {}, other, tcp=True, six=six)) == 2


def test_a_stream_with_ece_joins() -> None:
    assert writes(run({}, {}, {}, tcp=True, bits=ACK | ECE)) == 1


@pytest.mark.parametrize("bit", [PSH, FIN, FIN | PSH])
@pytest.mark.parametrize("size", [100, 30])
@pytest.mark.parametrize("six", [False, True])
def test_push_and_fin_end_a_super_frame(six: bool, size: int, bit: int) -> None:
    """tcp_gro_receive: taken over from the last, and flushed at once; tcp_gso_segment: only on
    the last."""
    frames = run({}, {}, {"bits": ACK | bit, "size": size}, {}, {}, tcp=True, six=six)
    written: list[bytes] = []
    joiner = Joiner(lambda frame: written.append(bytes(frame)))
    for frame in frames[:3]:
        joiner.add(memoryview(frame))
    assert len(written) == 1, "at once"
    for frame in frames[3:]:
        joiner.add(memoryview(frame))
    joiner.flush()
    assert len(written) == 2
    check_right(written, frames)


@pytest.mark.parametrize("bit", [SYN, RST, URG, CWR, PSH, FIN])
@pytest.mark.parametrize("six", [False, True])
def test_flags_that_cannot_lead(six: bool, bit: int) -> None:
    """tcp_gro_receive: flush at URG, PSH, RST, SYN, FIN; CWR: our own, as the module says."""
    frames = run({"bits": ACK | bit}, {}, {}, tcp=True, six=six)
    written = joined(frames)
    assert written[0] == frames[0]
    assert len(written) == 2
    check_right(written, frames)


@pytest.mark.parametrize("bit", [SYN, RST, URG, CWR])
def test_flags_that_cannot_follow(bit: int) -> None:
    frames = run({}, {}, {"bits": ACK | bit}, {}, {}, tcp=True)
    assert writes(frames) == 3
    assert not any(whole[1] & 0x80 for whole in joined(frames)), "no ECN bit is ever due"


@pytest.mark.parametrize("six", [False, True])
def test_pure_acknowledgements_never_join(six: bool) -> None:
    """They carry nothing, so they would vanish. The very memoryview goes on: no copy."""
    frames = run({"size": 0}, {"size": 0, "ack": 4}, tcp=True, six=six)
    seen: list[memoryview | bytearray] = []
    joiner = Joiner(seen.append)
    views = [memoryview(frame) for frame in frames]
    for n, view in enumerate(views):
        joiner.add(view)
        assert seen[n] is view


def test_sequence_numbers_wrap() -> None:
    frames = run({"seq": 2**32 - 150}, {"seq": 2**32 - 50}, {"seq": 50}, tcp=True)
    assert writes(frames) == 1


# ---- identifications


@pytest.mark.parametrize("tcp", [False, True])
def test_identifications_without_df(tcp: bool) -> None:
    """inet_gro_flush: one more each; RFC 6864 4.2: there they mean something."""
    assert writes(run({}, {}, {}, tcp=tcp, df=False)) == 1
    assert writes(run({}, {"ident": 52}, tcp=tcp, df=False)) == 2
    assert writes(run({}, {"ident": 50}, tcp=tcp, df=False)) == 2
    assert writes(run({"ident": 0xFFFF}, {"ident": 0}, tcp=tcp, df=False)) == 1


def test_identifications_under_df() -> None:
    """RFC 6864 4.1: meaningless, so they may stand still (inet_gro_flush: ip_fixedid)."""
    assert len(joined(run({}, {"ident": 50}, {"ident": 50}))) == 1
    assert writes(run({}, {}, {})) == 1
    assert writes(run({}, {"ident": 53}, {"ident": 54})) == 2
    assert writes(run({}, {}, {"df": False}, {"df": False})) == 2


# ---- checksums


@KINDS
def test_a_full_unverified_checksum_never_joins(tcp: bool, six: bool) -> None:
    """Segmentation would write a right one over a wrong one."""
    frames = run({}, {}, {}, tcp=tcp, six=six, known=0)
    assert joined(frames) == frames


@pytest.mark.parametrize("six", [False, True])
def test_no_udp_checksum_never_joins(six: bool) -> None:
    """udp_gro_receive: requires non zero csum, for symmetry with GSO."""
    at = 70 if six else 50
    frames = [frame[:at] + b"\0\0" + frame[at + 2 :] for frame in run({}, {}, six=six)]
    assert joined(frames) == frames


@KINDS
def test_a_wrong_start_of_a_sum_stays_wrong(tcp: bool, six: bool) -> None:
    """tcp_gso_segment adds the difference of the lengths to what is there."""
    at = (64 if six else 44) + (16 if tcp else 6)
    frames = [f[:at] + b"\x12\x34" + f[at + 2 :] for f in run({}, {}, {}, tcp=tcp, six=six)]
    assert writes(frames) == 1
    good = run({}, {}, {}, tcp=tcp, six=six)
    assert writes([*good[:2], frames[2]]) == 2, "a wrong one does not become right"


def test_a_wrong_ipv4_checksum_never_joins() -> None:
    """inet_gro_receive: ip_fast_csum of every header."""
    frames = run({}, {}, {})
    for n in range(3):
        damaged = list(frames)
        damaged[n] = frames[n][:34] + bytes((frames[n][34] ^ 1,)) + frames[n][35:]
        assert damaged[n] in joined(damaged)


def test_checksum_points_elsewhere() -> None:
    """virtio 5.1.6.2: csum_start and csum_offset are the transport's or nothing is joined."""
    frames = run({}, {})
    wrong = [VNET.pack(1, 0, 0, 0, 34, 8) + frame[10:] for frame in frames]
    assert joined(wrong) == wrong


# ---- super-frames


@KINDS
def test_super_frames_of_one_segment_size(tcp: bool, six: bool) -> None:
    """tcp_gro_receive: gso_size matches, and only the last is no whole multiple."""
    gso = {"gso_size": 100}
    frames = run({"size": 300, **gso}, {"size": 300, **gso}, {"size": 100}, {"size": 500, **gso},
                 {"size": 250, **gso}, tcp=tcp, six=six)  # fmt: skip
    assert writes(frames) == 1
    assert writes([*frames, *run({"seq": 2450}, tcp=tcp, six=six)]) == 2
    other = {"size": 300, "gso_size": 150}
    assert writes(run({"size": 300, **gso}, other, other, tcp=tcp, six=six)) == 2


def test_a_super_frame_after_single_ones() -> None:
    assert writes(run({}, {}, {"size": 300, "gso_size": 100}, {}, tcp=True)) == 1


# ---- limits


def test_no_more_than_fits() -> None:
    """65,535 octets of IP packet at the most; ours is what pods' devices take."""
    written = joined(run(*[{}] * 100, size=1400, tcp=True))
    assert [len(whole) > MAX_JOINED - 1400 for whole in written] == [True, True, False]
    assert all(len(whole) <= MAX_JOINED for whole in written)
    check_right(written, run(*[{}] * 100, size=1400, tcp=True))


def test_no_more_segments_than_receivers_expect() -> None:
    """udp_gro_receive_segment: UDP_GRO_CNT_MAX is 64; as many in super-frames as singly."""
    assert [len(on_the_wire(w)) for w in joined(run(*[{}] * 130))] == [64, 64, 2]
    halves = [{"size": 2500, "gso_size": 100}] * 4
    assert [len(on_the_wire(w)) for w in joined(run(*halves))] == [50, 50]


def test_many_tiny_segments_are_no_burst() -> None:
    assert [len(on_the_wire(w)) for w in joined(run(*[{}] * 300, size=1, tcp=True))] == [
        128,
        128,
        44,
    ]


# ---- what passes, and order


@pytest.mark.parametrize(
    "frame",
    [
        bytes(10) + b"\xff" * 6 + bytes(6) + b"\x08\x06" + bytes(46),
        bytes(10) + bytes(12) + b"\x81\x00\x00\x07" + build(bytes(50))[22:],
        build(bytes(50), fragment=0x2000),
        build(bytes(50), fragment=0x0010),
        build(bytes(50), ip_options=b"\x94\4\0\0"),
        build(bytes(50))[:33] + b"\1" + build(bytes(50))[34:],
        build(bytes(50), six=True)[:30] + b"\0" + build(bytes(50), six=True)[31:],
        build(bytes(50))[:30],
        build(bytes(LARGEST), tcp=True, gso_size=1400),
    ],
    ids=["ARP", "VLAN", "first fragment", "later fragment", "IPv4 options", "ICMP",
         "IPv6 extension", "cut short", "large"],
)  # fmt: skip
def test_what_goes_on_at_once_after_what_is_held(frame: bytes) -> None:
    """inet_gro_receive: no fragments, no options. Order is kept towards all that is held, for
    it cannot be told which flow this is of; and it is not copied."""
    held = run({}, {})
    seen: list[memoryview | bytearray] = []
    joiner = Joiner(seen.append)
    for other in held:
        joiner.add(memoryview(other))
    view = memoryview(frame)
    joiner.add(view)
    assert len(seen) == 2
    assert seen[1] is view


def test_a_pushed_segment_passes_other_flows_but_not_its_own() -> None:
    """It waits for nobody, and nobody of its own flow comes after it."""
    mine, others = run({}, {"bits": ACK | PSH, "seq": 5}, tcp=True), run({"port": 9}, {"port": 9})
    written = joined([others[0], mine[0], mine[1], others[1]])
    assert written[:2] == mine
    check_right(written[2:], others)
    assert len(written) == 3


@KINDS
def test_flows_take_turns(tcp: bool, six: bool) -> None:
    """As many as are held all join; the one held longest makes room for one more."""
    streams = [run({}, {}, {}, tcp=tcp, six=six, port=1000 + n) for n in range(MAX_FLOWS)]
    turns = [stream[n] for n in range(3) for stream in streams]
    assert len(joined(turns)) == MAX_FLOWS
    written: list[bytes] = []
    joiner = Joiner(lambda frame: written.append(bytes(frame)))
    for frame in turns[: 2 * MAX_FLOWS]:
        joiner.add(memoryview(frame))
    assert written == []
    joiner.add(memoryview(run({}, tcp=tcp, six=six, port=5000)[0]))
    check_right(written, streams[0][:2])


def test_a_lone_frame_leaves_as_it_came_with_the_burst() -> None:
    for frame in (run({})[0], run({"size": 300, "gso_size": 100}, tcp=True)[0]):
        assert joined([frame]) == [frame]


def test_nothing_is_left_behind_when_a_write_fails() -> None:
    """The TAP may go away: what was held then is gone with it, and is not written twice."""
    calls = []

    def fail(frame: memoryview | bytearray) -> None:
        calls.append(frame)
        raise OSError("gone")

    joiner = Joiner(fail)
    joiner.add(memoryview(run({})[0]))
    with pytest.raises(OSError, match="gone"):
        joiner.flush()
    joiner.flush()
    assert len(calls) == 1


@pytest.mark.parametrize("six", [False, True])
def test_frames_to_a_group_never_join(six: bool) -> None:
    """Each is delivered to many, once each: as it came."""
    frames = [frame[:10] + b"\xff" * 6 + frame[16:] for frame in run({}, {}, {}, six=six)]
    assert joined(frames) == frames


def test_udp_is_left_alone_where_the_tap_does_not_take_it() -> None:
    """TUN_F_USO4 and TUN_F_USO6 came with Linux 6.2."""
    frames = run({}, {}) + run({}, {}, six=True)
    assert joined(frames, udp=False) == frames
    assert len(joined(run({}, {}, tcp=True), udp=False)) == 1

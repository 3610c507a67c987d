"""Each program by itself, run by the kernel on frames without any device (BPF_PROG_RUN)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mesh.drivers.fastdp import bpf, layout
from mesh.drivers.fastdp.devices import Programs, close_tables, make_tables
from mesh.drivers.fastdp.upcalls import CONTROL_HEADER, unwrap, wrap
from mesh.link.datapath import HOPS, LAYOUT, SLEEVE
from mesh.link.drops import Drop
from mesh.names import ShortID

pytestmark = pytest.mark.netns  # needs root, and no namespace

PASSED, SHOT, STOLEN, REDIRECTED, NEXT = 0, 2, 4, 7, 0xFFFFFFFF
US, PEER, FAR = ShortID(1), ShortID(2), ShortID(3)
MINE, THEIRS = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
GROUP = b"\xff" * 6
VXLAN, SLEEVE_DEVICE, UPCALL = 101, 102, 103
MARK_AT, CB_AT = 8, 48


class Kernel:
    """Programs and tables as one host has them, told about one neighbour."""

    def __init__(self) -> None:
        self.tables = make_tables()
        self.programs = Programs(self.tables)
        self.configure()
        self.set("neighbours", layout.key(PEER), layout.neighbour("192.0.2.2", None))
        self.set("routes", layout.key(PEER), layout.route(PEER, layout.BY_KERNEL))

    def configure(self, us: int = US, flags: int = 0) -> None:
        entry = layout.Config(LAYOUT, us, VXLAN, SLEEVE_DEVICE, UPCALL, flags)
        self.set("config", layout.key(0), bytes(entry))

    def set(self, table: str, key: bytes, value: bytes) -> None:
        self.tables[table].set(key, value)

    def run(self, program: str, frame: bytes, **context: int) -> tuple[int, bytes, bytes]:
        before = bytearray(192)
        struct.pack_into("=I", before, MARK_AT, context.get("mark", 0))
        for n in range(5):
            struct.pack_into("=I", before, CB_AT + 4 * n, context.get(f"cb{n}", 0))
        return bpf.run(self.programs.fds[program], frame, bytes(before))

    def drops(self) -> dict[Drop, int]:
        totals = dict(self.tables["totals"].entries())
        sums = [sum(memoryview(totals[layout.key(n)]).cast("Q")) for n in range(len(layout.DROPS))]
        return {reason: sums[n] for n, reason in enumerate(layout.DROPS) if sums[n]}

    def close(self) -> None:
        self.programs.close()
        close_tables(self.tables)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


def frame(target: bytes = THEIRS, source: bytes = MINE, body: bytes = b"\x88\xb6hello") -> bytes:
    return (target + source + body).ljust(60, b"\0")


def cb(after: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=5I", after, CB_AT)


def test_out_by_its_place_and_route(kernel: Kernel) -> None:
    kernel.set("attached", layout.mac_key(THEIRS), layout.key(PEER))
    assert kernel.run("to_mesh", frame())[0] == PASSED
    traffic = kernel.tables["traffic"].get(layout.key(PEER))
    assert traffic is not None
    sums = [sum(memoryview(traffic).cast("Q")[n::6]) for n in range(6)]
    assert sums == [1, 60, 0, 0, 0, 0]
    learned = kernel.tables["learned"].get(layout.mac_key(MINE))
    assert learned is not None
    assert layout.Learned.from_buffer_copy(learned).peer == US
    kernel.set("routes", layout.key(PEER), layout.route(0, layout.BY_SLEEVE))
    assert kernel.run("to_mesh", frame())[0] == REDIRECTED
    kernel.set("routes", layout.key(PEER), layout.route(FAR, layout.BY_KERNEL))
    assert kernel.run("to_mesh", frame())[0] == SHOT
    assert kernel.drops() == {Drop.NO_ROUTE: 1}


def test_group_addresses_are_left_to_the_copies(kernel: Kernel) -> None:
    verdict, _, after = kernel.run("to_mesh", frame(GROUP))
    assert verdict == NEXT
    assert cb(after)[1:] == (US, HOPS, 0, 1)
    # Nothing that some other program left there is taken for ours.
    assert kernel.run("copies", frame(GROUP), cb0=7, cb1=US, cb2=HOPS)[0] == NEXT
    context = {f"cb{n}": value for n, value in enumerate(cb(after))}
    assert kernel.run("copies", frame(GROUP), **context)[0] == SHOT
    assert kernel.drops() == {Drop.NO_ROUTE: 1}
    kernel.set("trees", layout.key(US), bytes(layout.TreeEntry()))
    assert kernel.run("copies", frame(GROUP), **context)[0] == STOLEN
    by_sleeve = bytes(layout.TreeEntry(flags=layout.TREE_TO_SLEEVE))
    kernel.set("trees", layout.key(US), by_sleeve)
    assert kernel.run("copies", frame(GROUP), **context)[0] == REDIRECTED


def test_a_round_leaves_the_rest_to_the_next(kernel: Kernel) -> None:
    nobody = layout.TreeEntry(count=70, children=(4000,) * 70)
    kernel.set("trees", layout.key(US), bytes(nobody))
    _, _, after = kernel.run("to_mesh", frame(GROUP))
    for first in (32, 64):
        context = {f"cb{n}": value for n, value in enumerate(cb(after))}
        verdict, _, after = kernel.run("copies", frame(GROUP), **context)
        assert (verdict, cb(after)[3]) == (NEXT, first)
    context = {f"cb{n}": value for n, value in enumerate(cb(after))}
    assert kernel.run("copies", frame(GROUP), **context)[0] == STOLEN
    assert kernel.drops() == {Drop.NO_ROUTE: 70}  # each child, once


def test_in_only_by_the_tunnel_or_from_us(kernel: Kernel) -> None:
    assert kernel.run("from_mesh", frame())[0] == SHOT
    verdict, _, after = kernel.run("from_mesh", frame(), mark=layout.MARK)
    assert verdict == PASSED
    assert struct.unpack_from("=I", after, MARK_AT)[0] == 0, "nobody else sees the mark"
    assert kernel.drops() == {Drop.MALFORMED: 1}


def test_from_the_sleeve_into_the_bridge(kernel: Kernel) -> None:
    verdict, _, after = kernel.run("from_sleeve", frame(MINE, THEIRS))
    assert verdict == REDIRECTED
    assert struct.unpack_from("=I", after, MARK_AT)[0] == layout.MARK
    learned = kernel.tables["learned"].get(layout.mac_key(THEIRS))
    assert learned is not None
    assert layout.Learned.from_buffer_copy(learned).peer == SLEEVE
    assert kernel.run("to_mesh", frame())[0] == REDIRECTED


def solicitation(asked: bytes, sender: bytes) -> bytes:
    message = b"\x87\0\0\0" + bytes(4) + asked + b"\x01\x01" + MINE
    to = bytes.fromhex("ff0200000000000000000001ff") + asked[13:]
    total = checksum(sender, to, message)
    message = message[:2] + total.to_bytes(2, "big") + message[4:]
    head = b"\x86\xdd\x60\0\0\0" + len(message).to_bytes(2, "big") + b"\x3a\xff"
    return b"\x33\x33\xff" + asked[13:] + MINE + head + sender + to + message


def checksum(source: bytes, to: bytes, message: bytes) -> int:
    data = source + to + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58)) + message
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def test_a_solicitation_becomes_its_answer(kernel: Kernel) -> None:
    """fastdp.md 10."""
    asked, sender = (bytes.fromhex("fd98") + bytes(13) + bytes((n,)) for n in (2, 1))
    kernel.set("answers", asked, THEIRS + b"\x02\0")
    verdict, answer, after = kernel.run("to_mesh", solicitation(asked, sender))
    assert verdict == REDIRECTED
    assert struct.unpack_from("=I", after, MARK_AT)[0] == layout.MARK
    assert answer[:12] == MINE + THEIRS
    assert answer[22:54] == asked + sender
    assert answer[54] == 136
    assert answer[58] == 0x60
    assert answer[62:78] == asked
    assert answer[78:] == b"\x02\x01" + THEIRS
    assert checksum(asked, sender, answer[54:56] + b"\0\0" + answer[58:]) == int.from_bytes(
        answer[56:58], "big"
    )
    # A probe for duplicates has no sender; the holder must hear it.
    assert kernel.run("to_mesh", solicitation(asked, bytes(16)))[0] == NEXT
    assert kernel.run("to_mesh", solicitation(sender, asked))[0] == NEXT
    kernel.set("answers", asked, THEIRS + b"\x01\0")
    assert kernel.run("to_mesh", solicitation(asked, sender))[0] == STOLEN


def test_the_daemon_s_frames_must_be_tagged(kernel: Kernel) -> None:
    """A device takes the first tag off, which no run without one does: so here none is tagged."""
    inner = CONTROL_HEADER + b"payload".ljust(46, b"\0")
    wrapped = wrap(layout.SEND_CONTROL, 0, PEER, inner)
    assert kernel.run("from_user", wrapped)[0] == SHOT
    assert kernel.run("from_user", inner)[0] == SHOT
    assert kernel.drops() == {Drop.MALFORMED: 2}


OTHERS = st.sampled_from([b"\x08\x06", b"\x81\0", b"\x88\xa8", b"\x88\xb5"])
INTERNET = st.sampled_from([b"\x08\0", b"\x86\xdd"])
BODIES = st.one_of(
    st.builds(bytes.__add__, OTHERS, st.binary(min_size=1, max_size=200)),
    # The kernel runs no frame that ends within its IP header.
    st.builds(bytes.__add__, INTERNET, st.binary(min_size=40, max_size=200)),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=12, max_size=12), BODIES)
@example(GROUP + MINE, b"\x08\x06x")
@example(bytes(12), b"\x88\xb5x")
@example(b"\x33" * 6 + MINE, b"\x86\xdd" + bytes(72))
def test_whatever_the_frame_is(kernel: Kernel, macs: bytes, body: bytes) -> None:
    """Every program comes to a verdict, and a good frame afterwards goes its way."""
    kernel.set("attached", layout.mac_key(THEIRS), layout.key(PEER))
    for name in kernel.programs.fds:
        verdict = kernel.run(name, macs + body, cb0=struct.unpack("=I", macs[:4])[0])[0]
        assert verdict in (PASSED, SHOT, STOLEN, REDIRECTED, NEXT)
    assert kernel.run("to_mesh", frame())[0] == PASSED


@given(st.binary(max_size=200))
@example(bytes(14))
@example(wrap(1, 2, 3, CONTROL_HEADER))
def test_the_daemon_survives_whatever_comes_up(octets: bytes) -> None:
    upcall = unwrap(octets)
    assert upcall is None or len(upcall.frame) < len(octets)


def test_upcalls_are_read_as_they_were_wrapped() -> None:
    inner = GROUP + MINE + b"\x88\xb6body"
    got = unwrap(wrap(3, PEER, US, inner))
    assert got is not None
    assert (got.reason, got.source, got.target, got.frame) == (3, PEER, US, inner)
    assert unwrap(wrap(1, PEER, US, CONTROL_HEADER + b"beat")) is not None
    assert unwrap(wrap(1, PEER, US, inner)) is None, "a pod's frame is no control frame"
    assert unwrap(inner.ljust(60)) is None


def test_objects_are_where_the_wheel_has_them() -> None:
    assert (Path(layout.__file__).parents[2] / "link" / "bpf" / "objects").is_dir()


def test_unicast_nobody_is_known_behind_is_bounded(kernel: Kernel) -> None:
    """protocol.md 14.8: what is at once; whoever is known is reached all the same."""
    verdicts = [kernel.run("to_mesh", frame(b"\2" * 6))[0] for _ in range(3000)]
    passed = verdicts.count(NEXT)
    assert layout.FLOODS_AT_ONCE <= passed < 3000
    assert verdicts.count(SHOT) == 3000 - passed == kernel.drops()[Drop.FLOOD_LIMIT]
    assert kernel.run("to_mesh", frame(GROUP))[0] == NEXT, "nor are groups bounded"
    kernel.set("attached", layout.mac_key(THEIRS), layout.key(PEER))
    assert kernel.run("to_mesh", frame())[0] == PASSED

"""Joined super-frames written to a real TAP: the kernel makes of them the frames that were joined.

TAP and pod hang on one bridge as in production, the pod's cable without any offload, so that what
crosses it has been segmented and summed by the kernel and not by us.
"""

from __future__ import annotations

import os
import random
import re
import select
import socket
from collections.abc import Iterator

import pytest

from bench.nodes import inside, ip, run_in
from mesh.drivers.tap import open_tap
from mesh.link.joining import Joiner
from tests.frames import ACK, PARTIAL, PSH, VALID, build, on_the_wire, without_ident
from tests.netns.traffic import listen_to

pytestmark = pytest.mark.netns

KERNEL = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
UDP = pytest.param(
    False, id="udp", marks=pytest.mark.skipif(KERNEL < (6, 2), reason="USO needs Linux 6.2")
)

HOST, POD = f"jn{os.getpid()}h", f"jn{os.getpid()}p"
POD_MAC = "02:00:00:00:00:bb"
"""What the frames of tests.frames are addressed to."""


@pytest.fixture
def tap() -> Iterator[int]:
    """A TAP on a bridge; at the bridge's other port a pod that is 10.0.0.2 and fd00::2."""
    fd = -1
    try:
        for namespace in (HOST, POD):
            ip("netns", "add", namespace)
            run_in(namespace, "ip", "link", "set", "lo", "up")
        for name in ("all", "default"):
            run_in(HOST, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        fd = inside(HOST, lambda: open_tap("tap0"))
        run_in(HOST, "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        peer = ("peer", "name", "eth0", "address", POD_MAC, "netns", POD)
        run_in(HOST, "ip", "link", "add", "v0", "type", "veth", *peer)
        for device in ("tap0", "v0"):
            run_in(HOST, "ip", "link", "set", device, "master", "br0", "up")
        run_in(HOST, "ip", "link", "set", "br0", "up")
        for namespace, device in ((HOST, "v0"), (POD, "eth0")):
            off = ("tx", "off", "tso", "off", "gso", "off", "gro", "off")
            run_in(namespace, "ethtool", "-K", device, *off)
        run_in(POD, "ip", "link", "set", "eth0", "up")
        run_in(POD, "ip", "address", "add", "10.0.0.2/24", "dev", "eth0")
        run_in(POD, "ip", "address", "add", "fd00::2/64", "dev", "eth0", "nodad")
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
        for namespace in (HOST, POD):
            ip("netns", "del", namespace, check=False)


def joined(frames: list[bytes]) -> list[bytes]:
    written: list[bytes] = []
    joiner = Joiner(lambda frame: written.append(bytes(frame)))
    for frame in frames:
        joiner.add(memoryview(frame))
    joiner.flush()
    return written


def heard(ear: socket.socket, count: int) -> list[bytes]:
    """The next so many frames of 10.0.0.1 or fd00::1 on the pod's cable."""
    frames: list[bytes] = []
    ear.setblocking(False)
    while len(frames) < count and select.select([ear], [], [], 10.0)[0]:
        packet = ear.recv(1 << 17)
        if packet[6:12] == bytes.fromhex("0200000000aa"):
            frames.append(packet)
    return frames


@pytest.mark.parametrize("known", [PARTIAL, VALID], ids=["to-be-done", "known-right"])
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("tcp", [UDP, pytest.param(True, id="tcp")])
@pytest.mark.parametrize("df", [False, True], ids=["may-fragment", "df"])
def test_the_kernel_takes_apart_what_we_joined(
    tap: int, df: bool, tcp: bool, six: bool, known: int
) -> None:
    """virtio specification 1.2, 5.1.6.2: every octet that went in, checksums included."""
    frames = []
    seq = 2**32 - 5000
    for n, size in enumerate([1400] * 20 + [333] + [64] * 30 + [13] + [1] * 40):
        payload = random.Random(n).randbytes(size)
        bits = ACK | (PSH if size in (333, 13) else 0)
        kwargs = {"six": six, "tcp": tcp, "known": known, "df": df, "seq": seq % 2**32}
        frames.append(build(payload, ident=65_520 + n & 0xFFFF, bits=bits, **kwargs))  # type: ignore[arg-type]  # all ints
        seq += size
    wholes = joined(frames)
    assert len(wholes) == 3, "three sizes, three super-frames"
    with listen_to(POD, "eth0") as ear:
        for whole in wholes:
            assert os.write(tap, whole) == len(whole)
        came = heard(ear, len(frames))
    sent = [segment for frame in frames for segment in on_the_wire(frame)]
    assert [without_ident(frame) for frame in came] == [without_ident(frame) for frame in sent]
    assert came == sent, "these had identifications going up, so not even those differ"


@pytest.mark.skipif(KERNEL < (6, 2), reason="USO needs Linux 6.2")
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_a_socket_gets_each_datagram(tap: int, six: bool) -> None:
    """The pod's own stack checks sums and finds every datagram for itself."""
    kind = socket.AF_INET6 if six else socket.AF_INET
    datagrams = [random.Random(n).randbytes(200 if n < 63 else 50) for n in range(64)]
    frames = [build(data, six=six, ident=n) for n, data in enumerate(datagrams)]
    with inside(POD, lambda: socket.socket(kind, socket.SOCK_DGRAM)) as sock:
        sock.bind(("fd00::2" if six else "10.0.0.2", 2))
        sock.settimeout(10.0)
        (whole,) = joined(frames)
        os.write(tap, whole)
        assert [sock.recv(2000) for _ in datagrams] == datagrams


def test_super_frames_joined_to_larger_ones(tap: int) -> None:
    """What another host cut at its records becomes one, and the kernel cuts it at segments."""
    frames, seq = [], 0
    for n, segments in enumerate([3, 3, 1, 5]):
        payload = random.Random(n).randbytes(1000 * segments)
        gso_size = 1000 if segments > 1 else 0
        frames.append(build(payload, tcp=True, gso_size=gso_size, seq=seq, ident=seq // 1000))
        seq += len(payload)
    (whole,) = joined(frames)
    with listen_to(POD, "eth0") as ear:
        os.write(tap, whole)
        came = heard(ear, 12)
    assert came == [segment for frame in frames for segment in on_the_wire(frame)]


@pytest.mark.skipif(KERNEL < (6, 2), reason="USO needs Linux 6.2")
def test_a_wrong_sum_is_not_made_right(tap: int) -> None:
    """A sum still to be done that begins wrongly ends wrongly, as it would have alone."""
    frames = []
    for n in range(3):
        frame = bytearray(build(bytes(100), ident=n))
        frame[10 + 34 + 6 : 10 + 34 + 8] = b"\x12\x34"
        frames.append(bytes(frame))
    (whole,) = joined(frames)
    with listen_to(POD, "eth0") as ear:
        os.write(tap, whole)
        came = heard(ear, 3)
    assert came == [segment for frame in frames for segment in on_the_wire(frame)]

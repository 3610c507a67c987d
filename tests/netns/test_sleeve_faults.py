"""What befalls a worker while pods talk: new keys, receivers that stop, devices that fail.

docs/protocol.md 10.4, 11.2, 11.4: counted from end to end, by numbers in the datagrams themselves.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from bench.hosts import pod_to_pod
from bench.load import stream
from bench.nodes import TAP, Cable, Node, World, inside, ip, keys
from mesh.wire import worker as w
from tests.netns.traffic import eventually, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sf{os.getpid() % 1000}"
FLOWS, BURST, OCTETS = 8, 32, 1300
ROTATIONS = 12


def datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


class Numbered:
    """Datagrams of several flows from pod to pod, a burst of each under way at any time; every one
    has its number, and each must come, once and in order, before the next burst goes."""

    def __init__(self, source: Node, target: Node) -> None:
        self._stack = ExitStack()
        self.wrong: list[str] = []
        self.came = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._pairs = [self._pair(source, target, 7000 + n) for n in range(FLOWS)]

    def _pair(self, source: Node, target: Node, port: int) -> tuple[socket.socket, socket.socket]:
        ends = (inside(node.pod, datagram_socket) for node in (source, target))
        sender, receiver = map(self._stack.enter_context, ends)
        receiver.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)
        receiver.bind((target.address, port))
        receiver.settimeout(3)
        sender.connect((target.address, port))
        return sender, receiver

    def _run(self) -> None:
        number = 0
        while not self._over.is_set() and not self.wrong:
            for sender, _ in self._pairs:
                for n in range(number, number + BURST):
                    sender.send(struct.pack("!I", n).ljust(OCTETS, b"."))
            for flow, (_, receiver) in enumerate(self._pairs):
                self._take(flow, receiver, number)
            number += BURST

    def _take(self, flow: int, receiver: socket.socket, number: int) -> None:
        for n in range(number, number + BURST):
            try:
                (got,) = struct.unpack_from("!I", receiver.recv(2048))
            except TimeoutError:
                self.wrong.append(f"flow {flow}: {n} did not come")
                return
            if got != n:
                self.wrong.append(f"flow {flow}: {got} came where {n} was due")
                return
            self.came += 1

    def __enter__(self) -> Numbered:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)
        self._stack.close()

    def more(self, count: int) -> None:
        """Wait until so many more have come."""
        until = self.came + count
        eventually(lambda: bool(self.wrong) or self.came >= until, within=60)
        assert not self.wrong


def rotate(a: Node, b: Node, epoch: int, settle: Callable[[], None]) -> None:
    """From the epoch before to this one, as daemons do; ``settle`` between the steps."""
    for node, other in ((a, b), (b, a)):
        node.say(keys(node.number, other.number, epoch))
        told = node.wait_for(w.EpochInstalled)
        assert told == w.EpochInstalled(other.short_id, epoch)
    for node, other in ((a, b), (b, a)):
        node.say(w.ActivateEpoch(other.short_id, epoch))
        settle()
    for node, other in ((a, b), (b, a)):
        node.say(w.RetireEpoch(other.short_id, epoch - 1))


UNDECIPHERED = {"unknown-epoch", "wrong-tag", "no-key", "unauthentic", "replayed"}
"""What a record's drop would be called that came under a key too early or too late."""


@pytest.mark.parametrize("offloads", [True, False])
def test_keys_change_beside_a_stream_at_full_rate_and_no_record_is_lost(offloads: bool) -> None:
    """11.2: what one worker sealed the other opened, by their own counts of records, in all keys;
    what the socket had no room for is told apart."""
    with World(TAG, 2, [Cable(1, 2)], offloads=offloads) as world:
        a, b = world.nodes
        ping(a, b)
        before = a.counters()

        def more_came(octets: int = 15_000_000) -> None:
            until = b.counters().rx_octets + octets
            eventually(lambda: b.counters().rx_octets >= until, within=60)

        with stream(pod_to_pod(a, b)):
            more_came()
            for epoch in range(2, 2 + ROTATIONS):
                rotate(a, b, epoch, more_came)
                more_came()
        assert a.counters().tx_octets - before.tx_octets > 3 * ROTATIONS * 15_000_000

        def unaccounted() -> int:
            """Records one sent that the other neither opened nor, with their datagrams, lost."""
            sent, came = a.counters().peers[0], b.counters().peers[0]
            overruns = b.drops().get("receive-queue-full", 0)
            return max(0, sent.tx_records - came.rx_records - overruns)

        eventually(lambda: unaccounted() == 0)
        for node in (a, b):
            assert not node.drops().keys() & UNDECIPHERED, node.drops()


@pytest.mark.parametrize("lanes", [1, 3])
def test_keys_change_under_load_and_no_datagram_is_lost(lanes: int) -> None:
    """11.2: not one, nor twice, nor out of turn in its flow; counted also by the workers."""
    with World(TAG, 2, [Cable(1, 2)], lanes=(lanes,)) as world:
        a, b = world.nodes
        ping(a, b)
        with Numbered(a, b) as numbered:
            numbered.more(2000)
            for epoch in range(2, 2 + ROTATIONS):
                rotate(a, b, epoch, lambda: numbered.more(1000))
                numbered.more(500)
        assert numbered.wrong == []
        assert numbered.came >= 2000 + ROTATIONS * 2500
        assert b.counters().rx_frames > 0
        for node in (a, b):
            assert not node.drops().keys() & UNDECIPHERED, node.drops()


def test_a_pod_that_does_not_read_harms_nobody_else() -> None:
    """What its socket has no room for, its kernel drops and counts."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        ping(a, b)
        with ExitStack() as stack:
            deaf, sender = (stack.enter_context(inside(n.pod, datagram_socket)) for n in (b, a))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.bind((b.address, 6000))
            for _ in range(3000):
                sender.sendto(bytes(OCTETS), (b.address, 6000))
            eventually(lambda: _receive_errors(b) > 1000)
            with Numbered(a, b) as numbered:
                numbered.more(3000)
            assert numbered.wrong == []
        transfer(a, b, 3_000_000)
        assert not b.drops().keys() & {"tap-full", "receive-queue-full"}


def _receive_errors(node: Node) -> int:
    """Datagrams that the pod's sockets had no room for."""
    rows = inside(node.pod, Path("/proc/thread-self/net/snmp").read_text).splitlines()
    head, values = (row.split() for row in rows if row.startswith("Udp:"))
    return int(values[head.index("RcvbufErrors")])


def test_a_worker_that_stands_still_loses_by_reason_and_goes_on() -> None:
    """10.9: what its socket had no room for is its own fault and said so; nothing else is lost."""
    with World(TAG, 3, [Cable(1, 2), Cable(1, 3)], via={(2, 3): 1}) as world:
        a, b, c = world.nodes
        ping(a, b)
        ping(a, c)
        os.kill(b.pid, signal.SIGSTOP)
        try:
            with inside(a.pod, datagram_socket) as sender:
                for _ in range(40_000):
                    sender.sendto(bytes(OCTETS), (b.address, 6000))
                with Numbered(a, c) as numbered:
                    numbered.more(1000)
            assert numbered.wrong == []
        finally:
            os.kill(b.pid, signal.SIGCONT)
        eventually(lambda: b.drops().get("receive-queue-full", 0) > 0)
        transfer(a, b, 3_000_000)
        transfer(b, c, 1_000_000)


@contextmanager
def down(node: Node, device: str) -> Iterator[None]:
    ip("-n", node.namespace, "link", "set", device, "down")
    try:
        yield
    finally:
        ip("-n", node.namespace, "link", "set", device, "up")


@contextmanager
def addressless(node: Node, device: str) -> Iterator[None]:
    """The underlay's address is gone: what is sent has no source, what comes is not for us."""
    ip("-n", node.namespace, "addr", "flush", "dev", device)
    try:
        yield
    finally:
        ip("-n", node.namespace, "addr", "add", f"10.99.1.{node.number}/24", "dev", device)


@pytest.mark.parametrize(
    ("fail", "device", "reason"),
    [
        (down, "u1", "underlay-error"),
        (addressless, "u1", "underlay-error"),
        (down, TAP, "tap-refused"),
    ],
    ids=["interface", "address", "tap"],
)
def test_a_device_that_fails_under_traffic_is_waited_for(
    fail: Callable[[Node, str], AbstractContextManager[None]], device: str, reason: str
) -> None:
    """No error of a device ends a worker but the TAP's end; what it cost is counted by reason."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        ping(a, b)
        failing = b if device == TAP else a
        with Numbered(a, b) as numbered:
            numbered.more(1000)
            with fail(failing, device):
                eventually(lambda: failing.drops().get(reason, 0) > 0, within=20)
                eventually(lambda: bool(numbered.wrong), within=20)
        assert failing.exit_code() is None
        eventually(lambda: "bytes from" in ping(a, b, "-W", "1", check=False), within=30)
        with Numbered(a, b) as again:
            again.more(1000)
        transfer(a, b, 3_000_000)

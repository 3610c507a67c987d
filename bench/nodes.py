"""Hosts with one sleeve worker each and one pod behind its bridge, driven by the worker protocol.

No daemon is needed: keys are made up, addresses and routes are told. The benches and the tests of
the data path build their little meshes of these::

    pod --veth-- bridge -- TAP [worker] UDP --veth-- UDP [worker] TAP -- bridge --veth-- pod
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from mesh.drivers.tap import open_tap, open_udp
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from weaver.daemon.nethelper import POD_GSO_MAX

T = TypeVar("T")
M = TypeVar("M", bound=w.FromWorker)

CLONE_NEWNET = 0x40000000
TAP, BRIDGE = "sleeve0", "weave"
PORT = 6783
TAP_MTU = 65_000
"""Of TAP and bridge: what is too big for a peer must reach the worker, which answers it."""


def leave_nothing() -> None:
    """End as Ctrl-C does when told to, so that namespaces and processes are cleared away."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def ip(*args: str, check: bool = True) -> str:
    """Run ``ip``; its output."""
    return run("ip", *args, check=check)


def run(*argv: str, check: bool = True, within: float = 60.0) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=within)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def run_in(namespace: str, *argv: str, check: bool = True, within: float = 60.0) -> str:
    return run("ip", "netns", "exec", namespace, *argv, check=check, within=within)


def inside(namespace: str, make: Callable[[], T]) -> T:
    """What ``make`` makes in a network namespace; only a thread of its own goes there."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns {namespace}")
            finally:
                os.close(fd)
            results.append(make())
        except BaseException as err:  # handed to the caller
            errors.append(err)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Node:
    """A host's devices, worker and pod."""

    def __init__(self, tag: str, number: int, module: str = "mesh.drivers.sleeve") -> None:
        self._module = module
        self.namespace, self.pod = f"{tag}h{number}", f"{tag}p{number}"
        self.number = number
        self.short_id = ShortID(number)
        self.name = PeerName(bytes((0, 0, 0, 0, 0, 0, 0, number)))
        self.address, self.address6 = f"10.98.0.{number}", f"fd98::{number}"
        self.underlay: dict[int, str] = {}
        self.drops_before: Counter[str] = Counter()
        self.tap_fd = -1
        self.udp: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def make_devices(self, pod_mtu: int) -> None:
        """TAP, socket, bridge and a pod of this MTU."""
        host, pod, port = self.namespace, self.pod, f"pod{self.number}"
        for namespace in (host, pod):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        self.tap_fd = inside(host, lambda: open_tap(TAP))
        self.udp = inside(host, lambda: open_udp(PORT))
        ip("-n", host, "link", "add", BRIDGE, "type", "bridge")
        ip("-n", host, "link", "set", TAP, "mtu", str(TAP_MTU))
        ip("-n", host, "link", "set", TAP, "master", BRIDGE, "up")
        ip("-n", host, "link", "set", BRIDGE, "up")
        ip("link", "add", port, "netns", host, "type", "veth", "peer", "name", "eth0", "netns", pod)
        ip("-n", host, "link", "set", port, "mtu", str(max(pod_mtu, 1500)), "master", BRIDGE, "up")
        # As CNI makes them: weaver.daemon.nethelper.POD_GSO_MAX.
        gso = ("gso_max_size", str(POD_GSO_MAX))
        ip("-n", pod, "link", "set", "eth0", "mtu", str(pod_mtu), *gso, "up")
        ip("-n", pod, "addr", "add", f"{self.address}/24", "dev", "eth0")
        ip("-n", pod, "addr", "add", f"{self.address6}/64", "dev", "eth0", "nodad")

    def start(self, *, encrypted: bool = True, mtu: int = 1420) -> None:
        """Start the worker on the devices and configure it."""
        assert self.udp is not None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = {"tap": self.tap_fd, "udp": self.udp.fileno(), "control": theirs.fileno()}
        flags = [part for name, fd in fds.items() for part in (f"--{name}-fd", str(fd))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, *flags],
            pass_fds=tuple(fds.values()),
            cwd=Path(__file__).parent.parent,
        )
        theirs.close()
        ours.settimeout(10)
        self._control = ours
        self.wait_for(w.Ready)
        self.say(w.Configure(self.short_id, self.name, mtu, encrypted))

    def stop(self) -> int:
        """Close the control socket, which ends the worker; its exit code."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is None:
            return 0
        process, self._process = self._process, None
        try:
            return process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def remove(self) -> None:
        try:
            self.stop()
        finally:
            if self.udp is not None:
                self.udp.close()
            if self.tap_fd >= 0:
                os.close(self.tap_fd)
            for namespace in (self.pod, self.namespace):
                ip("netns", "del", namespace, check=False)

    def say(self, message: w.ToWorker) -> None:
        assert self._control is not None
        self._control.send(w.encode(message))

    def wait_for(self, kind: type[M], within: float = 10.0) -> M:
        """The worker's next message of a kind; the others are thrown away."""
        assert self._control is not None
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            self._control.settimeout(left)
            message = w.decode(self._control.recv(w.MAX_PACKET))
            if isinstance(message, kind):
                return message
        raise TimeoutError(kind.__name__)

    def endpoint_of(self, other: Node) -> Endpoint:
        return Endpoint(self.underlay[other.number], PORT)

    def counters(self) -> w.Counters:
        self.say(w.GetCounters())
        return self.wait_for(w.Counters)

    def drops(self) -> dict[str, int]:
        """What the worker dropped, and why, since it was introduced to the others."""
        now = Counter(dict(self.counters().drops))
        return dict(now - self.drops_before)

    def cpu_seconds(self) -> float:
        """Processor time of the worker so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cable:
    """A veth pair between the hosts of two nodes."""

    a: int
    b: int
    mtu: int = 1500


class World:
    """Nodes 1 to ``count``, cabled; a context manager that leaves nothing behind.

    ``via`` names the relay for a pair that has no cable: {(1, 3): 2}, both ways.
    """

    def __init__(
        self,
        tag: str,
        count: int,
        cables: list[Cable],
        *,
        via: dict[tuple[int, int], int] | None = None,
        pod_mtu: int = 1420,
        mtu: int = 1420,
        encrypted: bool = True,
        offloads: bool = True,
        module: str = "mesh.drivers.sleeve",
    ) -> None:
        self.nodes = [Node(tag, n, module) for n in range(1, count + 1)]
        self._cables = cables
        self._via = {**(via or {}), **{(b, a): r for (a, b), r in (via or {}).items()}}
        self._pod_mtu, self._mtu = pod_mtu, mtu
        self._encrypted, self._offloads = encrypted, offloads

    def __enter__(self) -> World:
        try:
            for node in self.nodes:
                node.make_devices(self._pod_mtu)
            for n, cable in enumerate(self._cables, 1):
                self._lay(n, cable)
            for node in self.nodes:
                node.start(encrypted=self._encrypted, mtu=self._mtu)
            self.introduce()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.remove()

    def node(self, number: int) -> Node:
        return self.nodes[number - 1]

    def introduce(self, epoch: int = 1) -> None:
        """Tell every worker of every other: addresses, routes, trees, and keys of this epoch."""
        for node in self.nodes:
            self.tell(node, epoch)
        for node in self.nodes:
            for other in self.nodes:
                if other is not node and self._encrypted:
                    node.say(w.ActivateEpoch(other.short_id, epoch))
            # Answered when everything before was read; pods ask for each other before that.
            node.drops_before = Counter(dict(node.counters().drops))

    def tell(self, node: Node, epoch: int) -> None:
        others = [other for other in self.nodes if other is not node]
        for other in others:
            node.say(w.SetPeer(other.short_id, other.name, self._mtu))
            if other.number in node.underlay:
                segment = self._segment(node, other)
                node.say(w.SetNeighbour(other.short_id, node.endpoint_of(other), segment))
        for other in others:
            hop = self._via.get((node.number, other.number), other.number)
            segments = [self._segment(node, self.node(hop))]
            if hop != other.number:
                segments.append(self._segment(self.node(hop), other))
            node.say(w.SetRoute(other.short_id, ShortID(hop), min(segments)))
            if self._encrypted:
                node.say(keys(node.number, other.number, epoch))
                node.wait_for(w.EpochInstalled)
        for origin in self.nodes:
            node.say(w.SetTree(origin.short_id, self._children(node.number, origin.number)))

    def _children(self, us: int, origin: int) -> tuple[ShortID, ...]:
        """The broadcast tree: to each node by the route its origin has to it."""
        there = {n.number: self._via.get((origin, n.number), origin) for n in self.nodes}
        return tuple(ShortID(n) for n, parent in there.items() if parent == us and n != origin)

    def _segment(self, a: Node, b: Node) -> int:
        pair = {a.number, b.number}
        mtu = next((c.mtu for c in self._cables if {c.a, c.b} == pair), 1500)
        return mtu - 28

    def _lay(self, number: int, cable: Cable) -> None:
        a, b = self.node(cable.a), self.node(cable.b)
        device = f"u{number}"
        ip(*f"link add {device} netns {a.namespace} type veth".split(),
           *f"peer name {device} netns {b.namespace}".split())  # fmt: skip
        for n, (node, other) in enumerate(((a, b), (b, a)), 1):
            where = node.namespace
            ip("-n", where, "addr", "add", f"10.99.{number}.{n}/24", "dev", device)
            ip("-n", where, "link", "set", device, "mtu", str(cable.mtu), "up")
            node.underlay[other.number] = f"10.99.{number}.{3 - n}"
            if not self._offloads:
                flags = ("tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off")
                run_in(where, "ethtool", "-K", device, *flags)


def keys(us: int, them: int, epoch: int) -> w.InstallEpoch:
    """Keys of one end of a pair, made up from the numbers of both."""
    rx, tx = (sha256(f"{a}>{b}@{epoch}".encode()).digest() for a, b in ((them, us), (us, them)))
    rx_tag, tx_tag = (int.from_bytes(key[:4], "big") for key in (rx, tx))
    return w.InstallEpoch(ShortID(them), epoch, rx, tx, rx_tag, tx_tag)

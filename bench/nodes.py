"""Hosts with one sleeve worker each and one pod behind its bridge, driven by the worker protocol.

No daemon is needed: keys are made up, addresses and routes are told. The benches and the tests of
the data path build their little meshes of these::

    pod --veth-- bridge -- TAP [worker] UDP --veth-- UDP [worker] TAP -- bridge --veth-- pod
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mesh.drivers.tap import open_taps, open_udps
from mesh.link.lanes import Gathering
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher
from weaver.daemon.nethelper import POD_GSO_MAX

if TYPE_CHECKING:
    from bench.weather import Weather

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
    """A host's devices, worker and pod. ``lanes``: processes of its worker."""

    def __init__(
        self, tag: str, number: int, module: str = "mesh.drivers.sleeve", lanes: int = 1
    ) -> None:
        self._module, self.lanes = module, lanes
        self.namespace, self.pod = f"{tag}h{number}", f"{tag}p{number}"
        self.number = number
        self.short_id = ShortID(number)
        self.name = PeerName(bytes((0, 0, 0, 0, 0, 0, 0, number)))
        self.address, self.address6 = f"10.98.0.{number}", f"fd98::{number}"
        self.underlay: dict[int, str] = {}
        self.drops_before: Counter[str] = Counter()
        self._taps: list[int] = []
        self._udps: list[socket.socket] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._controls: list[socket.socket] = []
        self._gathering = Gathering(lanes)

    @property
    def pid(self) -> int:
        """Of the first lane's process."""
        return self._processes[0].pid

    @property
    def pids(self) -> list[int]:
        """Of all lanes' processes."""
        return [process.pid for process in self._processes]

    def devices(self) -> list[tuple[int, int]]:
        """TAP queue and UDP socket of each lane."""
        return list(zip(self._taps, (sock.fileno() for sock in self._udps), strict=True))

    def make_devices(self, pod_mtu: int) -> None:
        """TAP, socket, bridge and a pod of this MTU."""
        host, pod, port = self.namespace, self.pod, f"pod{self.number}"
        for namespace in (host, pod):
            ip("netns", "add", namespace)
            ip("-n", namespace, "link", "set", "lo", "up")
        self._taps = inside(host, lambda: open_taps(TAP, self.lanes))
        self._udps = inside(host, lambda: open_udps(PORT, self.lanes))
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

    def start(self, *, encrypted: bool = True, mtu: int = 1400) -> None:
        """Start the worker on the devices and configure it."""
        self._gathering = Gathering(self.lanes)
        pairs = {
            pair: socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            for pair in combinations(range(self.lanes), 2)
        }
        for lane, (tap, udp) in enumerate(self.devices()):
            others = [ends[pair.index(lane)].fileno() for pair, ends in pairs.items()
                      if lane in pair]  # fmt: skip
            self._start_lane(lane, tap, udp, others)
        for ends in pairs.values():
            for end in ends:
                end.close()
        for lane in range(self.lanes):
            assert isinstance(w.decode(self._controls[lane].recv(w.MAX_PACKET)), w.Ready)
        self.say(w.Configure(self.short_id, self.name, mtu, encrypted))

    def _start_lane(self, lane: int, tap: int, udp: int, others: list[int]) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fds = {"tap": tap, "udp": udp, "control": theirs.fileno()}
        flags = [part for name, fd in fds.items() for part in (f"--{name}-fd", str(fd))]
        flags += ["--lane", str(lane), "--lane-fds", ",".join(map(str, others))]
        self._processes.append(
            subprocess.Popen(
                [sys.executable, "-m", self._module, *flags],
                pass_fds=(*fds.values(), *others),
                cwd=Path(__file__).parent.parent,
            )
        )
        theirs.close()
        ours.settimeout(10)
        self._controls.append(ours)

    def stop(self) -> int:
        """Close the control socket, which ends the worker; its exit code."""
        for control in self._controls:
            control.close()
        self._controls.clear()
        code = 0
        processes, self._processes = self._processes, []
        for process in processes:
            try:
                code = process.wait(5) or code
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
        return code

    def exit_code(self) -> int | None:
        """Of the first lane's process; None while it runs."""
        return self._processes[0].poll()

    def running(self) -> int:
        """How many of the worker's processes have not ended."""
        return sum(process.poll() is None for process in self._processes)

    def remove(self) -> None:
        try:
            self.stop()
        finally:
            for sock in self._udps:
                sock.close()
            for fd in self._taps:
                os.close(fd)
            for namespace in (self.pod, self.namespace):
                ip("netns", "del", namespace, check=False)

    def say(self, message: w.ToWorker) -> None:
        for lane in self._gathering.lanes_for(message):
            self._controls[lane].send(w.encode(message))

    def wait_for(self, kind: type[M], within: float = 10.0) -> M:
        """The worker's next message of a kind; the others are thrown away."""
        deadline = time.monotonic() + within
        while (left := deadline - time.monotonic()) > 0:
            readable, _, _ = select.select(self._controls, [], [], left)
            for control in readable:
                said = w.decode(control.recv(w.MAX_PACKET))
                assert isinstance(said, w.FromWorker)
                message = self._gathering.take(self._controls.index(control), said)
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

    def is_filtered(self) -> bool:
        """Whether the first lane's socket has a filter (SO_GET_FILTER says how long it is)."""
        return bool(self._udps[0].getsockopt(socket.SOL_SOCKET, 26, 1024))

    def cpu_seconds(self) -> float:
        """Processor time of the worker so far."""
        ticks = 0
        for process in self._processes:
            stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(stat[11]) + int(stat[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cable:
    """A veth pair between the hosts of two nodes, or one with weather in its middle."""

    a: int
    b: int
    mtu: int = 1500
    weather: Weather | None = None


class World:
    """Nodes 1 to ``count``, cabled; a context manager that leaves nothing behind.

    ``lanes``: processes of each node's worker, repeated as often as need be.
    ``via`` names the next hop for a pair that has no cable: {(1, 3): 2}, both ways where the way
    back has no entry of its own.
    """

    def __init__(
        self,
        tag: str,
        count: int,
        cables: list[Cable],
        *,
        via: dict[tuple[int, int], int] | None = None,
        pod_mtu: int = 1400,
        mtu: int = 1400,
        encrypted: bool = True,
        offloads: bool = True,
        module: str = "mesh.drivers.sleeve",
        lanes: Sequence[int] = (1,),
        cipher: Cipher = Cipher.AES_256_GCM,
    ) -> None:
        self.cipher = cipher
        self.nodes = [
            Node(tag, n, module, lanes[(n - 1) % len(lanes)]) for n in range(1, count + 1)
        ]
        self.cables = cables
        self._via = {**{(b, a): r for (a, b), r in (via or {}).items()}, **(via or {})}
        self._pod_mtu, self._mtu = pod_mtu, mtu
        self._encrypted, self._offloads = encrypted, offloads

    def __enter__(self) -> World:
        try:
            for node in self.nodes:
                node.make_devices(self._pod_mtu)
            for n, cable in enumerate(self.cables, 1):
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
        for cable in self.cables:
            if cable.weather is not None:
                cable.weather.remove()

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

    def reintroduce(self, epoch: int) -> None:
        """Let every worker forget the others, and all it learned of paths to them; then anew."""
        for node in self.nodes:
            for other in self.nodes:
                if other is not node:
                    node.say(w.DropPeer(other.short_id))
        self.introduce(epoch)

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
                node.say(keys(node.number, other.number, epoch, self.cipher))
                node.wait_for(w.EpochInstalled)
        for origin in self.nodes:
            node.say(w.SetTree(origin.short_id, self._children(node.number, origin.number)))

    def _children(self, us: int, origin: int) -> tuple[ShortID, ...]:
        """The broadcast tree: to each node from the hop before it, as seen from the origin."""
        there = {n.number: self._via.get((n.number, origin), origin) for n in self.nodes}
        return tuple(ShortID(n) for n, parent in there.items() if parent == us and n != origin)

    def _segment(self, a: Node, b: Node) -> int:
        pair = {a.number, b.number}
        mtu = next((c.mtu for c in self.cables if {c.a, c.b} == pair), 1500)
        return mtu - 28

    def _lay(self, number: int, cable: Cable) -> None:
        a, b = self.node(cable.a), self.node(cable.b)
        device = f"u{number}"
        if cable.weather is not None:
            cable.weather.lay(a.namespace, b.namespace, device, cable.mtu)
        else:
            ip(*f"link add {device} netns {a.namespace} type veth".split(),
               *f"peer name {device} netns {b.namespace}".split())  # fmt: skip
        for n, (node, other) in enumerate(((a, b), (b, a)), 1):
            where = node.namespace
            ip("-n", where, "addr", "add", f"10.99.{number}.{n}/24", "dev", device)
            ip("-n", where, "link", "set", device, "mtu", str(cable.mtu), "up")
            node.underlay[other.number] = f"10.99.{number}.{3 - n}"
            if not self._offloads and cable.weather is None:
                flags = ("tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off")
                run_in(where, "ethtool", "-K", device, *flags)


def keys(us: int, them: int, epoch: int, cipher: Cipher = Cipher.AES_256_GCM) -> w.InstallEpoch:
    """Keys of one end of a pair, made up from the numbers of both."""
    rx, tx = (sha256(f"{a}>{b}@{epoch}".encode()).digest() for a, b in ((them, us), (us, them)))
    rx_tag, tx_tag = (int.from_bytes(key[:4], "big") for key in (rx, tx))
    return w.InstallEpoch(ShortID(them), epoch, rx, tx, rx_tag, tx_tag, cipher)

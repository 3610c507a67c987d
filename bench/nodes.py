"""Namespaces with one sleeve worker each, driven by the worker protocol: the benches' hosts."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

from mesh.drivers.tap import open_tap, open_udp
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w

CLONE_NEWNET = 0x40000000
TAP = "sleeve0"
PORT = 6783


def ip(*args: str, check: bool = True) -> str:
    """Run ``ip``; its output."""
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"ip {' '.join(args)}: {done.stderr.strip()}")
    return done.stdout


def enter(namespace: str) -> None:
    """Move this (single-threaded) process into a network namespace."""
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
    finally:
        os.close(fd)


class Node:
    """A worker in a namespace of its own, its TAP with an address or on a bridge."""

    def __init__(self, namespace: str, number: int, underlay: dict[int, str]) -> None:
        self.namespace, self.number, self.underlay = namespace, number, underlay
        self.short_id = ShortID(number)
        self.name = PeerName(bytes((0, 0, 0, 0, 0, 0, 0, number)))
        self.pid = 0
        self._control: socket.socket | None = None

    def start(self, *, encrypted: bool, mtu: int = 1420) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ours.close()
                enter(self.namespace)
                tap, udp = open_tap(TAP), open_udp(PORT)
                fds = (tap, udp.fileno(), theirs.fileno())
                for fd in fds:
                    os.set_inheritable(fd, True)
                names = ("--tap-fd", "--udp-fd", "--control-fd")
                flags = [part for name, fd in zip(names, fds, strict=True) for part in (name, str(fd))]
                os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
                os.execv(sys.executable, [sys.executable, "-m", "mesh.drivers.sleeve", *flags])
            finally:
                os._exit(127)
        theirs.close()
        self._control = ours
        ours.settimeout(10)
        self.wait_for(w.Ready)
        self.say(w.Configure(self.short_id, self.name, mtu, encrypted))

    def stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self.pid:
            os.waitpid(self.pid, 0)
            self.pid = 0

    def say(self, message: w.ToWorker) -> None:
        assert self._control is not None
        self._control.send(w.encode(message))

    def wait_for(self, kind: type[w.FromWorker], within: float = 10.0) -> w.FromWorker:
        """The worker's next message of a kind; the others are thrown away."""
        assert self._control is not None
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            message = w.decode(self._control.recv(w.MAX_PACKET))
            if isinstance(message, kind):
                return message
        raise TimeoutError(kind.__name__)

    def counters(self) -> w.Counters:
        self.say(w.GetCounters())
        answer = self.wait_for(w.Counters)
        assert isinstance(answer, w.Counters)
        return answer

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pair_key(a: int, b: int, epoch: int) -> tuple[bytes, int]:
    """A key and tag for one direction, made up: the benches need no handshake."""
    digest = sha256(f"{a}>{b}@{epoch}".encode()).digest()
    return digest, int.from_bytes(digest[:4], "big")


def introduce(
    nodes: list[Node], via: dict[tuple[int, int], int], segment: int, epoch: int = 1
) -> None:
    """Tell every worker of every other: addresses, routes (``via`` a relay), keys, trees."""
    for node in nodes:
        others = [n for n in nodes if n is not node]
        for other in others:
            node.say(w.SetPeer(other.short_id, other.name, 1420))
            if other.number in node.underlay:
                endpoint = Endpoint(node.underlay[other.number], PORT)
                node.say(w.SetNeighbour(other.short_id, endpoint, segment))
        for other in others:
            hop = ShortID(via.get((node.number, other.number), other.number))
            node.say(w.SetRoute(other.short_id, hop, segment))
            rx, rx_tag = pair_key(other.number, node.number, epoch)
            tx, tx_tag = pair_key(node.number, other.number, epoch)
            node.say(w.InstallEpoch(other.short_id, epoch, rx, tx, rx_tag, tx_tag))
            node.wait_for(w.EpochInstalled)
        direct = [o.short_id for o in others if (node.number, o.number) not in via]
        node.say(w.SetTree(node.short_id, tuple(direct)))
        for other in others:
            further = [
                o.short_id for o in others if via.get((other.number, o.number)) == node.number
            ]
            node.say(w.SetTree(other.short_id, tuple(further)))
    for node in nodes:
        for other in nodes:
            if other is not node:
                node.say(w.ActivateEpoch(other.short_id, epoch))


def link(a: str, b: str, address_a: str, address_b: str, *, offloads: bool, number: int) -> None:
    """A veth pair between two namespaces, with or without the kernel's offloads."""
    left, right = f"u{number}a", f"u{number}b"
    ip("link", "add", left, "netns", a, "type", "veth", "peer", "name", right, "netns", b)
    for namespace, device, address in ((a, left, address_a), (b, right, address_b)):
        ip("-n", namespace, "addr", "add", address + "/24", "dev", device)
        ip("-n", namespace, "link", "set", device, "up")
        if not offloads:
            flags = "tso off gso off gro off tx off rx off".split()
            subprocess.run(
                ["ip", "netns", "exec", namespace, "ethtool", "-K", device, *flags],
                capture_output=True,
                check=False,
            )

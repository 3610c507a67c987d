"""What forged datagrams cost a live stream.

A third host floods a worker with datagrams whose source address and port are the peer's while one
TCP stream runs between the pods. Each forgery is measured beside two others in the same round: no
flood at all, and the same flood at a socket of the same host that nobody reads. The second is what
making and receiving so many datagrams costs the machine, whose processors sender, receiver and
forger share; the rest is the worker's own.

    unknown-source   a short ID that no peer has
    for-another      the same, for a peer that is none either
    wrong-tag        the peer's header but for the tag, which is drawn anew each time
    on-path          the right tag, a number ahead of the peer's, a payload of nonsense
    on-path-parts    the same, as the first datagram of a record of two that never ends
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from struct import pack

from bench.figures import Samples
from bench.hosts import address_towards, pod_to_pod
from bench.load import Stream, stream, watch
from bench.native import Running
from bench.nodes import PORT, Node, World, inside, ip, keys, run_in
from mesh.wire import sleeve

RATE = 100_000
SECONDS = 0.4
SETTLE = 0.12
"""Seconds of flood before its stream is watched."""

DEAF_PORT = 6799
PAYLOAD = 40
_SENT, _RATE, _WORDS = 1, 2, 8
_HEADERS = 14 + 20 + 8
_TAG_AT = 8
QUIET, DEAF = "no flood", "at a deaf socket"


@dataclass(frozen=True)
class Forgery:
    """A sleeve datagram, which of its octets are drawn anew each time, and why it is dropped."""

    datagram: bytes
    random_at: int
    random_octets: int
    reason: str


def forgeries(us: Node, them: Node, epoch: int = 1) -> dict[str, Forgery]:
    """Those thrown at ``us``, as if from ``them``."""
    tag = keys(us.number, them.number, epoch).rx_tag

    def datagram(src: int, tag: int, total: int, dst: int = us.number) -> bytes:
        seq = 1 << 40
        header = sleeve.HEADER.pack(
            sleeve.DATA, sleeve.HOP_LIMIT, src, dst, epoch, tag, seq, 0, total, 0
        )
        return header + bytes(PAYLOAD)

    # A number's low half and the payload: each is a record of its own, none of them genuine.
    number = (sleeve.SEQ_AT + 4, 4)
    return {
        "unknown-source": Forgery(datagram(40_000, tag, 1), *number, "unknown-peer"),
        "for-another": Forgery(datagram(40_000, tag, 1, 40_001), *number, "unknown-peer"),
        "wrong-tag": Forgery(datagram(them.number, 0, 1), _TAG_AT, 4, "wrong-tag"),
        "on-path": Forgery(datagram(them.number, tag, 1), *number, "unauthentic"),
        "on-path-parts": Forgery(datagram(them.number, tag, 2), *number, "record-incomplete"),
    }


def frame(mac: bytes, source: str, target: str, port: int, payload: bytes) -> bytes:
    """An Ethernet frame with a UDP datagram that says it is from the worker at ``source``."""
    length = 20 + 8 + len(payload)
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    header = pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, 17, 0)
    header = header[:10] + _checksum(header + addresses).to_bytes(2, "big")
    udp = pack("!HHHH", PORT, port, 8 + len(payload), 0)
    return mac + bytes.fromhex("020000000001") + b"\x08\x00" + header + addresses + udp + payload


def _checksum(header: bytes) -> int:
    """Of an IPv4 header whose own field is zero (RFC 1071): 2**16 is 1 modulo 0xFFFF."""
    return 0xFFFF - int.from_bytes(header, "big") % 0xFFFF


class Forger:
    """A third host beside ``victim``."""

    def __init__(self, world: World, tag: str, victim: Node, other: Node) -> None:
        self._victim, self._namespace = victim, f"{tag}f"
        self._addresses = (
            address_towards(world, other, victim), address_towards(world, victim, other),
        )  # fmt: skip
        self._deaf: socket.socket | None = None
        self._mac = b""

    def __enter__(self) -> Forger:
        host = self._victim.namespace
        try:
            ip("netns", "add", self._namespace)
            ip("link", "add", "f0", "netns", host, "type", "veth",
               "peer", "name", "out", "netns", self._namespace)  # fmt: skip
            run_in(host, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0",
                   "net.ipv4.conf.f0.rp_filter=0")  # fmt: skip
            ip("-n", host, "addr", "add", "10.99.200.1/24", "dev", "f0")
            ip("-n", host, "link", "set", "f0", "up")
            ip("-n", self._namespace, "link", "set", "out", "up")
            said = run_in(host, "cat", "/sys/class/net/f0/address")
            self._mac = bytes.fromhex(said.strip().replace(":", ""))
            self._deaf = inside(host, _deaf_socket)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._deaf is not None:
            self._deaf.close()
        ip("netns", "del", self._namespace, check=False)

    @contextmanager
    def flood(
        self, forgery: Forgery, folder: Path, *, port: int = PORT
    ) -> Iterator[Callable[[], int]]:
        """RATE of these a second while the block runs; gives how many were sent."""
        source, target = self._addresses
        path = folder / f"frame{os.getpid()}"
        path.write_bytes(frame(self._mac, source, target, port, forgery.datagram))
        span = (str(_HEADERS + forgery.random_at), str(forgery.random_octets))
        with Running("forger", self._namespace, _WORDS, "out", str(path), *span) as running:
            running.board[_RATE] = RATE
            yield lambda: running.board[_SENT]


def _deaf_socket() -> socket.socket:
    deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    deaf.bind(("0.0.0.0", DEAF_PORT))
    return deaf


CASES = (
    QUIET, DEAF, "unknown-source", "for-another", "wrong-tag", "on-path", "on-path-parts"
)  # fmt: skip


class Siege:
    """One stream, and in each round every forgery beside it once."""

    def __init__(self, world: World, forger: Forger, folder: Path) -> None:
        self._world, self._epoch = world, 1
        self._sender, self._victim = world.node(1), world.node(2)
        self._forger, self._folder = forger, folder
        self.results = {case: Samples() for case in CASES}

    def measure(self, turn: int) -> None:
        start = turn % len(CASES)
        for case in CASES[start:] + CASES[:start]:
            # What a flood taught the workers about the path is not the next one's.
            self._epoch += 1
            self._world.reintroduce(self._epoch)
            known = forgeries(self._victim, self._sender, self._epoch)
            # The stream first: what is measured is a live one, not whether one can begin.
            with stream(pod_to_pod(self._sender, self._victim)) as running:
                if case == QUIET:
                    self._watch(case, running, lambda: 0, "")
                    continue
                forgery = known["wrong-tag" if case == DEAF else case]
                port = DEAF_PORT if case == DEAF else PORT
                with self._forger.flood(forgery, self._folder, port=port) as sent:
                    self._watch(case, running, sent, forgery.reason)

    def _watch(self, case: str, running: Stream, sent: Callable[[], int], reason: str) -> None:
        def refused() -> int:
            drops = self._victim.drops()
            return sum(drops.get(word, 0) for word in {reason, "wrong-tag"})  # by the filter, too

        samples = self.results[case]
        time.sleep(SETTLE)
        drops, forged, began = refused(), sent(), time.monotonic()
        samples.add("tcp1", watch(running, SECONDS, []).gbps)
        took = time.monotonic() - began
        samples.add("forged", (sent() - forged) / took / 1e3)
        samples.add("refused", (refused() - drops) / took / 1e3)

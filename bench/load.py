"""One path measured: TCP and UDP by ``load.c``, pings beside them, processor time of all of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench.figures import Samples
from bench.native import Running, wait_for
from bench.nodes import run_in
from bench.processors import spent
from bench.search import Hold, Search

PORT = 5202
_OCTETS, _RATE, _SLOT, _SENT, _RECEIVED, _WORDS = 1, 2, 3, 64, 320, 576
MOST_SLOTS = 250

WARM_UP = 0.12
"""Seconds of a TCP run that do not count."""

PINGS, PING_EVERY = 100, 0.002
LEAD_IN, HOLD = 0.05, 0.14
"""Seconds of a rate before it counts, and while it does."""

DRAINED, DRAINED_WITHIN = 0.015, 0.4
"""Seconds in which nothing arrives when all has; and after which it is no longer waited for."""


@dataclass(frozen=True)
class Ends:
    """Where traffic starts and ends."""

    source: str
    target: str
    address: str


Pids = Callable[[], list[int]]
"""The processes that carry a path, at the moment it is asked."""


class Stream:
    """TCP at full rate, running."""

    def __init__(self, sink: Running, source: Running) -> None:
        self._sink, self._source = sink, source
        self.pids = [sink.pid, source.pid]

    def octets(self) -> int:
        """Received so far."""
        if self._source.died:
            raise RuntimeError("the TCP stream broke")
        return self._sink.board[_OCTETS]


@contextmanager
def stream(ends: Ends, streams: int = 1, control: str = "") -> Iterator[Stream]:
    """TCP from end to end while the block runs; ``control``: a certain congestion control."""
    where = (ends.address, str(PORT))
    with Running("load", ends.target, _WORDS, "tcp-sink", *where) as sink:
        # Its connections stand when it is ready, which loss may delay by some repetitions.
        source = Running("load", ends.source, _WORDS, "tcp-source", *where, str(streams),
                         *([control] if control else []))  # fmt: skip
        try:
            with source:
                yield Stream(sink, source)
        finally:
            sink.__exit__()  # before its sender: what is under way is refused, not delivered


@dataclass(frozen=True)
class Window:
    """What arrived in some seconds, and what that cost."""

    octets: int
    seconds: float
    cpu: float

    @property
    def gbps(self) -> float:
        return self.octets * 8 / self.seconds / 1e9

    @property
    def cpu_per_gb(self) -> float:
        return self.cpu / (self.octets / 1e9) if self.octets else float("nan")


def watch(running: Stream, seconds: float, pids: list[int]) -> Window:
    """A window of a stream that is under way."""
    began, octets, cpu = time.monotonic(), running.octets(), spent([*pids, *running.pids])
    time.sleep(seconds)
    octets = running.octets() - octets
    took = time.monotonic() - began
    return Window(octets, took, spent([*pids, *running.pids]) - cpu)


def ping(ends: Ends, count: int = PINGS) -> list[float]:
    """Round trips in milliseconds, sorted; those that were lost are not among them."""
    said = run_in(ends.source, "ping", "-c", str(count), "-i", str(PING_EVERY), "-W", "1",
                  ends.address, check=False)  # fmt: skip
    times = sorted(float(t) for t in re.findall(r"time=([\d.]+)", said))
    if not times:
        raise RuntimeError(f"{ends.address} does not answer: {said[-200:]}")
    return times


def udp(ends: Ends, octets: int, start: float | None, pids: list[int]) -> tuple[Hold | None, float]:
    """The best hold of datagrams of so many octets, and CPU seconds a million received of all."""
    where = (ends.address, str(PORT))
    with (
        Running("load", ends.target, _WORDS, "udp-sink", *where) as sink,
        Running("load", ends.source, _WORDS, "udp-source", *where, str(octets)) as source,
    ):
        search, family = Search(start), [*pids, sink.pid, source.pid]
        cpu = spent(family)
        slots = range(0, MOST_SLOTS, 2)
        for slot in slots:
            search.learn(_hold(source, sink, slot, search.rate))
            if search.done:
                break
        cpu = spent(family) - cpu
        received = sum(sink.board.slice(_RECEIVED, MOST_SLOTS))
    return search.best, cpu / (received / 1e6) if received else float("nan")


def _hold(source: Running, sink: Running, slot: int, rate: float) -> Hold:
    """Offer a rate; queues fill in a first slot that does not count."""
    source.board[_SLOT] = slot
    source.board[_RATE] = int(rate)
    time.sleep(LEAD_IN)
    source.board[_SLOT], began = slot + 1, time.monotonic()
    time.sleep(HOLD)
    took = time.monotonic() - began
    source.board[_RATE] = 0
    _drain(sink)
    return Hold(took, source.board[_SENT + slot + 1], sink.board[_RECEIVED + slot + 1])


def _drain(sink: Running) -> None:
    """Until nothing more arrives."""
    before, deadline = -1, time.monotonic() + DRAINED_WITHIN
    while (now := sum(sink.board.slice(_RECEIVED, MOST_SLOTS))) != before:
        if time.monotonic() > deadline:
            return
        before = now
        time.sleep(DRAINED)


UDP_LARGE = 1372
"""Octets of payload of an IPv4 packet of 1,400."""

UDP_SMALL = 64

EVERYTHING = frozenset({"loaded", "tcp4", "udp"})


@dataclass(frozen=True)
class Lengths:
    """Seconds of the windows of one measurement."""

    tcp1: float = 0.7
    tcp4: float = 0.45


class Path:
    """A path with what was measured of it; searches begin where the last one of it ended.

    ``parts`` names what a round measures beside an idle ping and one TCP stream.
    """

    def __init__(
        self, name: str, ends: Ends, pids: Pids, *, parts: frozenset[str] = EVERYTHING
    ) -> None:
        self.name, self.ends, self.pids, self.parts = name, ends, pids, parts
        self.samples = Samples()
        self.found: dict[int, float] = {}
        """Rate of the last search of datagrams of so many octets."""

    def measure(self, lengths: Lengths) -> None:
        """One round."""
        add = self.samples.add
        idle = ping(self.ends)
        add("p50", idle[len(idle) // 2])
        add("p99", idle[int(len(idle) * 0.99)])
        pids = self.pids()
        with stream(self.ends) as one:
            time.sleep(WARM_UP)
            window = watch(one, lengths.tcp1, pids)
            add("tcp1", window.gbps)
            add("cpu", window.cpu_per_gb)
            if "loaded" in self.parts:
                loaded = ping(self.ends)
                add("loaded_p50", loaded[len(loaded) // 2])
                add("loaded_p99", loaded[int(len(loaded) * 0.99)])
                add("loaded_lost", 100 * (1 - len(loaded) / PINGS))
        if "tcp4" in self.parts:
            with stream(self.ends, 4) as four:
                time.sleep(WARM_UP)
                add("tcp4", watch(four, lengths.tcp4, pids).gbps)
        for octets, name in ((UDP_LARGE, "udp1400"), (UDP_SMALL, "udp64")):
            if "udp" not in self.parts:
                break
            found, cpu = udp(self.ends, octets, self.found.get(octets), pids)
            rate = found.rate if found is not None else 0.0
            if rate:
                self.found[octets] = rate
            add(name, rate * octets * 8 / 1e9 if octets == UDP_LARGE else rate / 1e3)
            add(f"{name}_cpu", cpu)


def shake_hands(paths: list[Path]) -> None:
    """Wait until a ping crosses every path: addresses are resolved, sessions stand."""
    for path in paths:
        ends = path.ends

        def crosses(ends: Ends = ends) -> bool:
            said = run_in(ends.source, "ping", "-c1", "-W1", ends.address, check=False)
            return " 1 received" in said

        wait_for(crosses, 20.0, f"{path.name}: no ping crosses")

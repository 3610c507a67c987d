"""A stream between the pods of two simulated hosts, which slows down for what is lost as TCP does.

It sends its window once a round, in records as large as its host's worker makes them on that path,
or of one datagram each. A round in which something was lost makes the window 0.7 of itself (CUBIC);
one of which nothing came is followed by TCP's timer. What arrived is seen by the observer and not
acknowledged over the underlay: acknowledgements are cumulative, so few of those lost matter.
"""

from __future__ import annotations

from itertools import pairwise

from mesh.clock import Instant
from mesh.link.recordsize import BUDGET, RecordSize
from tests.sim.host import SimHost
from tests.sim.paths import PathMesh

BEAT = 0.02
"""Seconds of a round, on top of the path's round trip."""

TIMER = 0.2
"""Seconds until TCP sends again what nothing told it of (Linux: TCP_RTO_MIN)."""

MOST = 60
"""Segments of a receive window."""

SEGMENT = 1200
"""Octets; the same for both kinds of records, however wide the path is at that moment."""

TOO_LARGE = 4.0
"""Of records, so many times BUDGET may be lost."""


def is_small(datagrams: int, share: float) -> bool:
    """Whether few records of that size are lost where this share of datagrams is."""
    return datagrams <= max(3, TOO_LARGE * BUDGET / share)


class Transfer:
    """Runs from ``start`` to ``stop``. ``single``: records of one datagram."""

    def __init__(self, mesh: PathMesh, src: SimHost, dst: SimHost, *, single: bool = False) -> None:
        self._mesh, self.src, self.dst, self._single = mesh, src, dst, single
        self._mark = (next(mesh.streams) | 0xBB << 24).to_bytes(4, "big")
        self._running = False
        self._window, self._threshold = 10.0, float(MOST)
        self._put = self._came = 0
        self.delivered = 0
        """Octets."""
        self.sizes: list[tuple[float, int]] = []
        """(time, datagrams of a record) of each round."""
        self.less_at = Instant(0.0)
        """When a round last went out in records that might have been larger."""

    @property
    def size(self) -> RecordSize:
        """Of its host's records to its other end."""
        short_id = self.dst.router.topology.own.short_id
        assert short_id is not None
        return self.src.worker.peers.peers[short_id].size

    @property
    def is_largest(self) -> bool:
        size = self.size
        return size.datagrams == size.most

    def start(self) -> Transfer:
        assert not self._running
        self._running = True
        self.dst.streams[self._mark] = self._arrived
        self._put = self._came = 0
        self._send()
        return self

    def stop(self) -> None:
        self._running = False
        self.dst.streams.pop(self._mark, None)

    def run(self, seconds: float) -> float:
        """Octets delivered a second meanwhile."""
        before = self.delivered
        self._mesh.run(seconds)
        return (self.delivered - before) / seconds

    def until_largest(self, within: float) -> float:
        """Seconds until its records are as large as they come."""
        began = self._mesh.clock.now()
        while not self.is_largest:
            took = self._mesh.clock.now() - began
            assert took < within, f"{self._mesh}: {self.size.datagrams} datagrams after {took:.1f}"
            self._mesh.run(BEAT)
        return self._mesh.clock.now() - began

    def swings(self, since: float) -> int:
        """How often its records became more than twice as large, or less than half, after they
        had gone the other way."""
        turns, way = 0, 0
        sizes = [size for at, size in self.sizes if at >= since]
        held = sizes[0]
        for size in sizes:
            now = 1 if size > 2 * held else -1 if 2 * size < held else 0
            if now:
                turns += bool(way) and now != way
                way, held = now, size
        return turns

    # ---- inside

    def _arrived(self, frame: bytes) -> None:
        self._came += len(frame)
        self.delivered += len(frame)

    def _send(self) -> None:
        if not self._running:
            return
        short_id = self.dst.router.topology.own.short_id
        assert short_id is not None
        self.sizes.append((self._mesh.clock.now(), self.size.datagrams))
        if not self.is_largest:
            self.less_at = self._mesh.clock.now()
        self._put, self._came = max(1, int(self._window)) * SEGMENT, 0
        left = self._put
        while left > 0:
            left -= self.src.worker.bulk(short_id, self._mark, left, single=self._single)
        path = self._mesh.path(self.src, self.dst)
        length = sum(self._mesh.length[frozenset((a.address, b.address))]
                     for a, b in pairwise(path))  # fmt: skip
        self._after(BEAT + 4 * length, self._judge)

    def _judge(self) -> None:
        if self._came >= self._put:
            slow = self._window >= self._threshold
            self._window = min(self._window + 1 if slow else 2 * self._window, MOST)
        elif self._came:
            self._threshold = max(2.0, 0.7 * self._window)
            self._window = self._threshold
        else:
            self._threshold, self._window = max(2.0, 0.7 * self._window), 2.0
            self._after(TIMER, self._send)
            return
        self._send()

    def _after(self, seconds: float, action: object) -> None:
        assert callable(action)
        self._mesh.clock.call_at(Instant(self._mesh.clock.now() + seconds), action)

"""Several workers of one host, seen by its daemon as one (docs/protocol.md 11.5).

Who drives it: the daemon's side of the workers. What it says goes to all lanes but for probes,
which are lane 0's; what they say is handed on once, when the last of them has said it.
"""

from __future__ import annotations

from collections import Counter

from mesh.link.drops import most_dropped
from mesh.names import ShortID
from mesh.wire import worker as w

MAX_LANES = 16
"""Workers of one host: more would share the processors with the pods they work for."""

MAX_PENDING = 4_096
"""Epochs that some lanes have and others have not yet, kept at the most."""


class Gathering:
    """``count`` lanes. Invariant: an epoch counts as installed only when every lane has it, for its
    records may come to any of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._installed: dict[w.EpochInstalled, set[int]] = {}
        self._counters: dict[int, w.Counters] = {}
        self._macs: dict[int, w.Macs] = {}

    def lanes_for(self, message: w.ToWorker) -> range:
        """Which lanes a message of the daemon is for."""
        return range(1 if isinstance(message, w.Probe) else self._count)

    def take(self, lane: int, message: w.FromWorker) -> w.FromWorker | None:
        """What one lane says, as it is to be understood; None until the others have said it."""
        match message:
            case w.EpochInstalled():
                return message if self._is_everywhere(lane, message) else None
            case w.Counters():
                self._counters[lane] = message
                if len(self._counters) < self._count:
                    return None
                answers, self._counters = list(self._counters.values()), {}
                return _sum(answers)
            case w.Macs():
                self._macs[lane] = message
                if len(self._macs) < self._count:
                    return None
                tables, self._macs = list(self._macs.values()), {}
                return _union(tables)
            case _:
                return message

    def _is_everywhere(self, lane: int, message: w.EpochInstalled) -> bool:
        lanes = self._installed.setdefault(message, set())
        lanes.add(lane)
        if len(lanes) < self._count:
            if len(self._installed) > MAX_PENDING:
                del self._installed[next(iter(self._installed))]
            return False
        del self._installed[message]
        return True


def _sum(answers: list[w.Counters]) -> w.Counters:
    drops: Counter[str] = Counter()
    peer_drops: Counter[tuple[ShortID, str]] = Counter()
    peers: dict[ShortID, w.PeerCounters] = {}
    for answer in answers:
        drops.update(dict(answer.drops))
        peer_drops.update({(peer, reason): count for peer, reason, count in answer.peer_drops})
        for entry in answer.peers:
            peers[entry.short_id] = _add(peers.get(entry.short_id), entry)
    return w.Counters(
        tx_frames=sum(answer.tx_frames for answer in answers),
        tx_octets=sum(answer.tx_octets for answer in answers),
        rx_frames=sum(answer.rx_frames for answer in answers),
        rx_octets=sum(answer.rx_octets for answer in answers),
        relayed=sum(answer.relayed for answer in answers),
        drops=tuple(sorted(drops.items())),
        peers=tuple(peers.values()),
        peer_drops=most_dropped(peer_drops),
    )


def _add(before: w.PeerCounters | None, entry: w.PeerCounters) -> w.PeerCounters:
    """What lanes count of one peer adds up, but for the loss and how large records may be."""
    if before is None:
        return entry
    sums = (a + b for a, b in zip(before[1:-2], entry[1:-2], strict=True))
    loss = max(before.tx_loss_ppm, entry.tx_loss_ppm)
    limit = min(before.record_limit, entry.record_limit)
    return w.PeerCounters._make((entry.short_id, *sums, loss, limit))


def _union(tables: list[w.Macs]) -> w.Macs:
    """Every lane knows nearly what the others know."""
    entries = {mac: place for table in tables for mac, place in table.entries}
    newest = list(entries.items())[-w.MAX_MACS_TOLD :]
    return w.Macs(tuple(newest), max(table.total for table in tables))

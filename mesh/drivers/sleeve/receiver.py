"""In: what lies in the slots is opened for us, relayed for others, run by run.

A record whose datagrams lie in one run is opened where it lies; a run for another peer is sent on
as it lies. Everything else goes to ``Inbound`` datagram by datagram.
"""

from __future__ import annotations

from mesh.clock import Instant
from mesh.drivers.sleeve.intake import FIRST_PAYLOAD, Intake
from mesh.drivers.sleeve.sender import Sender
from mesh.drivers.sleeve.uplink import Uplink
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.inbound import Control, Inbound
from mesh.link.peers import Neighbour, Peers
from mesh.link.slotsize import MOST, SlotSize
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DATA,
    HEADER,
    HEADER_SIZE,
    INDEX_AT,
    PLAIN,
    SEQ_AT,
)

MAX_ROUNDS = 16
"""Calls before the TAP has its turn again."""

GROW_INTERVAL = 1.0
"""Seconds between two layouts for datagrams that were longer than their slots."""

_SAME = INDEX_AT
"""Octets of the header that all datagrams of a record share, but for the total."""

_SEQ_END = SEQ_AT + 7
"""The octet of the sequence number that changes from a record to the next."""


class Receiver:
    def __init__(
        self,
        peers: Peers,
        fd: int,
        uplink: Uplink,
        sender: Sender,
        broadcasts: Broadcasts,
        control: Control,
    ) -> None:
        self._peers, self._sender = peers, sender
        self._intake = Intake(fd, self._one)
        self._sizes = SlotSize(FIRST_PAYLOAD)
        self._wanted: int | None = None
        self._grow_at = Instant(0.0)
        self._now = Instant(0.0)
        self.relayed = 0
        self.inbound = Inbound(
            peers,
            broadcasts,
            self._sizes,
            deliver=uplink.write,
            send=sender.record,
            control=control,
        )

    def receive(self, now: Instant) -> None:
        """The socket has datagrams: take what is there."""
        self._now = now
        intake = self._intake
        for _ in range(MAX_ROUNDS):
            more = intake.take()
            self._process()
            if not more:
                # Only now: runs that wait in the queue would be cut off in the other mode.
                if intake.mode.consider(now):
                    intake.change_mode()
                return

    def tick(self, now: Instant) -> None:
        """Once a second: forget what waits in vain."""
        self.inbound.age(now)

    # ---- inside

    def _process(self) -> None:
        intake = self._intake
        headers, us = intake.slots.headers, self._peers.us
        longest = intake.slots.payload + HEADER_SIZE
        start, end = intake.start, intake.fill
        while start < end:
            size = intake.size(start)
            if size < HEADER_SIZE or us is None:
                self._peers.drop(Drop.NOT_CONFIGURED if us is None else Drop.MALFORMED)
                start += 1
                continue
            if size > longest:
                self._cut_off()
                start += 1
                continue
            kind, hops, src, dst, epoch, tag, seq, index, total, _ = HEADER.unpack_from(
                headers, HEADER_SIZE * start
            )
            if dst != us:
                start += self._relay(start, end, hops, src, dst, index, total)
                continue
            if index == 0 and kind in (DATA, PLAIN) and total:
                stop = min(start + total, end)
                if self._is_run(start, stop):
                    if stop < start + total:
                        break  # the rest is on its way
                    if self._record((kind, src, epoch, tag, seq), dst, start, stop):
                        start = stop
                        continue
            self.inbound.datagram(intake.datagram(start), intake.source(start), self._now)
            start += 1
        intake.consumed(start)
        wanted = self.inbound.wanted or self._wanted
        if wanted:
            for n in range(intake.start, intake.fill):
                self._one(intake.datagram(n), intake.source(n))
            intake.lay_out(wanted)
            self._sizes.current = wanted
            self.inbound.wanted = self._wanted = None

    def _cut_off(self) -> None:
        """A datagram longer than its slot is lost, and the next layout fits any: but a stranger
        may send such, so not at every one. Runs from before a change of mode mean nothing."""
        self._peers.drop(Drop.TOO_BIG)
        if self._now >= self._grow_at and not self._intake.mode.just_changed(self._now):
            self._grow_at = Instant(self._now + GROW_INTERVAL)
            self._wanted = MOST

    def _is_run(self, start: int, stop: int) -> bool:
        """Whether the ends of these slots are of one record and so many datagrams apart."""
        headers = self._intake.slots.headers
        first, last = HEADER_SIZE * start, HEADER_SIZE * (stop - 1)
        return (
            headers[first : first + _SAME] == headers[last : last + _SAME]
            and headers[last + INDEX_AT] == stop - 1 - start
        )

    def _record(
        self, head: tuple[int, int, int, int, int], dst: int, start: int, stop: int
    ) -> bool:
        """Open the record in these slots as it lies; False where that cannot be."""
        intake, payload = self._intake, self._intake.slots.payload
        many = stop - start - 1
        if many and intake.size(start) != payload + HEADER_SIZE:
            return False
        at = start * payload
        tail = intake.size(stop - 1) - HEADER_SIZE
        if not 0 <= tail <= payload:
            return False
        data = intake.slots.payload_view[at : at + many * payload + tail]
        if not self.inbound.record(head, dst, data, self._now):
            return False
        if many:
            self._wanted = self._sizes.saw(payload, many) or self._wanted
        return True

    def _one(self, datagram: bytes, source: bytes) -> None:
        """A datagram that does not lie in a slot."""
        peers = self._peers
        if len(datagram) < HEADER_SIZE or peers.us is None:
            peers.drop(Drop.NOT_CONFIGURED if peers.us is None else Drop.MALFORMED)
            return
        _, hops, src, dst, _, _, _, index, total, _ = HEADER.unpack_from(datagram)
        if dst == peers.us:
            self.inbound.datagram(datagram, source, self._now)
            return
        if index + 1 < total:
            self._wanted = self._sizes.saw(len(datagram) - HEADER_SIZE) or self._wanted
        path = self._onward(src, dst, hops, 1)
        if path is not None:
            self._sender.datagram(datagram[:1] + bytes((hops - 1,)) + datagram[2:], *path)

    # ---- relaying

    def _relay(
        self, start: int, end: int, hops: int, src: int, dst: int, index: int, total: int
    ) -> int:
        """Pass a run of one record's datagrams on as it lies; how many slots that were."""
        intake = self._intake
        headers, segment = intake.slots.headers, intake.slots.payload + HEADER_SIZE
        count = max(1, min(total - index, end - start))
        sizes = intake.sizes(start, start + count)
        first, last = HEADER_SIZE * start, HEADER_SIZE * (start + count)
        one = headers[first : first + _SAME]
        same = all(
            headers[first + offset : last : HEADER_SIZE] == one[offset : offset + 1] * count
            for offset in (1, 2, 3, 4, 5, _SEQ_END)
        )
        is_even = all(size == segment for size in sizes[:-1])
        if not (same and is_even and HEADER_SIZE <= sizes[-1] <= segment):
            count, last = 1, first + HEADER_SIZE
        size = sizes[count - 1]
        if index + count < total or count > 1:
            odd = size if count == 1 else segment
            self._wanted = self._sizes.saw(odd - HEADER_SIZE, count) or self._wanted
        path = self._onward(src, dst, hops, count)
        if path is not None:
            headers[first + 1 : last : HEADER_SIZE] = bytes((hops - 1,)) * count
            self._sender.slots(intake.slots, start, count, size - HEADER_SIZE, *path)
        return count

    def _onward(
        self, src: int, dst: int, hops: int, count: int
    ) -> tuple[ShortID, Neighbour] | None:
        """(next hop, its address) for datagrams that are not for us, between peers we know."""
        peers = self._peers
        path = peers.path(ShortID(dst))
        reason = None
        if ShortID(src) not in peers.peers:
            reason = Drop.UNKNOWN_PEER
        elif hops <= 1:
            reason = Drop.HOP_LIMIT
        elif path is None:
            reason = Drop.NO_ROUTE
        if reason is not None or path is None:
            peers.drop(reason or Drop.NO_ROUTE, count)
            return None
        self.relayed += count
        return path[0], path[1]

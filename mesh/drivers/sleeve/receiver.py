"""In: what lies in the slots is opened for us, relayed for others, run by run.

A record whose datagrams lie in one run is opened where it lies; a run for another peer is sent on
as it lies. Datagrams of one record that lie among others, as where several hosts send at once, are
picked out together. Everything else goes to ``Inbound`` datagram by datagram.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.clock import Instant
from mesh.drivers.sleeve.intake import FIRST_PAYLOAD, SIZE_AT, SIZE_STEP, Intake
from mesh.drivers.sleeve.sender import Sender
from mesh.drivers.sleeve.uplink import Uplink
from mesh.drivers.tap import BUFFER, set_receive_buffer
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.fairness import FairShare
from mesh.link.inbound import Control, Inbound, Way
from mesh.link.joining import Joiner
from mesh.link.peers import Neighbour, Peers
from mesh.link.queuetime import QueueTime
from mesh.link.slotsize import MOST, SlotSize
from mesh.names import ShortID
from mesh.wire.sleeve import (
    DST_AT,
    EPOCH_AT,
    HEADER,
    HEADER_SIZE,
    INDEX_AT,
    MAX_DATAGRAMS,
    SEQ_AT,
    TOTAL_AT,
    WAY_SIZE,
)

MAX_ROUNDS = 16
"""Calls before the TAP has its turn again."""

WAIT = 0.005
"""Seconds that a datagram may wait in the socket for those in front of it."""

LEAST_OCTETS = 8 * 1024 * 1024
"""That may wait there, as the kernel counts them: what comes while others have the processor, too,
where it is so short that we cannot keep up."""

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
        self._fd = fd
        self._intake = Intake(fd, self._one)
        self._queue = QueueTime(WAIT, LEAST_OCTETS, BUFFER)
        self._fair = FairShare()
        self._sizes = SlotSize(FIRST_PAYLOAD)
        self._wanted: int | None = None
        self._grow_at = Instant(0.0)
        self._now = Instant(0.0)
        self._taken: set[int] = set()
        """Slots dealt with before those in front of them."""
        self.relayed = 0
        self._joiner = Joiner(uplink.write)
        self.inbound = Inbound(
            peers,
            broadcasts,
            self._sizes,
            deliver=self._joiner.add,
            send=sender.record,
            control=control,
        )

    def receive(self, now: Instant) -> None:
        """The socket has datagrams: take what is there, and hand on what came of it."""
        self._now = now
        self._take()
        self._joiner.flush()

    def _take(self) -> None:
        intake = self._intake
        waited, more = 0, True
        for _ in range(MAX_ROUNDS):
            more = intake.take()
            waited += intake.took
            self._process()
            if intake.mode.consider(self._now, drained=not more):
                intake.change_mode()
            if not more:
                break
        length = self._queue.took(waited, emptied=not more, now=self._now)
        if length is not None:
            set_receive_buffer(self._fd, length)
        self._fair.turn(standing=self._queue.standing, now=self._now)

    @property
    def excess(self) -> tuple[Mapping[tuple[int, int], float], bool]:
        """Pairs that have more relayed than their share, and whether our queue stands for it."""
        return self._fair.excess, self._queue.standing

    def tick(self, now: Instant) -> None:
        """Once a second: forget what waits in vain."""
        self.inbound.age(now)

    # ---- inside

    def _process(self) -> None:
        intake, inbound, us = self._intake, self.inbound, self._peers.us
        slots, words = intake.slots, intake.words
        headers, payloads, payload = slots.header_view, slots.payload_view, slots.payload
        ways = inbound.ways()
        start, end = intake.start, intake.fill
        taken = self._taken
        taken.clear()
        while start < end:
            if start in taken:
                start += 1
                continue
            size = words[SIZE_STEP * start + SIZE_AT]
            if not HEADER_SIZE <= size <= payload + HEADER_SIZE or us is None:
                self._odd(size)
                start += 1
                continue
            at = HEADER_SIZE * start
            head = bytes(headers[at : at + HEADER_SIZE])
            way = ways.get(head[:WAY_SIZE])
            if way is None:
                if head[DST_AT:EPOCH_AT] != us.to_bytes(2, "big"):
                    start += self._relay(start, end, head)
                    continue
                way = inbound.way(head)
                if way is None:  # refused by its header
                    start += 1
                    continue
            many = head[TOTAL_AT] - 1
            if many >= 0 and way.has_frames:
                last = start + many
                is_run = not head[INDEX_AT]
                if many and is_run:
                    # The ends of a run say that it is one: between them lies what was sent between.
                    known = min(last, end - 1)
                    at = HEADER_SIZE * known
                    is_run = (
                        size == payload + HEADER_SIZE
                        and headers[at : at + INDEX_AT] == head[:INDEX_AT]
                        and headers[at + INDEX_AT] == known - start
                    )
                    if is_run and last >= end:
                        if not taken or max(taken) < start:
                            break  # the rest is on its way
                        is_run = False
                if is_run:
                    size = words[SIZE_STEP * last + SIZE_AT]
                    if HEADER_SIZE <= size <= payload + HEADER_SIZE:
                        at = payload * start
                        data = payloads[at : at + many * payload + size - HEADER_SIZE]
                        number = head[SEQ_AT:INDEX_AT]
                        if inbound.record(way, number, data, self._now, many + 1):
                            if many:
                                self._wanted = self._sizes.saw(payload, many) or self._wanted
                            start = last + 1
                            continue
                        if not many:
                            inbound.refused(way, number)
                            start += 1
                            continue
                if many and self._scattered(way, start, head):
                    start += 1
                    continue
            inbound.datagram(intake.datagram(start), intake.source(start), self._now)
            start += 1
        intake.consumed(start)
        wanted = inbound.wanted or self._wanted
        if wanted:
            for n in range(intake.start, intake.fill):
                self._one(intake.datagram(n), intake.source(n))
            intake.lay_out(wanted)
            self._sizes.current = wanted
            inbound.wanted = self._wanted = None

    def _scattered(self, way: Way, start: int, head: bytes) -> bool:
        """All that lies here of one record, in one go; False where that is a single datagram."""
        intake, total = self._intake, head[TOTAL_AT]
        slots, payload = intake.slots, intake.slots.payload
        headers, payloads = slots.headers, slots.payload_view
        pieces: dict[int, bytes] = {}
        numbers: list[int] = []
        if head[INDEX_AT] >= total or total > MAX_DATAGRAMS:
            return False
        for n in intake.alike(start):
            if n in self._taken:
                continue
            size, at = intake.size(n) - HEADER_SIZE, HEADER_SIZE * n
            index = headers[at + INDEX_AT]
            if (
                0 <= size <= payload
                and headers[at + TOTAL_AT] == total
                and index < total
                and index not in pieces
            ):
                pieces[index] = bytes(payloads[payload * n : payload * n + size])
                numbers.append(n)
        if len(pieces) < 2:
            return False
        self._taken.update(numbers)
        self.inbound.scattered(way, head[SEQ_AT:INDEX_AT], total, pieces, self._now)
        return True

    def _odd(self, size: int) -> None:
        """A datagram that cannot be one of ours, or does not fit its slot."""
        if self._peers.us is None:
            self._peers.drop(Drop.NOT_CONFIGURED)
        elif size < HEADER_SIZE:
            self._peers.drop(Drop.MALFORMED)
        else:
            self._cut_off()

    def _cut_off(self) -> None:
        """A datagram longer than its slot is lost, and the next layout fits any: but a stranger
        may send such, so not at every one. Runs from before a change of mode mean nothing."""
        self._peers.drop(Drop.TOO_BIG)
        if self._now >= self._grow_at and not self._intake.mode.just_changed(self._now):
            self._grow_at = Instant(self._now + GROW_INTERVAL)
            self._wanted = MOST

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
        path = self._onward((src, dst), hops, 1, len(datagram))
        if path is not None:
            self._sender.datagram(datagram[:1] + bytes((hops - 1,)) + datagram[2:], *path)

    # ---- relaying

    def _relay(self, start: int, end: int, head: bytes) -> int:
        """Pass a run of one record's datagrams on as it lies; how many slots that were."""
        _, hops, src, dst, _, _, _, index, total, _ = HEADER.unpack(head)
        intake = self._intake
        headers, segment = intake.slots.headers, intake.slots.payload + HEADER_SIZE
        count: int = max(1, min(total - index, end - start))
        sizes = intake.sizes(start, start + count)
        first, last = HEADER_SIZE * start, HEADER_SIZE * (start + count)
        one = headers[first : first + _SAME]
        same = all(
            headers[first + offset : last : HEADER_SIZE] == one[offset : offset + 1] * count
            for offset in (1, 2, 3, 4, 5, _SEQ_END)
        )
        is_even = all(size == segment for size in sizes[:-1])
        if not (same and is_even and HEADER_SIZE <= sizes[-1] <= segment):
            if total > 1 and (numbers := self._pick(start)):
                self._relay_picked(numbers, (src, dst), hops)
                return 1
            count, last = 1, first + HEADER_SIZE
        size = sizes[count - 1]
        if index + count < total or count > 1:
            odd = size if count == 1 else segment
            self._wanted = self._sizes.saw(odd - HEADER_SIZE, count) or self._wanted
        path = self._onward((src, dst), hops, count, segment * (count - 1) + size)
        if path is not None:
            headers[first + 1 : last : HEADER_SIZE] = bytes((hops - 1,)) * count
            self._sender.slots(intake.slots, start, count, size - HEADER_SIZE, *path)
        return count

    def _pick(self, start: int) -> list[int]:
        """Slots of one record among others, that may be sent by one call: all full but for the
        last. Nothing where they are not two."""
        intake = self._intake
        segment = intake.slots.payload + HEADER_SIZE
        numbers: list[int] = []
        for n in intake.alike(start):
            size = intake.size(n)
            if n in self._taken or not HEADER_SIZE <= size <= segment:
                break
            numbers.append(n)
            if size < segment:
                break
        return numbers if len(numbers) > 1 else []

    def _relay_picked(self, numbers: list[int], pair: tuple[int, int], hops: int) -> None:
        intake = self._intake
        slots, count = intake.slots, len(numbers)
        tail = intake.size(numbers[-1]) - HEADER_SIZE
        self._taken.update(numbers)
        self._wanted = self._sizes.saw(slots.payload, count) or self._wanted
        octets = (slots.payload + HEADER_SIZE) * (count - 1) + HEADER_SIZE + tail
        path = self._onward(pair, hops, count, octets)
        if path is not None:
            for n in numbers:
                slots.headers[HEADER_SIZE * n + 1] = hops - 1
            self._sender.picked(slots, numbers, tail, *path)

    def _onward(
        self, pair: tuple[int, int], hops: int, count: int, octets: int
    ) -> tuple[ShortID, Neighbour] | None:
        """(next hop, its address) for datagrams that are not for us, between peers we know."""
        peers = self._peers
        src, dst = pair
        path = peers.path(ShortID(dst))
        reason = None
        if ShortID(src) not in peers.peers:
            reason = Drop.UNKNOWN_PEER
        elif hops <= 1:
            reason = Drop.HOP_LIMIT
        elif path is None:
            reason = Drop.NO_ROUTE
        elif not self._fair.sends(pair, octets):
            reason = Drop.RELAY_SHARE
        if reason is not None or path is None:
            peers.drop(reason or Drop.NO_ROUTE, count, of=ShortID(dst))
            return None
        self.relayed += count
        return path[0], path[1]

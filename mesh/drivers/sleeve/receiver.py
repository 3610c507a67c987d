"""In: datagrams into records, records into frames for the TAP, or on to the next hop.

Two ways to receive, chosen by what arrives: recvmmsg fills one slot a datagram; where the path
coalesces (GRO), one recvmsg scatters a whole run over the slots. A record whose datagrams lie in
one run is opened where it lies; everything else is copied and reassembled.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable

from cryptography.exceptions import InvalidTag

from mesh.clock import Instant
from mesh.drivers.sleeve.abi import (
    MSG_DONTWAIT,
    MSG_TRUNC,
    NAME_SIZE,
    SOL_UDP,
    MMsgHdr,
    MsgHdr,
    Slots,
    endpoint_from,
    recvmmsg,
    recvmsg,
)
from mesh.drivers.sleeve.coalescing import ReceiveMode
from mesh.drivers.sleeve.sender import Sender
from mesh.link.drops import Drop
from mesh.link.peers import Neighbour, Peer, Peers, RxEpoch
from mesh.link.reassembly import Reassembly
from mesh.link.replay import ReplayWindow
from mesh.names import Endpoint, ShortID
from mesh.wire.sleeve import (
    BROADCAST_FLAG,
    DATA,
    ENVELOPE,
    FRAME_LENGTH,
    HEADER,
    HEADER_SIZE,
    MAX_DATAGRAMS,
    PLAIN,
    PREFIX,
    PROBE,
    PROBE_REPLY,
    TAG_SIZE,
    VNET_SIZE,
    nonce,
)

SLOTS, BATCH = 512, 64
FIRST_PAYLOAD = 1472 - HEADER_SIZE
"""Payload of a slot until something else is seen: a full datagram on Ethernet over IPv4."""

_MAX_SLOT = 8972 - HEADER_SIZE
_PLAIN_ROOM = 140_000
_SHRINK_AFTER = 64
"""Full datagrams of one smaller size in a row before the slots are laid out for it."""

MAX_ROUNDS = 16
"""Batches before the TAP has its turn again."""

_WORDS = ctypes.sizeof(MMsgHdr) // 4
_FLAGS_WORD, _LEN_WORD = MMsgHdr.hdr.offset // 4 + MsgHdr.flags.offset // 4, MMsgHdr.len.offset // 4

ProbeHandler = Callable[[int, Peer, memoryview, Endpoint, int], None]
"""(kind, peer, body, source, octets of the datagram)."""


class Receiver:
    def __init__(
        self, peers: Peers, fd: int, tap: int, sender: Sender, on_probe: ProbeHandler
    ) -> None:
        self._peers, self._fd, self._tap = peers, fd, tap
        self._sender, self._on_probe = sender, on_probe
        self._slots = Slots(SLOTS, FIRST_PAYLOAD, SLOTS * _MAX_SLOT)
        self._mm = (MMsgHdr * SLOTS)()
        self._names = bytearray(NAME_SIZE * SLOTS)
        names = ctypes.addressof((ctypes.c_char * len(self._names)).from_buffer(self._names))
        for n in range(SLOTS):
            header = self._mm[n].hdr
            header.iov, header.iovlen = self._slots.iov_address + 32 * n, 2
            header.name, header.namelen = names + NAME_SIZE * n, NAME_SIZE
        self._names_address = names
        self._mm_address = ctypes.addressof(self._mm)
        self._words = memoryview(self._mm).cast("B").cast("I")
        self._control = ctypes.create_string_buffer(64)
        self._gro = MsgHdr()
        self._gro.namelen = NAME_SIZE
        self._gro_address = ctypes.addressof(self._gro)
        self._mode = ReceiveMode(fd)
        self._start = self._fill = 0
        self._plain = bytearray(_PLAIN_ROOM)
        self._plain_view = memoryview(self._plain)
        self._reassembly = Reassembly()
        self._broadcasts: dict[ShortID, ReplayWindow] = {}
        self._other_size, self._other_count, self._saw_full = 0, 0, False
        self._wanted = 0
        self._now = Instant(0.0)
        self.frames = self.octets = self.relayed = 0

    # ---- the socket

    def receive(self, now: Instant) -> None:
        """The socket has datagrams: take what is there."""
        self._now = now
        for _ in range(MAX_ROUNDS):
            if self._fill + BATCH > SLOTS:
                self._compact()
            got = self._take_run() if self._mode.coalesced else self._take_batch()
            if got <= 0:
                break
            self._process(self._fill + got)
            if got < BATCH and not self._mode.coalesced:
                break
        self._mode.consider(now)

    def tick(self, now: Instant) -> None:
        """Once a second: forget what waits in vain."""
        self._reassembly.age(now)
        if self._reassembly.lost:
            self._peers.drop(Drop.INCOMPLETE, self._reassembly.lost)
            self._reassembly.lost = 0

    def forget(self, peer: ShortID) -> None:
        self._reassembly.forget(peer)
        self._broadcasts.pop(peer, None)

    def _take_batch(self) -> int:
        fill = self._fill
        got: int = recvmmsg(
            self._fd,
            self._mm_address + ctypes.sizeof(MMsgHdr) * fill,
            BATCH,
            MSG_DONTWAIT,
            None,
        )
        if got <= 0:
            return got
        self._mode.count(got)
        end = fill + got
        flags = self._words[_WORDS * fill + _FLAGS_WORD : _WORDS * end : _WORDS].tolist()
        if any(flag & MSG_TRUNC for flag in flags):
            # A longer datagram than our slots: this one is lost, the next will fit. Runs that
            # were put together before the mode changed look the same, and mean nothing.
            self._peers.drop(Drop.TOO_BIG, sum(bool(flag & MSG_TRUNC) for flag in flags))
            if not self._mode.just_changed(self._now):
                self._lay_out(_MAX_SLOT)
                return 0
        return got

    def _take_run(self) -> int:
        """One recvmsg of datagrams of one size, scattered over the slots."""
        slots, fill = self._slots, self._fill
        segment = slots.payload + HEADER_SIZE
        need = 65536 // segment + 1
        msg = self._gro
        msg.iov, msg.iovlen = slots.iov_address + 32 * fill, 2 * min(need, SLOTS - fill)
        msg.name = self._names_address + NAME_SIZE * fill
        msg.control, msg.controllen = ctypes.addressof(self._control), 64
        size: int = recvmsg(self._fd, self._gro_address, MSG_DONTWAIT)
        if size <= 0:
            return 0
        run = self._run_size(size)
        got = (size + segment - 1) // segment
        self._mode.count((size + run - 1) // run)
        if run != segment and size > min(run, segment):
            self._take_apart(fill, size, run)
            return 0
        lens = array("I", (segment,)) * got
        lens[-1] = size - (got - 1) * segment
        end = fill + got
        self._words[_WORDS * fill + _LEN_WORD : _WORDS * end : _WORDS] = memoryview(lens)
        name = bytes(self._names[NAME_SIZE * fill : NAME_SIZE * (fill + 1)])
        self._names[NAME_SIZE * fill : NAME_SIZE * end] = name * got
        return got

    def _run_size(self, size: int) -> int:
        """The size of the datagrams that the kernel put together, or of the only one."""
        if self._gro.controllen >= 20:
            raw = self._control.raw
            level, kind = int.from_bytes(raw[8:12], "little"), int.from_bytes(raw[12:16], "little")
            if (level, kind) == (SOL_UDP, 104):
                return int.from_bytes(raw[16:20], "little")
        return size

    def _take_apart(self, fill: int, size: int, run: int) -> None:
        """A run of datagrams that our slots are not laid out for: each by itself."""
        slots = self._slots
        flat = bytearray()
        n = fill
        while len(flat) < size:
            flat += slots.header_view[HEADER_SIZE * n : HEADER_SIZE * (n + 1)]
            flat += slots.payload_view[slots.payload * n : slots.payload * (n + 1)]
            n += 1
        source = bytes(self._names[NAME_SIZE * fill : NAME_SIZE * (fill + 1)])
        for at in range(0, size, run):
            self._one(bytes(flat[at : min(at + run, size)]), source)

    def _compact(self) -> None:
        """Move the unfinished record to the front of the slots."""
        start, count = self._start, self._fill - self._start
        slots = self._slots
        for view, size in (
            (slots.header_view, HEADER_SIZE),
            (slots.payload_view, slots.payload),
            (memoryview(self._names), NAME_SIZE),
        ):
            view[: count * size] = bytes(view[start * size : (start + count) * size])
        lens = self._words[_WORDS * start + _LEN_WORD : _WORDS * self._fill : _WORDS].tolist()
        if lens:
            end = _WORDS * count
            self._words[_LEN_WORD:end:_WORDS] = memoryview(array("I", lens))
        self._start, self._fill = 0, count

    def _lay_out(self, payload: int) -> None:
        """Slots of another size, from the next batch on; an unfinished record is given up."""
        self._slots.lay_out(max(256, min(payload, _MAX_SLOT)))
        self._start = self._fill = self._wanted = 0
        self._other_size = self._other_count = 0
        self._saw_full = False

    # ---- datagrams

    def _process(self, end: int) -> None:
        slots, words, us = self._slots, self._words, self._peers.us
        headers, payload = slots.headers, slots.payload
        start = self._start
        self._fill = end
        while start < end:
            size = words[_WORDS * start + _LEN_WORD] - HEADER_SIZE
            if size < 0 or us is None:
                self._peers.drop(Drop.MALFORMED)
                start += 1
                continue
            kind, hops, src, dst, epoch, tag, seq, index, total, _ = HEADER.unpack_from(
                headers, HEADER_SIZE * start
            )
            if dst != us:
                start += self._relay(start, end, hops, dst, index, total)
                continue
            if index == 0 and total > 1 and kind in (DATA, PLAIN):
                stop = min(start + total, end)
                same = headers[HEADER_SIZE * (stop - 1) : HEADER_SIZE * (stop - 1) + 20]
                whole = headers[HEADER_SIZE * start : HEADER_SIZE * start + 20]
                if same == whole and headers[HEADER_SIZE * stop - 4] == stop - 1 - start:
                    if stop < start + total:
                        break  # the rest is on its way
                    tail = words[_WORDS * (stop - 1) + _LEN_WORD] - HEADER_SIZE
                    head = (kind, src, epoch, tag, seq)
                    at = start * payload
                    data = slots.payload_view[at : at + (total - 1) * payload + tail]
                    if size == payload and self._open(head, dst, data, None, ()):
                        self._saw_full = True
                        start = stop
                        continue
            self._alone(start)
            start += 1
        self._start = start
        if start == self._fill:
            self._start = self._fill = 0
        if self._wanted:
            self._lay_out(self._wanted)

    def _alone(self, n: int) -> None:
        """One datagram that is not part of a run."""
        slots = self._slots
        size = self._words[_WORDS * n + _LEN_WORD]
        head = bytes(slots.header_view[HEADER_SIZE * n : HEADER_SIZE * (n + 1)])
        body = bytes(slots.payload_view[slots.payload * n : slots.payload * n + size - HEADER_SIZE])
        self._one(head + body, bytes(self._names[NAME_SIZE * n : NAME_SIZE * (n + 1)]))

    def _one(self, datagram: bytes, source: bytes) -> None:
        """Any datagram, by itself: relayed, put aside until its record is whole, or opened."""
        peers = self._peers
        if len(datagram) < HEADER_SIZE or peers.us is None:
            peers.drop(Drop.MALFORMED)
            return
        kind, hops, src, dst, epoch, tag, seq, index, total, _ = HEADER.unpack_from(datagram)
        if dst != peers.us:
            self._relay_one(datagram, hops, ShortID(dst))
            return
        if not 0 < total <= MAX_DATAGRAMS or index >= total:
            peers.drop(Drop.MALFORMED)
            return
        head = (kind, src, epoch, tag, seq)
        if self._admit(head) is None:
            return
        piece = datagram[HEADER_SIZE:]
        if total == 1:
            if not self._open(head, dst, memoryview(piece), source, (len(datagram),)):
                peers.drop(Drop.UNAUTHENTIC)
            return
        if index + 1 < total:
            self._note_size(len(piece))
        key = (ShortID(src), epoch, seq)
        record = self._reassembly.add(key, index, total, piece, self._now)
        if record is not None and not self._open(head, dst, memoryview(record), source, ()):
            peers.drop(Drop.UNAUTHENTIC)

    def _note_size(self, size: int) -> None:
        """Lay the slots out anew when all that comes is of another, smaller size."""
        if size != self._other_size:
            self._other_size, self._other_count = size, 0
        self._other_count += 1
        if self._other_count >= _SHRINK_AFTER and size < self._slots.payload:
            if not self._saw_full:
                self._wanted = size
            self._saw_full = False
            self._other_count = 0

    # ---- records

    def _admit(self, head: tuple[int, int, int, int, int]) -> tuple[Peer, RxEpoch | None] | None:
        """Who a record is from and the key it must open with; None when it has no business."""
        kind, src, epoch, tag, _ = head
        peers = self._peers
        peer = peers.peers.get(ShortID(src))
        if peer is None:
            peers.drop(Drop.UNKNOWN_PEER)
            return None
        if kind not in (DATA, PLAIN, PROBE, PROBE_REPLY):
            peers.drop(Drop.MALFORMED)
            return None
        if not peers.encrypted:
            if kind == DATA:
                peers.drop(Drop.UNKNOWN_EPOCH)
                return None
            return peer, None
        if kind == PLAIN:
            peers.drop(Drop.NOT_ENCRYPTED)
            return None
        rx = peer.rx.get(epoch)
        if rx is None:
            peers.drop(Drop.UNKNOWN_EPOCH)
            return None
        if rx.tag != tag:
            peers.drop(Drop.WRONG_TAG)
            return None
        return peer, rx

    def _open(
        self,
        head: tuple[int, int, int, int, int],
        dst: int,
        data: memoryview,
        source: bytes | None,
        size: tuple[int, ...],
    ) -> bool:
        """Open a whole record and deliver it; False only when it is not authentic."""
        admitted = self._admit(head)
        if admitted is None:
            return True
        peer, rx = admitted
        kind, src, epoch, tag, seq = head
        plain = data
        if rx is not None:
            length = len(data) - TAG_SIZE
            if not 0 <= length <= _PLAIN_ROOM:
                return False
            plain = self._plain_view[:length]
            try:
                rx.aead.decrypt_into(
                    nonce(seq), data, PREFIX.pack(kind, 0, src, dst, epoch, tag), plain
                )
            except InvalidTag:
                return False
            if not rx.seen.accept(seq):
                self._peers.drop(Drop.REPLAYED)
                return True
        peer.rx_octets += len(data)
        if kind in (PROBE, PROBE_REPLY):
            if source is not None and size:
                self._on_probe(kind, peer, plain, endpoint_from(source), size[0])
        else:
            self._frames(peer, plain)
        return True

    def _frames(self, peer: Peer, plain: memoryview) -> None:
        peers, at, end = self._peers, 0, len(plain)
        while at + 4 <= end:
            (length,) = FRAME_LENGTH.unpack_from(plain, at)
            at += 4
            envelope = None
            if length & BROADCAST_FLAG:
                length ^= BROADCAST_FLAG
                if at + ENVELOPE.size > end:
                    break
                envelope = ENVELOPE.unpack_from(plain, at)
                at += ENVELOPE.size
            if length < VNET_SIZE + 14 or at + length > end:
                break
            frame = plain[at : at + length]
            at += length
            if envelope is None:
                self._deliver(peer.short_id, frame)
            else:
                self._broadcast(ShortID(envelope[0]), envelope[1], envelope[2], frame)
        if at != end:
            peers.drop(Drop.MALFORMED)

    def _deliver(self, place: ShortID, frame: memoryview) -> None:
        peers, macs = self._peers, self._peers.macs
        mac = bytes(frame[VNET_SIZE + 6 : VNET_SIZE + 12])
        if macs.places.get(mac) == place:
            macs.touched.add(mac)
        else:
            macs.learn(mac, place, self._now)
        self.frames += 1
        self.octets += len(frame) - VNET_SIZE
        try:
            os.write(self._tap, frame)
        except BlockingIOError:
            peers.drop(Drop.TAP_FULL)
        except OSError:
            peers.drop(Drop.TAP_REFUSED)

    def _broadcast(self, origin: ShortID, number: int, hops: int, frame: memoryview) -> None:
        """A group-addressed frame of ``origin``: once to our pods, and on along its tree."""
        peers = self._peers
        if origin == peers.us or origin not in peers.peers:
            peers.drop(Drop.DUPLICATE if origin == peers.us else Drop.UNKNOWN_PEER)
            return
        if not self._broadcasts.setdefault(origin, ReplayWindow()).accept(number):
            peers.drop(Drop.DUPLICATE)
            return
        self._deliver(origin, frame)
        children = peers.trees.get(origin, ())
        if not children:
            return
        if hops <= 1:
            peers.drop(Drop.HOP_LIMIT)
            return
        head = FRAME_LENGTH.pack(len(frame) | BROADCAST_FLAG)
        onward = memoryview(head + ENVELOPE.pack(origin, number, hops - 1) + frame)
        for child in children:
            if (peer := peers.peers.get(child)) is not None:
                self._sender.record(peer, onward)

    # ---- relaying

    def _relay(self, start: int, end: int, hops: int, dst: int, index: int, total: int) -> int:
        """Pass a run of one record's datagrams on as it lies; how many slots that were."""
        slots, words = self._slots, self._words
        headers = slots.headers
        count = max(1, min(total - index, end - start))
        first, last = HEADER_SIZE * start, HEADER_SIZE * (start + count)
        one = headers[first : first + 20]
        for offset in (1, 3, 5, 19):
            column = headers[first + offset : last : HEADER_SIZE]
            if column != one[offset : offset + 1] * count:
                count, last = 1, first + HEADER_SIZE
                break
        sizes = words[_WORDS * start + _LEN_WORD : _WORDS * (start + count) : _WORDS].tolist()
        segment = slots.payload + HEADER_SIZE
        if any(size != segment for size in sizes[:-1]):
            count, last, sizes = 1, first + HEADER_SIZE, sizes[:1]
        path = self._onward(ShortID(dst), hops, count)
        if path is not None:
            headers[first + 1 : last : HEADER_SIZE] = bytes((hops - 1,)) * count
            self._sender.send(slots, start, count, sizes[-1] - HEADER_SIZE, *path)
        return count

    def _relay_one(self, datagram: bytes, hops: int, dst: ShortID) -> None:
        path = self._onward(dst, hops, 1)
        if path is not None:
            onward = datagram[:1] + bytes((hops - 1,)) + datagram[2:]
            self._sender.datagram(onward, *path)

    def _onward(self, dst: ShortID, hops: int, count: int) -> tuple[ShortID, Neighbour] | None:
        """(next hop, its address) for a datagram that is not for us."""
        peers = self._peers
        if hops <= 1:
            peers.drop(Drop.HOP_LIMIT, count)
            return None
        path = peers.path(dst)
        if path is None:
            peers.drop(Drop.NO_ROUTE, count)
            return None
        self.relayed += count
        return path[0], path[1]

"""Datagrams off the socket into slots: where they lie, how long they are, whence they came.

Two ways, chosen by ``ReceiveMode``: recvmmsg fills one slot a datagram; where the path coalesces,
one recvmsg scatters a whole run over the slots. A run of another size than the slots have cannot
lie in them, and is handed out datagram by datagram.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable

from mesh.drivers.sleeve.abi import (
    MSG_DONTWAIT,
    MSG_TRUNC,
    NAME_SIZE,
    SOL_UDP,
    UDP_GRO,
    MMsgHdr,
    MsgHdr,
    Slots,
    address_of,
    recvmmsg,
    recvmsg,
)
from mesh.link.receivemode import ReceiveMode
from mesh.link.slotsize import MOST
from mesh.wire.sleeve import HEADER_SIZE, INDEX_AT, TOTAL_AT

SLOTS, BATCH = 512, 64
FIRST_PAYLOAD = 1472 - HEADER_SIZE
"""Payload of a slot until something else is seen: a full datagram on Ethernet over IPv4."""

OVERHEAD = 768
"""Octets of socket buffer that a datagram takes beside its own: the kernel's structures, and what
its memory comes in. About right from 64 octets to 9,000."""

_MM_SIZE = ctypes.sizeof(MMsgHdr)
SIZE_STEP = _MM_SIZE // 4
SIZE_AT = MMsgHdr.len.offset // 4
"""Where the sizes stand in ``words``, and how far apart."""
_SEGMENT = struct.Struct("=iii")
"""Of a control message: level, type, and the size of the run's datagrams."""

_RUN = 65_536
"""Octets of the largest run the kernel hands up."""


class Intake:
    """Slots ``start`` to ``fill`` hold datagrams that were not consumed yet.

    ``odd(datagram, source)`` is called for each datagram that does not lie in a slot.
    """

    def __init__(self, fd: int, odd: Callable[[bytes, bytes], None]) -> None:
        self._fd, self._odd = fd, odd
        self.slots = Slots(SLOTS, FIRST_PAYLOAD, SLOTS * MOST)
        self.mode = ReceiveMode()
        self.start = self.fill = 0
        self.took = 0
        """Octets of socket buffer that the last call emptied, as the kernel counts them."""
        self._runs: list[int] = []
        """Where runs begin: all of a run came from the address that stands with its first."""
        self._mm = (MMsgHdr * SLOTS)()
        self._mm_address = ctypes.addressof(self._mm)
        self.words = memoryview(self._mm).cast("B").cast("I")
        """At ``SIZE_AT + n * SIZE_STEP``: octets of the datagram in slot ``n``."""
        self._names = bytearray(NAME_SIZE * SLOTS)
        self._names_address = address_of(self._names)
        for n in range(SLOTS):
            header = self._mm[n].hdr
            header.iov, header.iovlen = self.slots.iov_address + 32 * n, 2
            header.name, header.namelen = self._names_address + NAME_SIZE * n, NAME_SIZE
        self._control = ctypes.create_string_buffer(64)
        self._gro = MsgHdr()
        self._gro.namelen = NAME_SIZE
        self._gro_address = ctypes.addressof(self._gro)

    def take(self) -> bool:
        """One system call's worth; False when there is nothing more."""
        if self.fill + BATCH > SLOTS:
            self._compact()
        self.took = 0
        return self._take_run() if self.mode.coalesced else self._take_batch()

    def consumed(self, start: int) -> None:
        """Slots before ``start`` are done with."""
        self.start = start
        if start == self.fill:
            self.start = self.fill = 0
            self._runs.clear()

    def sizes(self, start: int, stop: int) -> list[int]:
        """Octets of the datagrams in slots ``start`` to ``stop``, also of those cut off there."""
        return self.words[SIZE_STEP * start + SIZE_AT : SIZE_STEP * stop : SIZE_STEP].tolist()

    def size(self, n: int) -> int:
        return self.words[SIZE_STEP * n + SIZE_AT]

    def datagram(self, n: int) -> bytes:
        """A copy of the datagram in slot ``n``."""
        slots, size = self.slots, self.size(n)
        at = slots.payload * n
        return bytes(slots.headers[HEADER_SIZE * n : HEADER_SIZE * (n + 1)]) + bytes(
            slots.payload_view[at : at + size - HEADER_SIZE]
        )

    def alike(self, n: int) -> list[int]:
        """Slots, from ``n`` on, whose headers are the same up to the index: of one record."""
        headers, size = self.slots.headers, HEADER_SIZE
        at, end = size * n, size * self.fill
        head = bytes(headers[at : at + INDEX_AT])
        found: list[int] = []
        while at >= 0:
            slot, off = divmod(at, size)
            if off:  # the same octets across two headers
                at = headers.find(head, at + 1, end)
                continue
            found.append(slot)
            at = headers.find(head, at + size, end)
        return found

    def source(self, n: int) -> bytes:
        """The socket address that the datagram in slot ``n`` came from."""
        run = bisect_right(self._runs, n)
        return self._name(self._runs[run - 1] if run else n)

    def lay_out(self, payload: int) -> None:
        """Slots of another size from the next call on; what lies there must be consumed."""
        self.slots.lay_out(payload)
        self.start = self.fill = 0
        self._runs.clear()

    def change_mode(self) -> None:
        """Do what the mode says from the next call on."""
        sock = socket.socket(fileno=os.dup(self._fd))
        try:
            sock.setsockopt(SOL_UDP, UDP_GRO, int(self.mode.coalesced))
        except OSError:
            self.mode.refused()
        finally:
            sock.close()

    # ---- inside

    def _name(self, n: int) -> bytes:
        return bytes(self._names[NAME_SIZE * n : NAME_SIZE * (n + 1)])

    def _take_batch(self) -> bool:
        fill = self.fill
        # With MSG_TRUNC the length is that of the datagram, also where it exceeds its slot.
        flags = MSG_DONTWAIT | MSG_TRUNC
        got: int = recvmmsg(self._fd, self._mm_address + _MM_SIZE * fill, BATCH, flags, None)
        if got <= 0:
            return False
        self.mode.batch(got)
        self.fill = fill + got
        self.took = sum(self.sizes(fill, self.fill)) + OVERHEAD * got
        if self._runs:  # of the other mode, not consumed yet
            self._runs.extend(range(fill, fill + got))
        return got == BATCH

    def _take_run(self) -> bool:
        """One recvmsg of datagrams of one size, scattered over the slots."""
        slots, fill = self.slots, self.fill
        segment = slots.payload + HEADER_SIZE
        if fill + _RUN // segment + 1 > SLOTS:
            self._compact()
            fill = self.fill
        msg = self._gro
        msg.iov = slots.iov_address + 32 * fill
        msg.iovlen = 2 * min(_RUN // segment + 1, SLOTS - fill)
        msg.name = self._names_address + NAME_SIZE * fill
        msg.namelen = NAME_SIZE
        msg.control, msg.controllen = ctypes.addressof(self._control), len(self._control)
        size: int = recvmsg(self._fd, self._gro_address, MSG_DONTWAIT)
        if size <= 0:
            return False
        run = self._run_size(size)
        self.took = size + OVERHEAD * -(-size // run)
        record = slots.headers[HEADER_SIZE * fill + TOTAL_AT] if size >= HEADER_SIZE else 1
        self.mode.run((size + run - 1) // run, record)
        if run != segment and size > min(run, segment):
            self._take_apart(fill, size, run)
            return True
        got = (size + segment - 1) // segment
        lens = array("I", (segment,)) * got
        lens[-1] = size - (got - 1) * segment
        end = fill + got
        self.words[SIZE_STEP * fill + SIZE_AT : SIZE_STEP * end : SIZE_STEP] = memoryview(lens)
        self._runs.append(fill)
        self.fill = end
        return True

    def _run_size(self, size: int) -> int:
        """The size of the datagrams that the kernel put together, or of the only one."""
        if self._gro.controllen >= 20:
            level, kind, run = _SEGMENT.unpack_from(self._control, 8)
            if level == SOL_UDP and kind == UDP_GRO and run > 0:
                return int(run)
        return size

    def _take_apart(self, fill: int, size: int, run: int) -> None:
        slots = self.slots
        flat = bytearray()
        n = fill
        while len(flat) < size and n < SLOTS:
            flat += slots.header_view[HEADER_SIZE * n : HEADER_SIZE * (n + 1)]
            flat += slots.payload_view[slots.payload * n : slots.payload * (n + 1)]
            n += 1
        source = self._name(fill)
        for at in range(0, min(size, len(flat)), run):
            self._odd(bytes(flat[at : min(at + run, size)]), source)

    def _compact(self) -> None:
        """Move what is not consumed to the front of the slots."""
        start, count = self.start, self.fill - self.start
        for n in range(start, self.fill) if self._runs else ():
            self._names[NAME_SIZE * n : NAME_SIZE * (n + 1)] = self.source(n)
        views = (
            (self.slots.header_view, HEADER_SIZE),
            (self.slots.payload_view, self.slots.payload),
            (memoryview(self._names), NAME_SIZE),
        )
        for view, size in views:
            view[: count * size] = bytes(view[start * size : (start + count) * size])
        if count:
            lens = array("I", self.sizes(start, self.fill))
            self.words[SIZE_AT : SIZE_STEP * count : SIZE_STEP] = memoryview(lens)
        self._runs.clear()
        self.start, self.fill = 0, count

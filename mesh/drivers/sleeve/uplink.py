"""From the pods: frames off the TAP into records, those that wait together sharing one."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from mesh.clock import Instant
from mesh.drivers.sleeve.sender import Sender
from mesh.drivers.tap import set_queue_length
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.flowrun import FlowRun, datagrams
from mesh.link.frames import split
from mesh.link.outbound import Outbound
from mesh.link.peers import Peer, Peers
from mesh.link.queuetime import QueueTime
from mesh.link.records import unicast_record
from mesh.wire.sleeve import FRAME_LENGTH, MAX_PLAIN, MAX_RECORD, VNET_SIZE

MAX_ROUNDS = 8
"""Records made before the socket has its turn again."""

MAX_READS = 128
"""Frames read for one record: what waits behind them has waited long enough."""

WAIT = 0.005
"""Seconds that a frame may wait in the TAP for those in front of it: longer than a turn at the
socket takes, in which nothing is read."""

LEAST_FRAMES, MOST_FRAMES = 32, 1000
"""That may wait there: 2 MB of super-frames, and what the kernel lets wait by itself."""

SUPER_FRAME = 4_000
"""A frame of more octets than this ends its record: it fills one by itself."""


class TapGoneError(OSError):
    """The TAP device was deleted: only the daemon can make another."""


class Uplink:
    """``spread``: who sends the broadcasts of this host, where that is another worker."""

    def __init__(
        self,
        peers: Peers,
        tap: int,
        sender: Sender,
        broadcasts: Broadcasts,
        spread: Callable[[bytes], None] | None = None,
    ) -> None:
        self._peers, self._tap, self._sender = peers, tap, sender
        self._outbound = Outbound(peers, broadcasts, sender.record, self.write, spread=spread)
        self.spread = self._outbound.spread
        self._buffer = bytearray(MAX_PLAIN)
        self._view = memoryview(self._buffer)
        self._run = FlowRun()
        self._queue = QueueTime(WAIT, LEAST_FRAMES, MOST_FRAMES)
        self.frames = self.octets = 0

    def read(self, now: Instant) -> None:
        """The TAP has frames. Raises TapGoneError."""
        before, more = self.frames, True
        for _ in range(MAX_ROUNDS):
            more = self._record(now)
            if not more:
                break
        length = self._queue.took(self.frames - before, emptied=not more, now=now)
        if length is not None:
            set_queue_length(self._tap, length)

    def tick(self) -> None:
        """Once a second."""
        self._outbound.refill()

    def write(self, frame: bytes | bytearray | memoryview) -> None:
        """A frame for our bridge, virtio-net header first. Raises TapGoneError."""
        try:
            os.write(self._tap, frame)
        except BlockingIOError:
            self._peers.drop(Drop.TAP_FULL)
        except OSError as err:
            pieces = datagrams(bytes(frame)) if err.errno == errno.EINVAL else ()
            if len(pieces) < 2:
                self._refused(err)
                return
            for piece in pieces:  # the kernel has no super-frames of UDP
                self.write(piece)

    def _record(self, now: Instant) -> bool:
        """One record, or several when frames for others lie between; whether more may wait."""
        buffer, view, run, tap = self._buffer, self._view, self._run, self._tap
        dest: Peer | None = None
        limit = most = MAX_RECORD
        end = reads = octets = 0
        more = True
        while reads < MAX_READS and end < limit:
            at = end + FRAME_LENGTH.size
            head = run.size
            try:
                if head:
                    # Where it goes on with the run, its payload lies where it belongs.
                    size = os.readv(tap, (run.scratch, view[end:]))
                else:
                    size = os.readv(tap, (view[at:],))
            except BlockingIOError:
                more = False
                break
            except OSError as err:
                self._refused(err)
                more = False
                break
            reads += 1
            octets += size
            if head:
                if end + size <= limit and run.takes(size):
                    end += size - head
                    if dest is not None:
                        dest.tx_frames += 1
                    continue
                self._close(end)
                if size > head:
                    view[at + head : at + size] = view[end : end + size - head]
                view[at : at + head] = run.scratch
            peer = self._outbound.destination(buffer, at, size, now)
            if peer is None:
                continue
            peer.tx_frames += 1
            if end and (peer is not dest or at + size > limit < MAX_RECORD):
                assert dest is not None
                self._sender.record(dest, view[:end])
                view[: FRAME_LENGTH.size + size] = view[end : at + size]
                at, end = FRAME_LENGTH.size, 0
            if peer is not dest:
                dest, limit, most = peer, peer.size.together, peer.size.limit
            if at + size > most < MAX_RECORD:
                # The path loses datagrams: what is lost of this must be less than all of it.
                pieces = split(bytes(view[at : at + size]), most - FRAME_LENGTH.size)
                self._sender.singles(dest, [unicast_record(piece) for piece in pieces])
                end = 0
                break
            end = at + size
            if size > SUPER_FRAME:
                FRAME_LENGTH.pack_into(buffer, at - FRAME_LENGTH.size, size)
                break
            run.open(buffer, at, size)
            if not run.size:
                FRAME_LENGTH.pack_into(buffer, at - FRAME_LENGTH.size, size)
        if run.size:
            self._close(end)
        if dest is not None and end:
            self._sender.record(dest, view[:end])
        self.frames += reads
        self.octets += octets - reads * VNET_SIZE
        return more

    def _close(self, end: int) -> None:
        """The run that ends there gets the headers and the length that it has become."""
        run = self._run
        FRAME_LENGTH.pack_into(self._buffer, run.at - FRAME_LENGTH.size, end - run.at)
        run.close(self._buffer)

    def _refused(self, err: OSError) -> None:
        if err.errno == errno.EBADFD:
            raise TapGoneError(err.errno, "TAP device gone") from err
        self._peers.drop(Drop.TAP_REFUSED)  # the device is down, or it did not like the frame

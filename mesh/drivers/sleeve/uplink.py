"""From the pods: frames off the TAP into records, those that wait together sharing one."""

from __future__ import annotations

import errno
import os

from mesh.clock import Instant
from mesh.drivers.sleeve.sender import Sender
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.frames import split
from mesh.link.outbound import Outbound
from mesh.link.peers import Peer, Peers
from mesh.link.records import unicast_record
from mesh.wire.sleeve import FRAME_LENGTH, MAX_PLAIN, MAX_RECORD, VNET_SIZE

MAX_ROUNDS = 8
"""Records made before the socket has its turn again."""

SUPER_FRAME = 4_000
"""A frame of more octets than this ends its record: it fills one by itself."""


class TapGoneError(OSError):
    """The TAP device was deleted: only the daemon can make another."""


class Uplink:
    def __init__(self, peers: Peers, tap: int, sender: Sender, broadcasts: Broadcasts) -> None:
        self._peers, self._tap, self._sender = peers, tap, sender
        self._outbound = Outbound(peers, broadcasts, sender.record, self.write)
        self._buffer = bytearray(MAX_PLAIN)
        self._view = memoryview(self._buffer)
        self.frames = self.octets = 0

    def read(self, now: Instant) -> None:
        """The TAP has frames. Raises TapGoneError."""
        for _ in range(MAX_ROUNDS):
            if not self._record(now):
                return

    def tick(self) -> None:
        """Once a second."""
        self._outbound.refill()

    def write(self, frame: bytes | memoryview) -> None:
        """A frame for our bridge, virtio-net header first. Raises TapGoneError."""
        try:
            os.write(self._tap, frame)
        except BlockingIOError:
            self._peers.drop(Drop.TAP_FULL)
        except OSError as err:
            self._refused(err)

    def _record(self, now: Instant) -> bool:
        """One record, or several when frames for others lie between; whether more may wait."""
        buffer, view = self._buffer, self._view
        dest: Peer | None = None
        n, limit = 0, 1
        more = True
        while n < limit:
            size = self._read(n + FRAME_LENGTH.size)
            if not size:
                more = False
                break
            self.frames += 1
            self.octets += size - VNET_SIZE
            at = n + FRAME_LENGTH.size
            peer = self._outbound.destination(buffer, at, size, now)
            if peer is None:
                continue
            if peer is not dest:
                if dest is not None:
                    self._sender.record(dest, view[:n])
                    view[: at - n + size] = view[n : at + size]
                    n = 0
                dest, limit = peer, peer.size.limit
            if size > limit < MAX_RECORD:
                # The path loses datagrams: what is lost of this must be less than all of it.
                self._sender.record(dest, view[:n]) if n else None
                for piece in split(bytes(view[at : at + size]), limit):
                    self._sender.record(dest, unicast_record(piece))
                return True
            FRAME_LENGTH.pack_into(buffer, n, size)
            n += FRAME_LENGTH.size + size
            if size > SUPER_FRAME:
                break
        if dest is not None and n:
            self._sender.record(dest, view[:n])
        return more

    def _read(self, at: int) -> int:
        """Octets of the next frame, read to ``at``; 0 when there is none."""
        try:
            return os.readv(self._tap, [self._view[at:]])
        except BlockingIOError:
            return 0
        except OSError as err:
            self._refused(err)
            return 0

    def _refused(self, err: OSError) -> None:
        if err.errno == errno.EBADFD:
            raise TapGoneError(err.errno, "TAP device gone") from err
        self._peers.drop(Drop.TAP_REFUSED)  # the device is down, or it did not like the frame

"""The upcall device: frames between the kernel's programs and the daemon.

A TAP without a port on any bridge. Every frame on it is wrapped in two VLAN tags, which say what it
is for and whose it is; what is not wrapped so is the kernel's own chatter and is passed over. Only
one process can have it: that is how a second daemon is found out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from mesh.drivers.tap import IFF_NO_PI, IFF_TAP, TUNGETIFF, TUNSETIFF
from mesh.link.datapath import CONTROL_TYPE, Reason, Upcall
from mesh.names import ShortID

MAX_FRAME = 65_600
TAGS = struct.Struct("!HHHH")
MACS = 12
S_TAG, C_TAG = 0x88A8, 0x8100
SHORT_ID_MASK = 0xFFF
CONTROL_HEADER = bytes(MACS) + CONTROL_TYPE.to_bytes(2, "big")
MIN_FRAME = 14


class UpcallDevice:
    """Raises OSError: EBUSY when another process has it, EPERM without CAP_NET_ADMIN."""

    def __init__(self, name: str) -> None:
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI)
            fcntl.ioctl(self.fd, TUNSETIFF, request)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """The device goes with it."""
        os.close(self.fd)

    def is_there(self) -> bool:
        try:
            fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))
        except OSError:
            return False
        return True

    def receive(self, limit: int) -> list[Upcall]:
        found: list[Upcall] = []
        for _ in range(limit):
            try:
                frame = os.read(self.fd, MAX_FRAME)
            except BlockingIOError:
                break
            except OSError as err:
                if err.errno in (errno.EBADFD, errno.EIO):
                    break  # deleted under us: `check` finds that
                raise
            if (upcall := unwrap(frame)) is not None:
                found.append(upcall)
        return found

    def send(self, what: int, source: int, target: int, frame: bytes) -> None:
        """Raises OSError where the kernel does not take it; a full queue is a lost frame."""
        with contextlib.suppress(BlockingIOError):
            os.write(self.fd, wrap(what, source, target, frame))


def wrap(what: int, source: int, target: int, frame: bytes) -> bytes:
    tags = TAGS.pack(S_TAG, what << 13 | source & SHORT_ID_MASK, C_TAG, target & SHORT_ID_MASK)
    return frame[:MACS] + tags + frame[MACS:]


def unwrap(frame: bytes) -> Upcall | None:
    """None: not one of our programs'."""
    if len(frame) < MIN_FRAME + TAGS.size:
        return None
    outer, first, inner, second = TAGS.unpack_from(frame, MACS)
    what = first >> 13
    if outer != S_TAG or inner != C_TAG or what not in list(Reason):
        return None
    whole = frame[:MACS] + frame[MACS + TAGS.size :]
    if what == Reason.CONTROL:
        if whole[: len(CONTROL_HEADER)] != CONTROL_HEADER:
            return None
        whole = whole[len(CONTROL_HEADER) :]
    source, target = ShortID(first & SHORT_ID_MASK), ShortID(second & SHORT_ID_MASK)
    return Upcall(Reason(what), source, target, whole)

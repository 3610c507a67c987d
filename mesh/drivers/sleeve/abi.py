"""The kernel's structures for scattered I/O, and arrays of datagram slots made of them.

Headers and payloads live in two arrays; the kernel gathers from and scatters to them by iovecs
that are made once, so no Python object is made for a datagram. Sources: recvmmsg(2), sendmsg(2),
udp(7).
"""

from __future__ import annotations

import ctypes
import socket
import struct

from mesh.names import Endpoint
from mesh.wire.sleeve import HEADER_SIZE, TOTAL_AT

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
MSG_DONTWAIT = 0x40
MSG_TRUNC = 0x20
NAME_SIZE = 28
"""Octets of the largest socket address we use, sockaddr_in6."""

MAX_GSO_SEGMENTS = 64
MAX_GSO_OCTETS = 65_000
"""What one sendmsg may carry: UDP_MAX_SEGMENTS and the largest IP packet, with room."""


class IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("len", ctypes.c_size_t))


class MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint),
        ("iov", ctypes.c_void_p),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class MMsgHdr(ctypes.Structure):
    _fields_ = (("hdr", MsgHdr), ("len", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)
recvmmsg = _libc.recvmmsg
recvmmsg.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_void_p,
)
sendmsg = _libc.sendmsg
sendmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
sendmsg.restype = ctypes.c_ssize_t
recvmsg = _libc.recvmsg
recvmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
recvmsg.restype = ctypes.c_ssize_t


def address_of(buffer: bytearray) -> int:
    """Where a buffer lies. It must not be resized while anybody uses the address."""
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


class Slots:
    """``count`` datagram slots of ``payload`` octets each behind a header: two arrays, iovecs."""

    def __init__(self, count: int, payload: int, room: int = 0) -> None:
        self.count, self.payload = count, payload
        self.headers = bytearray(HEADER_SIZE * count)
        self.written = bytes(TOTAL_AT + 1)
        """What stands in every header up to its total, the index left out: for who sends."""
        self.stamp: object = None
        """Who wrote it, and for what but for the number's last octet."""
        self.payloads = bytearray(max(payload * count, room) + 64)
        self.iov = (IoVec * (2 * count))()
        self.iov_address = ctypes.addressof(self.iov)
        self.iov_view = memoryview(self.iov).cast("B")
        """32 octets a slot."""
        self.lengths = memoryview(self.iov).cast("B").cast("L")[1::2]
        """Of the iovecs: header and payload of slot 0, of slot 1, …"""
        self.header_view = memoryview(self.headers)
        self.payload_view = memoryview(self.payloads)
        self._header_address = address_of(self.headers)
        self._payload_address = address_of(self.payloads)
        self.lay_out(payload)

    def lay_out(self, payload: int) -> None:
        """Use slots of another payload size from now on; ``count`` of them must fit."""
        self.payload = payload
        for n in range(self.count):
            head, body = self.iov[2 * n], self.iov[2 * n + 1]
            head.base, head.len = self._header_address + HEADER_SIZE * n, HEADER_SIZE
            body.base, body.len = self._payload_address + payload * n, payload


def socket_address(endpoint: Endpoint, family: int) -> bytes:
    """A sockaddr for ``endpoint`` on a socket of this family, IPv4 mapped into IPv6 as needed."""
    port = struct.pack("!H", endpoint.port)
    if family == socket.AF_INET:
        host = socket.inet_pton(socket.AF_INET, endpoint.host)
        return struct.pack("=H", socket.AF_INET) + port + host + bytes(8)
    host_text, _, zone = endpoint.host.partition("%")
    scope = socket.if_nametoindex(zone) if zone else 0
    text = host_text if ":" in host_text else f"::ffff:{host_text}"
    host = socket.inet_pton(socket.AF_INET6, text)
    return struct.pack("=H", socket.AF_INET6) + port + bytes(4) + host + struct.pack("=I", scope)


def endpoint_from(address: bytes) -> Endpoint:
    """The endpoint in a sockaddr that the kernel filled in."""
    family, port = struct.unpack_from("=H", address)[0], struct.unpack_from("!H", address, 2)[0]
    if family == socket.AF_INET:
        return Endpoint(socket.inet_ntop(socket.AF_INET, address[4:8]), port)
    host = socket.inet_ntop(socket.AF_INET6, address[8:24])
    return Endpoint(host.removeprefix("::ffff:") if "." in host else host, port)

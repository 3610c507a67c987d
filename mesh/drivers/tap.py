"""The TAP device and the UDP socket of the sleeve, opened by the daemon, inherited by its worker.

The daemon holds both: they outlive a worker that dies, and the bridge never loses its port.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct

from mesh.wire.sleeve import SEQ_AT

TUNSETIFF, TUNGETIFF = 0x400454CA, 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC
SIOCSIFTXQLEN = 0x8943
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x4000, 0x0100
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 = 1, 2, 4, 0x20, 0x40
SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_ATTACH_REUSEPORT_CBPF = 32, 33, 51
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
BUFFER = 16 * 1024 * 1024
"""Octets of socket buffer each way, as the kernel counts them: more than 10 ms of 5 Gb/s, so that a
descheduled worker loses nothing."""


def open_taps(name: str, queues: int = 1) -> list[int]:
    """A TAP device of so many queues. The kernel keeps a flow on one of them: the one that its
    answers are written to. Raises OSError as ``open_tap`` does."""
    fds: list[int] = []
    try:
        flag = IFF_MULTI_QUEUE if queues > 1 else 0
        fds.extend(open_tap(name, flag) for _ in range(queues))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def open_tap(name: str, more_flags: int = 0) -> int:
    """Make a TAP device with virtio-net headers and every offload the kernel has.

    Raises OSError: EBUSY when another process has it, EPERM without CAP_NET_ADMIN.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | more_flags
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 10))
        # These headers cross to other machines: little-endian, whatever this one is.
        fcntl.ioctl(fd, TUNSETVNETLE, struct.pack("i", 1))
        offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6)
        except OSError:
            fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)  # before Linux 6.2 there is no USO
    except OSError:
        os.close(fd)
        raise
    return fd


def is_tap(fd: int) -> bool:
    """Whether there is still a device behind it: somebody may have deleted it."""
    try:
        fcntl.ioctl(fd, TUNGETIFF, bytes(40))
    except OSError:
        return False
    return True


def set_queue_length(fd: int, frames: int) -> None:
    """How many frames may wait in each queue of this TAP device; more are dropped by the kernel.

    Without CAP_NET_ADMIN, or with the device gone, it stays as it is.
    """
    with contextlib.suppress(OSError):
        name = fcntl.ioctl(fd, TUNGETIFF, bytes(40))[:16]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, SIOCSIFTXQLEN, struct.pack("16si20x", name, frames))


def open_udps(port: int, lanes: int = 1) -> list[socket.socket]:
    """A UDP socket a lane, all on one port; the kernel hands a datagram to its lane's.

    Raises OSError: EADDRINUSE also where another process has the port and would share it.
    """
    if lanes == 1:
        return [open_udp(port)]
    open_udp(port).close()  # alone, for who shares a port is not told that it is taken
    sockets: list[socket.socket] = []
    try:
        sockets.extend(open_udp(port, shared=True) for _ in range(lanes))
        program = ctypes.create_string_buffer(b"".join(_by_lane(lanes)))
        header = struct.pack("HP", len(program) // 8, ctypes.addressof(program))
        sockets[0].setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, header)
    except OSError:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _by_lane(lanes: int) -> list[bytes]:
    """Classic BPF over a datagram's payload: which of the sockets, in the order they were bound.

    A datagram too short to have a lane goes to the first.
    """
    load, modulo, answer = 0x30, 0x94, 0x16  # BPF_LD|B|ABS, BPF_ALU|MOD|K, BPF_RET|A
    steps = ((load, SEQ_AT), (modulo, lanes), (answer, 0))
    return [struct.pack("HBBI", code, 0, 0, k) for code, k in steps]


def set_receive_buffer(fd: int, octets: int) -> None:
    """How much may wait in a socket, datagrams and what the kernel needs for them; more is dropped.

    Without CAP_NET_ADMIN it stays as it is.
    """
    with socket.socket(fileno=os.dup(fd)) as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, octets // 2)  # the kernel doubles it


def open_udp(port: int, *, shared: bool = False) -> socket.socket:
    """A UDP socket on every address, IPv4 and IPv6, that never fragments.

    PMTUDISC_PROBE sets DF and leaves the path's size to our own search. ``shared``: with others of
    this process. Raises OSError.
    """
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        host = "::"
    except OSError:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        host = "0.0.0.0"  # noqa: S104  # peers reach us on every address we have
    try:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
            # Without CAP_NET_ADMIN the kernel's default has to do.
            with contextlib.suppress(PermissionError):
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER // 2)  # the kernel doubles it
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock

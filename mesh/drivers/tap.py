"""The TAP device and the UDP socket of the sleeve, opened by the daemon, inherited by its worker.

The daemon holds both: they outlive a worker that dies, and the bridge never loses its port.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct

TUNSETIFF, TUNGETIFF = 0x400454CA, 0x800454D2
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
TUNSETVNETLE = 0x400454DC
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6 = 1, 2, 4, 0x20, 0x40
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3
BUFFER = 8 * 1024 * 1024
"""Octets of socket buffer each way: 10 ms of 5 Gb/s, so that a descheduled worker loses nothing."""


def open_tap(name: str) -> int:
    """Make a TAP device with virtio-net headers and every offload the kernel has.

    Raises OSError: EBUSY when another process has it, EPERM without CAP_NET_ADMIN.
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
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


def open_udp(port: int) -> socket.socket:
    """A UDP socket on every address, IPv4 and IPv6, that never fragments.

    PMTUDISC_PROBE sets DF and leaves the path's size to our own search. Raises OSError.
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
                sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock

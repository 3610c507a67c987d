"""The tables' layout as ``bpf/tables.h`` has it; ``tests/unit/test_bpf_layout.py`` compares."""

from __future__ import annotations

import ctypes
import ipaddress
import socket
from typing import Final

from mesh.drivers.fastdp.bpf import NO_PREALLOC, Kind, MapSpec
from mesh.link.datapath import MAX_CHILDREN, MAX_GROUP_TREES, MAX_MACS, MAX_SOURCES
from mesh.link.drops import Drop

PEERS = 4096
ROUND = 32
"""Copies made by one program of the chain."""

MARK = 0x57564D31
"""Of frames that enter the bridge by the VXLAN device and come from us."""

UPCALL_UNKNOWN = 1
BY_NOBODY, BY_KERNEL, BY_SLEEVE = range(3)
TREE_TO_SLEEVE, TREE_NOT_HERE = 1, 2
SEND_CONTROL, DELIVER, SEND_ALONG_TREE = 1, 2, 3

DROPS: Final = (
    Drop.MALFORMED,
    Drop.NOT_CONFIGURED,
    Drop.NO_ROUTE,
    Drop.HOP_LIMIT,
    Drop.BAD_SOURCE,
    Drop.LOCAL,
    Drop.LOOPED,
    Drop.OFF_TREE,
    Drop.MAC_OF_ANOTHER,
    Drop.NO_SLEEVE,
    Drop.UNDERLAY_ERROR,
    Drop.TAP_REFUSED,
    Drop.TOO_BIG,
    Drop.FLOOD_LIMIT,
)
"""The first of ``totals``, in the order of tables.h."""

FLOODS_A_SECOND, FLOODS_AT_ONCE = 1000, 200
"""Unicast frames to addresses nobody is known behind that go along our tree, on each processor."""

REPORTS_A_SECOND, REPORTS_AT_ONCE = 100, 100
"""Reports of group memberships that come up, on each processor."""

ALLOW_FLOODS, ALLOW_REPORTS, ALLOWANCES = range(3)

ANSWERED, UPCALLS, TO_SLEEVE, TOTALS = (len(DROPS) + n for n in range(4))


class Config(ctypes.Structure):
    _fields_ = (
        ("layout", ctypes.c_uint32),
        ("us", ctypes.c_uint32),
        ("vxlan", ctypes.c_uint32),
        ("sleeve", ctypes.c_uint32),
        ("upcall", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class Mac(ctypes.Structure):
    _fields_ = (("octets", ctypes.c_uint8 * 6), ("zero", ctypes.c_uint8 * 2))


class Address(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 4),)


class Neighbour(ctypes.Structure):
    _fields_ = (
        ("host", Address),
        ("own", Address),
        ("family", ctypes.c_uint32),
        ("has_own", ctypes.c_uint32),
    )


class Route(ctypes.Structure):
    _fields_ = (
        ("via", ctypes.c_uint16),
        ("by", ctypes.c_uint16),
        ("mtu", ctypes.c_uint16),
        ("onward", ctypes.c_uint16),
    )


class Source(ctypes.Structure):
    _fields_ = (("host", Address), ("peer", ctypes.c_uint32))


class Allowance(ctypes.Structure):
    _fields_ = (("spent_until", ctypes.c_uint64),)


class Learned(ctypes.Structure):
    _fields_ = (("peer", ctypes.c_uint32), ("seen", ctypes.c_uint32))


class AnswerEntry(ctypes.Structure):
    _fields_ = (("mac", ctypes.c_uint8 * 6), ("place", ctypes.c_uint16))


class TreeEntry(ctypes.Structure):
    _fields_ = (
        ("parent", ctypes.c_uint16),
        ("flags", ctypes.c_uint16),
        ("count", ctypes.c_uint32),
        ("children", ctypes.c_uint16 * (MAX_CHILDREN + ROUND)),
    )


class Group(ctypes.Structure):
    _fields_ = (("origin", ctypes.c_uint32), ("address", Mac))


class Traffic(ctypes.Structure):
    _fields_ = (
        ("tx_frames", ctypes.c_uint64),
        ("tx_octets", ctypes.c_uint64),
        ("rx_frames", ctypes.c_uint64),
        ("rx_octets", ctypes.c_uint64),
        ("relayed_frames", ctypes.c_uint64),
        ("relayed_octets", ctypes.c_uint64),
    )


STRUCTS: Final = {
    "config": Config,
    "mac": Mac,
    "address": Address,
    "neighbour": Neighbour,
    "route": Route,
    "source": Source,
    "allowance": Allowance,
    "learned": Learned,
    "answer": AnswerEntry,
    "tree": TreeEntry,
    "group": Group,
    "traffic": Traffic,
}
NUMBER, BIG_NUMBER = 4, 8


def _spec(
    name: str, kind: Kind, key: type[ctypes.Structure] | None, value: int, size: int, flags: int = 0
) -> MapSpec:
    return MapSpec(name, kind, NUMBER if key is None else ctypes.sizeof(key), value, size, flags)


SPECS: Final = (
    _spec("config", Kind.ARRAY, None, ctypes.sizeof(Config), 1),
    _spec("neighbours", Kind.ARRAY, None, ctypes.sizeof(Neighbour), PEERS),
    _spec("routes", Kind.ARRAY, None, ctypes.sizeof(Route), PEERS),
    _spec("trees", Kind.HASH, None, ctypes.sizeof(TreeEntry), PEERS, NO_PREALLOC),
    _spec("group_trees", Kind.HASH, Group, ctypes.sizeof(TreeEntry), MAX_GROUP_TREES, NO_PREALLOC),
    _spec("sources", Kind.HASH, Source, NUMBER, MAX_SOURCES, NO_PREALLOC),
    _spec("attached", Kind.HASH, Mac, NUMBER, MAX_MACS, NO_PREALLOC),
    _spec("answers", Kind.HASH, Address, ctypes.sizeof(AnswerEntry), MAX_MACS, NO_PREALLOC),
    _spec("learned", Kind.LRU_HASH, Mac, ctypes.sizeof(Learned), MAX_MACS),
    _spec("traffic", Kind.PERCPU_ARRAY, None, ctypes.sizeof(Traffic), PEERS),
    _spec("allowances", Kind.PERCPU_ARRAY, None, ctypes.sizeof(Allowance), ALLOWANCES),
    _spec("totals", Kind.PERCPU_ARRAY, None, BIG_NUMBER, TOTALS),
)


def key(number: int) -> bytes:
    return number.to_bytes(4, "little")


def group_key(origin: int, group: bytes) -> bytes:
    return key(origin) + mac_key(group)


def mac_key(mac: bytes) -> bytes:
    return mac + b"\0\0"


def packed(host: str) -> bytes:
    """16 octets, IPv4 mapped into IPv6. ValueError: no address."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return bytes(10) + b"\xff\xff" + address.packed
    return address.packed


def printed(octets: bytes) -> str:
    if octets[:12] == bytes(10) + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, octets[12:16])
    return socket.inet_ntop(socket.AF_INET6, octets[:16])


def family(octets: bytes) -> int:
    return 4 if octets[:12] == bytes(10) + b"\xff\xff" else 6


def neighbour(host: str, own: str | None) -> bytes:
    octets = packed(host)
    source = bytes(16) if own is None else packed(own)
    return octets + source + key(family(octets)) + key(own is not None)


def route(via: int, by: int, mtu: int = 0, onward: int = 0) -> bytes:
    return b"".join(number.to_bytes(2, "little") for number in (via, by, mtu, onward))


def source(host: str, peer: int) -> bytes:
    return packed(host) + key(peer)

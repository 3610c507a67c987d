"""The few netlink requests of the fast path: its VXLAN device, and programs on devices' hooks.

``mesh.drivers.netlink`` wraps pyroute2, which costs a quarter of a second to import and therefore
lives in a helper process; a program's file descriptor belongs to the process that asks for it to be
attached, and pyroute2 does not read back which program is attached (docs/adr/0006).
Layouts: linux/rtnetlink.h, linux/if_link.h, linux/pkt_cls.h. Errors: OSError, the kernel's number.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

NEW_LINK, DEL_LINK, GET_LINK = 16, 17, 18
NEW_QDISC, DEL_QDISC = 36, 37
NEW_FILTER, DEL_FILTER, GET_FILTER = 44, 45, 46
ERROR, DONE = 2, 3
REQUEST, ACK, ROOT_MATCH, EXCLUSIVE, CREATE = 1, 4, 0x300, 0x200, 0x400
NESTED = 0x8000
EXTENDED_ACK, SOL_NETLINK, CAP_ACK = 11, 270, 10
ACK_TLVS = 0x200
IFF_UP = 1

IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_AF_SPEC = 3, 4, 10, 18, 26
INFO_KIND, INFO_DATA = 1, 2
VXLAN_LEARNING, VXLAN_PORT, VXLAN_ZERO_CSUM6_RX, VXLAN_COLLECT_METADATA = 7, 15, 20, 25
INET6_ADDR_GEN_MODE, ADDR_GEN_NONE = 8, 1

TCA_KIND, TCA_OPTIONS = 1, 2
BPF_FD, BPF_NAME, BPF_FLAGS, BPF_ID = 6, 7, 8, 11
DIRECT_ACTION = 1
CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
ALL_PROTOCOLS = socket.htons(3)

HEADER = struct.Struct("=IHHII")
LINK_MESSAGE = struct.Struct("=BxHiII")
TRAFFIC_MESSAGE = struct.Struct("=BxxxiIII")
ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    index: int
    is_up: bool
    mtu: int
    master: int | None
    kind: str
    vxlan_port: int | None
    """Of a VXLAN device."""
    by_metadata: bool
    """A VXLAN device that takes each packet's address from the packet: one that is ours to use."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A program on a hook."""

    hook: int
    priority: int
    program: int
    """The program's id."""
    name: str


class Rtnl:
    """Of the network namespace this process is in when it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, EXTENDED_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, CAP_ACK, 1)
        self._socket.settimeout(10)
        self._socket.bind((0, 0))
        self._number = 0

    def close(self) -> None:
        self._socket.close()

    # --- devices

    def device(self, name: str) -> Device | None:
        try:
            answers = self.ask(GET_LINK, 0, _link() + _text(IFLA_IFNAME, name))
        except OSError as err:
            if err.errno == errno.ENODEV:
                return None
            raise
        return _read_device(answers[0])

    def mtu_of(self, index: int) -> int:
        """Of the device with this number."""
        return _read_device(self.ask(GET_LINK, 0, _link(index))[0]).mtu

    def devices(self) -> list[Device]:
        return [_read_device(body) for body in self.ask(GET_LINK, ROOT_MATCH, _link())]

    def add_vxlan(self, name: str, port: int, mtu: int) -> None:
        """A VXLAN device that is told each packet's address, and learns nothing by itself."""
        data = (
            attribute(VXLAN_COLLECT_METADATA, b"\1")
            + attribute(VXLAN_LEARNING, b"\0")
            + attribute(VXLAN_PORT, struct.pack("!H", port))
            + attribute(VXLAN_ZERO_CSUM6_RX, b"\1")
        )
        info = _text(INFO_KIND, "vxlan") + attribute(INFO_DATA | NESTED, data)
        body = _link() + _text(IFLA_IFNAME, name) + _number(IFLA_MTU, mtu)
        self.ask(NEW_LINK, CREATE | EXCLUSIVE, body + attribute(IFLA_LINKINFO | NESTED, info))

    def set_up(self, index: int) -> None:
        self.ask(NEW_LINK, 0, _link(index, IFF_UP, IFF_UP))

    def set_mtu(self, index: int, mtu: int) -> None:
        self.ask(NEW_LINK, 0, _link(index) + _number(IFLA_MTU, mtu))

    def set_master(self, index: int, master: int) -> None:
        self.ask(NEW_LINK, 0, _link(index) + _number(IFLA_MASTER, master))

    def keep_silent(self, index: int) -> None:
        """No IPv6 address of its own, whose announcements would go to the mesh as a pod's."""
        family = attribute(INET6_ADDR_GEN_MODE, bytes((ADDR_GEN_NONE,)))
        families = attribute(socket.AF_INET6 | NESTED, family)
        try:
            self.ask(NEW_LINK, 0, _link(index) + attribute(IFLA_AF_SPEC | NESTED, families))
        except OSError as err:
            if err.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL):
                raise  # a kernel without IPv6 has nothing to keep silent

    def delete(self, name: str) -> bool:
        """Whether there was such a device."""
        try:
            self.ask(DEL_LINK, 0, _link() + _text(IFLA_IFNAME, name))
        except OSError as err:
            if err.errno == errno.ENODEV:
                return False
            raise
        return True

    # --- programs on hooks

    def add_clsact(self, index: int) -> None:
        body = TRAFFIC_MESSAGE.pack(0, index, CLSACT_HANDLE, CLSACT, 0) + _text(TCA_KIND, "clsact")
        try:
            self.ask(NEW_QDISC, CREATE | EXCLUSIVE, body)
        except FileExistsError:
            return

    def delete_clsact(self, index: int) -> None:
        """With all programs on the device's hooks. It need not be there."""
        try:
            self.ask(DEL_QDISC, 0, TRAFFIC_MESSAGE.pack(0, index, CLSACT_HANDLE, CLSACT, 0))
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.EINVAL, errno.ENODEV):
                raise

    def set_program(self, index: int, hook: int, priority: int, program_fd: int, name: str) -> None:
        """Put a program there, in one step in place of what was there."""
        options = (
            attribute(BPF_FD, struct.pack("=I", program_fd))
            + _text(BPF_NAME, name)
            + attribute(BPF_FLAGS, struct.pack("=I", DIRECT_ACTION))
        )
        head = TRAFFIC_MESSAGE.pack(0, index, 1, hook, priority << 16 | ALL_PROTOCOLS)
        body = head + _text(TCA_KIND, "bpf") + attribute(TCA_OPTIONS | NESTED, options)
        self.ask(NEW_FILTER, CREATE, body)

    def delete_program(self, index: int, hook: int, priority: int) -> None:
        """It need not be there."""
        head = TRAFFIC_MESSAGE.pack(0, index, 0, hook, priority << 16 | ALL_PROTOCOLS)
        try:
            self.ask(DEL_FILTER, 0, head)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.EINVAL):
                raise

    def programs(self, index: int) -> list[Filter]:
        found: list[Filter] = []
        for hook in (INGRESS, EGRESS):
            body = TRAFFIC_MESSAGE.pack(0, index, 0, hook, 0)
            try:
                answers = self.ask(GET_FILTER, ROOT_MATCH, body)
            except OSError as err:
                if err.errno in (errno.EINVAL, errno.ENOENT):
                    continue  # the device has no such hook
                raise
            for answer in answers:
                _, _, handle, _, info = TRAFFIC_MESSAGE.unpack_from(answer)
                there = dict(attributes(answer, TRAFFIC_MESSAGE.size))
                options = dict(attributes(there.get(TCA_OPTIONS, b"")))
                if handle and BPF_ID in options:
                    program = struct.unpack("=I", options[BPF_ID])[0]
                    name = options.get(BPF_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
                    found.append(Filter(hook, info >> 16, program, name))
        return found

    # --- requests

    def ask(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send, and collect what is answered up to its end. OSError: the kernel's refusal."""
        self._number += 1
        wants = REQUEST | flags | (0 if flags & ROOT_MATCH == ROOT_MATCH else ACK)
        size = HEADER.size + len(body)
        self._socket.send(HEADER.pack(size, kind, wants, self._number, 0) + body)
        answers: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 17)
            for answer_kind, answer_flags, number, answer in _messages(data):
                if number != self._number:
                    continue  # of an earlier request that was given up
                if answer_kind == DONE:
                    return answers
                if answer_kind == ERROR:
                    _raise_refusal(answer, answer_flags)
                    return answers
                answers.append(answer)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    at = 0
    while at + HEADER.size <= len(data):
        size, kind, flags, number, _ = HEADER.unpack_from(data, at)
        if size < HEADER.size:
            return
        yield kind, flags, number, data[at + HEADER.size : at + size]
        at += (size + 3) & ~3


def _raise_refusal(answer: bytes, flags: int) -> None:
    code = -struct.unpack_from("=i", answer)[0]
    if not code:
        return
    said = ""
    if flags & ACK_TLVS:  # the kernel's own sentence follows the header it refused
        said = dict(attributes(answer, 20)).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
    raise OSError(code, said or os.strerror(code))


def attributes(data: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    while at + ATTRIBUTE.size <= len(data):
        size, kind = ATTRIBUTE.unpack_from(data, at)
        if size < ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + ATTRIBUTE.size : at + size]
        at += (size + 3) & ~3


def attribute(kind: int, body: bytes) -> bytes:
    size = ATTRIBUTE.size + len(body)
    return ATTRIBUTE.pack(size, kind) + body + bytes(-size % 4)


def _text(kind: int, text: str) -> bytes:
    return attribute(kind, text.encode() + b"\0")


def _number(kind: int, number: int) -> bytes:
    return attribute(kind, struct.pack("=I", number))


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return LINK_MESSAGE.pack(0, 0, index, flags, change)


def _read_device(body: bytes) -> Device:
    _, _, index, flags, _ = LINK_MESSAGE.unpack_from(body)
    there = dict(attributes(body, LINK_MESSAGE.size))
    info = dict(attributes(there.get(IFLA_LINKINFO, b"")))
    kind = info.get(INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace")
    data = dict(attributes(info.get(INFO_DATA, b""))) if kind == "vxlan" else {}
    port = data.get(VXLAN_PORT)
    master = there.get(IFLA_MASTER)
    return Device(
        name=there[IFLA_IFNAME].rstrip(b"\0").decode("utf-8", "replace"),
        index=index,
        is_up=bool(flags & IFF_UP),
        mtu=struct.unpack("=I", there[IFLA_MTU])[0],
        master=None if master is None else struct.unpack("=I", master)[0],
        kind=kind,
        vxlan_port=None if port is None else struct.unpack("!H", port)[0],
        by_metadata=data.get(VXLAN_COLLECT_METADATA, b"\0") != b"\0",
    )

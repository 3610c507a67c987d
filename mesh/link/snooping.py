"""Which groups pods listen to: read from their own reports, asked for now and then.

Who drives it: ``mesh.router.snooper``, with reports that left our bridge. Groups are told apart by
the MAC address that their frames go to, as a switch does: groups that share one are one to us,
which sends somebody too much and nobody too little. Sources (IGMPv3, MLDv2) are not told apart.

Sources: RFC 2236, RFC 3376, RFC 2710, RFC 3810; RFC 4541 for what a switch should do.

Invariant: a group that a pod reported is ours until the pod says that it left, or did not
answer for ``LISTENS`` seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from mesh.clock import Instant
from mesh.link.checksum import checksum

QUERY_INTERVAL = 125.0
"""Seconds between general queries to our own pods (RFC 3376 8.2); the first few come quickly."""

STARTUP_INTERVAL, STARTUP_QUERIES = 5.0, 3
RESPONSE = 4.0
"""Seconds in which pods spread their answers."""

LISTENS = 2 * QUERY_INTERVAL + 10.0
"""Seconds that a report counts (RFC 3376 8.4): two queries may be lost."""

MAX_GROUPS = 1024
"""Of one host that are told. A host with more is told to listen to everything."""

MAX_MEMBERSHIPS = 16_384
"""Of all pods together, with the same consequence: invented ones cost memory, nobody a frame."""

QUERIER_MAC = bytes.fromhex("025756710001")
QUERIER_IP6 = bytes.fromhex("fe80000000000000005756fffe710001")

_IGMP_RECORD, _MLD_RECORD = Struct("!BBH4s"), Struct("!BBH16s")
_INCLUDE, _EXCLUDE, _TO_INCLUDE, _TO_EXCLUDE, _ALLOW = 1, 2, 3, 4, 5


def is_flooded(group: bytes) -> bool:
    """Whether frames to this address go to everybody, whoever listens: 224.0.0.0/24, of which
    hosts need not say that they listen (RFC 4541 2.1.2), and what is IPv6's own: well-known ones
    of 8 bits, and those of neighbour discovery."""
    if group[:3] == b"\x01\x00\x5e":
        return group[3:5] == b"\0\0"
    return group[:2] != b"\x33\x33" or group[2] == 0xFF or group[2:5] == b"\0\0\0"


def reported(frame: bytes) -> Iterator[tuple[bytes, bool]]:
    """(group's MAC, whether its sender listens) of a report; nothing of what is none, is
    malformed or has a wrong checksum."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 34 and frame[23] == 2:
        start = 14 + (frame[14] & 15) * 4
        end = 14 + int.from_bytes(frame[16:18], "big")
        message = frame[start:end]
        if start >= 34 and len(message) >= 8 and checksum(message) == 0:
            yield from _igmp(message)
    elif kind == b"\x86\xdd" and len(frame) >= 70 and frame[20] == 0 and frame[54] == 58:
        start = 54 + 8 * (frame[55] + 1)
        message = frame[start : 54 + int.from_bytes(frame[18:20], "big")]
        pseudo = frame[22:54] + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
        if len(message) >= 8 and checksum(pseudo + message) == 0:
            yield from _mld(message)


class Memberships:
    """``since``: when we began to ask."""

    def __init__(self, now: Instant) -> None:
        self._until: dict[tuple[bytes, bytes], Instant] = {}
        """(group, pod) -> until when it counts."""
        self._asked = 0
        self._ask_at = self._since = now
        self._overflown = False

    @property
    def due(self) -> Instant:
        """When ``tick`` has something to do: ask, or forget whoever did not answer."""
        return min((self._ask_at, *self._until.values()))

    def groups(self, now: Instant) -> frozenset[bytes] | None:
        """That somebody here listens to; None: it is not known, take it that all are."""
        if now < self._since + STARTUP_INTERVAL + RESPONSE or self._overflown:
            return None
        found = frozenset(group for group, _ in self._until)
        return found if len(found) <= MAX_GROUPS else None

    def heard(self, frame: bytes, now: Instant) -> None:
        """A report left our bridge."""
        pod = frame[6:12]
        for group, listens in reported(frame):
            if is_flooded(group):
                continue
            if not listens:
                self._until.pop((group, pod), None)
            elif (group, pod) in self._until or len(self._until) < MAX_MEMBERSHIPS:
                self._until[group, pod] = Instant(now + LISTENS)
            else:
                self._overflown = True

    def tick(self, now: Instant) -> tuple[bytes, ...]:
        """Forget who did not answer; the queries that are due."""
        self._until = {key: until for key, until in self._until.items() if until > now}
        if not self._until:
            self._overflown = False
        if now < self._ask_at:
            return ()
        self._asked += 1
        quick = self._asked < STARTUP_QUERIES
        self._ask_at = Instant(now + (STARTUP_INTERVAL if quick else QUERY_INTERVAL))
        return igmp_query(), mld_query()


def igmp_query() -> bytes:
    """IGMPv3, general, of nobody's address: that of a switch, which is never elected."""
    message = (
        bytes((0x11, round(RESPONSE * 10))) + bytes(6) + bytes((2, round(QUERY_INTERVAL), 0, 0))
    )
    message = message[:2] + checksum(message).to_bytes(2, "big") + message[4:]
    head = bytes((0x46, 0xC0)) + (24 + len(message)).to_bytes(2, "big") + bytes(4) + b"\x01\x02"
    head += bytes(2) + bytes(4) + b"\xe0\0\0\x01" + b"\x94\x04\0\0"
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    return b"\x01\x00\x5e\0\0\x01" + QUERIER_MAC + b"\x08\x00" + head + message


def mld_query() -> bytes:
    """MLDv2, general."""
    everybody = b"\xff\x02" + bytes(13) + b"\x01"
    message = b"\x82\0\0\0" + round(RESPONSE * 1000).to_bytes(2, "big") + bytes(2) + bytes(16)
    message += bytes((2, round(QUERY_INTERVAL), 0, 0))
    pseudo = QUERIER_IP6 + everybody + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    message = message[:2] + checksum(pseudo + message).to_bytes(2, "big") + message[4:]
    option = b"\x3a\0\x05\x02\0\0\x01\0"
    head = b"\x60\0\0\0" + (8 + len(message)).to_bytes(2, "big") + b"\0\x01"
    frame = b"\x33\x33\0\0\0\x01" + QUERIER_MAC + b"\x86\xdd"
    return frame + head + QUERIER_IP6 + everybody + option + message


# ---- inside


def _igmp(message: bytes) -> Iterator[tuple[bytes, bool]]:
    kind = message[0]
    if kind in (0x12, 0x16, 0x17):
        if message[4] >> 4 == 0xE:
            yield _mac4(message[4:8]), kind != 0x17
    elif kind == 0x22:
        for record, group, listens in _records(message, _IGMP_RECORD, 4):
            if group[0] >> 4 == 0xE and record:
                yield _mac4(group), listens


def _mld(message: bytes) -> Iterator[tuple[bytes, bool]]:
    kind = message[0]
    if kind in (131, 132):
        if len(message) >= 24 and message[8] == 0xFF:
            yield _mac6(message[8:24]), kind == 131
    elif kind == 143:
        for record, group, listens in _records(message, _MLD_RECORD, 16):
            if group[0] == 0xFF and record:
                yield _mac6(group), listens


def _records(message: bytes, layout: Struct, size: int) -> Iterator[tuple[int, bytes, bool]]:
    """(kind, group, whether it is listened to) of the records of IGMPv3 and MLDv2. A record that
    changes nothing of that has the kind 0."""
    at = 8
    for _ in range(int.from_bytes(message[6:8], "big")):
        if at + layout.size > len(message):
            return
        kind, extra, sources, group = layout.unpack_from(message, at)
        at += layout.size + sources * size + extra * 4
        if at > len(message):
            return
        if kind in (_EXCLUDE, _TO_EXCLUDE):
            yield kind, group, True
        elif kind in (_INCLUDE, _TO_INCLUDE):
            yield kind, group, sources > 0
        else:
            yield (kind if kind == _ALLOW else 0), group, True


def _mac4(group: bytes) -> bytes:
    return b"\x01\x00\x5e" + bytes((group[1] & 0x7F,)) + group[2:4]


def _mac6(group: bytes) -> bytes:
    return b"\x33\x33" + group[12:16]

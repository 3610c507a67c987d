"""What a peer says of itself to the whole mesh, signed (docs/protocol.md 7.1).

::

    format u8 = 1 | public key 32 | UID u64 | version u64 | short ID u16 (0: none) | mtu u16
    | nickname text | program text | overlays: count u8, text … | features: count u8, (text text) …
    | edges: count u16, edge … | signature 64

    edge: peer 8 | cost µs u32 | overlays u8 | mtu u16 | host text | port u16 (0: no endpoint)

What a record says is shown to operators and dialled by other peers, so ``decode`` admits only
texts without control characters and endpoints that are addresses. It admits one form only: what
it reads, ``encode`` writes octet for octet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from itertools import pairwise
from struct import Struct
from typing import Self

from mesh.crypto.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, verify
from mesh.errors import MalformedMessageError
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
from mesh.wire.codec import Reader, Writer

FORMAT = 1
CONTEXT = b"weaver topology v1"
MAX_EDGES = 1000
MAX_TEXTS = 32
MAX_TEXT = 255
MAX_SHORT_ID = 4095

MAX_VERSION = 2**48
"""A version above this was not reached by counting: it would leave the owner no room above."""

_EDGE = Struct("!8sIBHH")
"""Peer, cost, overlays that are up, mtu, and the length of the host's text."""

_BY_SLEEVE, _BY_KERNEL = 1, 2
"""Bits of an edge's overlays."""

_HEAD = Struct("!B32sQQ")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """A control connection of a peer, from its side.

    ``cost_us``: measured round trip in microseconds. ``established``: the sleeve's data path is up.
    ``mtu``: largest UDP payload proven on it, 0 when unknown. ``endpoint``: where the other
    end's control port is reached. ``kernel``: the data path of fastdp is up.
    """

    peer: PeerName
    cost_us: int
    established: bool
    mtu: int
    endpoint: Endpoint | None
    kernel: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One version of a peer's own description. Only its owner can make one."""

    public_key: bytes
    uid: PeerUID
    version: int
    short_id: ShortID | None
    mtu: int
    nickname: str
    program: str
    overlays: tuple[str, ...] = ()
    features: tuple[tuple[str, str], ...] = ()
    edges: tuple[Edge, ...] = ()
    signature: bytes = bytes(SIGNATURE_SIZE)

    @property
    def name(self) -> PeerName:
        return PeerName.of(self.public_key)

    @property
    def stamp(self) -> int:
        """Order of records of one peer: version, then UID."""
        return self.version << 64 | self.uid

    def signed_part(self) -> bytes:
        out = Writer().u8(FORMAT).raw(self.public_key).u64(self.uid).u64(self.version)
        out.u16(self.short_id or 0).u16(self.mtu).text(self.nickname).text(self.program)
        out.u8(len(self.overlays))
        for overlay in self.overlays:
            out.text(overlay)
        out.u8(len(self.features))
        for key, value in self.features:
            out.text(key).text(value)
        out.u16(len(self.edges))
        for edge in self.edges:
            overlays = _BY_SLEEVE * edge.established | _BY_KERNEL * edge.kernel
            out.name(edge.peer).u32(edge.cost_us).u8(overlays).u16(edge.mtu)
            endpoint = edge.endpoint or Endpoint("", 0)
            out.text(endpoint.host).u16(endpoint.port)
        return out.done()

    def signed(self, identity: Identity) -> Record:
        return replace(self, signature=identity.sign(CONTEXT, self.signed_part()))

    def is_genuine(self) -> bool:
        return verify(self.public_key, CONTEXT, self.signed_part(), self.signature)

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    @property
    def problem(self) -> str:
        """Why no peer would read this record, "" when there is no reason."""
        try:
            self.decode(self.encode())
        except MalformedMessageError as err:
            return str(err)
        return ""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises MalformedMessageError. Says nothing of the signature."""
        reader = Reader(data)
        if (version := reader.u8()) != FORMAT:
            raise MalformedMessageError(f"topology record format {version}")
        public_key, uid, edit = reader.raw(PUBLIC_KEY_SIZE), reader.u64(), reader.u64()
        if edit > MAX_VERSION:
            raise MalformedMessageError(f"version {edit}")
        short_id, mtu = reader.u16(), reader.u16()
        if short_id > MAX_SHORT_ID:
            raise MalformedMessageError(f"short ID {short_id}")
        nickname, program = _text(reader), _text(reader)
        overlays = tuple(_text(reader, 32) for _ in range(_count(reader.u8(), MAX_TEXTS)))
        features = tuple(
            (_text(reader, 64), _text(reader)) for _ in range(_count(reader.u8(), MAX_TEXTS))
        )
        edges = tuple(_edge(reader) for _ in range(_count(reader.u16(), MAX_EDGES)))
        _check_order(public_key, edges)
        signature = reader.raw(SIGNATURE_SIZE)
        reader.end()
        return cls(
            public_key,
            PeerUID(uid),
            edit,
            ShortID(short_id) if short_id else None,
            mtu,
            nickname,
            program,
            overlays,
            features,
            edges,
            signature,
        )


@dataclass(frozen=True, slots=True)
class Label:
    """Whose record an encoding says it is and how new, before anything of it is believed."""

    public_key: bytes
    stamp: int

    @property
    def name(self) -> PeerName:
        return PeerName.of(self.public_key)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Raises MalformedMessageError."""
        if len(data) < _HEAD.size + SIGNATURE_SIZE:
            raise MalformedMessageError(f"a topology record of {len(data)} octets")
        version, public_key, uid, edit = _HEAD.unpack_from(data)
        if version != FORMAT:
            raise MalformedMessageError(f"topology record format {version}")
        return cls(public_key, edit << 64 | uid)

    def is_genuine(self, data: bytes) -> bool:
        """Whether the holder of the key signed exactly these octets."""
        part, signature = data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]
        return verify(self.public_key, CONTEXT, part, signature)


@lru_cache(maxsize=4096)
def is_address(host: str) -> bool:
    """Whether this is an IP address as endpoints have it: no zone, no brackets, no name."""
    try:
        return "%" not in host and not ip_address(host).is_unspecified
    except ValueError:
        return False


def _text(reader: Reader, limit: int = MAX_TEXT) -> str:
    text = reader.text(limit=limit)
    if _CONTROL.search(text):
        raise MalformedMessageError("a text with control characters")
    return text


def _count(number: int, limit: int) -> int:
    if number > limit:
        raise MalformedMessageError(f"{number} entries, at most {limit} allowed")
    return number


def _edge(reader: Reader) -> Edge:
    peer, cost, overlays, mtu, size = _EDGE.unpack(reader.raw(_EDGE.size))
    host = reader.raw(size).decode("ascii", "replace")
    port = reader.u16()
    if overlays > _BY_SLEEVE | _BY_KERNEL:
        raise MalformedMessageError(f"overlays {overlays} of an edge")
    if is_address(host) if port else not host:
        by_sleeve, by_kernel = bool(overlays & _BY_SLEEVE), bool(overlays & _BY_KERNEL)
        return Edge(PeerName(peer), cost, by_sleeve, mtu, _endpoint(host, port), by_kernel)
    raise MalformedMessageError("an endpoint that is no address")


@lru_cache(maxsize=4096)
def _endpoint(host: str, port: int) -> Endpoint | None:
    """One object for the many records that name the same endpoint."""
    return Endpoint(host, port) if port else None


def _check_order(public_key: bytes, edges: tuple[Edge, ...]) -> None:
    peers = [edge.peer.octets for edge in edges]
    if any(a >= b for a, b in pairwise(peers)):
        raise MalformedMessageError("edges are not sorted, or repeat a peer")
    if PeerName.of(public_key).octets in peers:
        raise MalformedMessageError("an edge to its own end")

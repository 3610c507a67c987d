"""What a peer says of itself to the whole mesh, signed (docs/protocol.md 7.1).

::

    format u8 = 1 | public key 32 | UID u64 | version u64 | short ID u16 (0: none) | mtu u16
    | nickname text | program text | overlays: count u8, text … | features: count u8, (text text) …
    | edges: count u16, edge … | signature 64

    edge: peer 8 | cost µs u32 | established u8 | mtu u16 | host text | port u16 (0: no endpoint)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from mesh.crypto.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, verify
from mesh.errors import MalformedMessageError
from mesh.names import Endpoint, PeerName, PeerUID, ShortID
from mesh.wire.codec import Reader, Writer

FORMAT = 1
CONTEXT = b"weaver topology v1"
MAX_EDGES = 1000
MAX_TEXTS = 32
MAX_SHORT_ID = 4095


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """A control connection of a peer, from its side.

    ``cost_us``: measured round trip in microseconds. ``established``: the data path is up.
    ``mtu``: largest UDP payload proven on it, 0 when unknown. ``endpoint``: where the other
    end's control port is reached.
    """

    peer: PeerName
    cost_us: int
    established: bool
    mtu: int
    endpoint: Endpoint | None


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
            out.name(edge.peer).u32(edge.cost_us).u8(edge.established).u16(edge.mtu)
            endpoint = edge.endpoint or Endpoint("", 0)
            out.text(endpoint.host).u16(endpoint.port)
        return out.done()

    def signed(self, identity: Identity) -> Record:
        return replace(self, signature=identity.sign(CONTEXT, self.signed_part()))

    def is_genuine(self) -> bool:
        return verify(self.public_key, CONTEXT, self.signed_part(), self.signature)

    def encode(self) -> bytes:
        return self.signed_part() + self.signature

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises MalformedMessageError. Says nothing of the signature."""
        reader = Reader(data)
        if (version := reader.u8()) != FORMAT:
            raise MalformedMessageError(f"topology record format {version}")
        public_key, uid, edit = reader.raw(PUBLIC_KEY_SIZE), reader.u64(), reader.u64()
        short_id, mtu = reader.u16(), reader.u16()
        if short_id > MAX_SHORT_ID:
            raise MalformedMessageError(f"short ID {short_id}")
        nickname, program = reader.text(limit=255), reader.text(limit=255)
        overlays = tuple(reader.text(limit=32) for _ in range(_count(reader.u8())))
        features = tuple(
            (reader.text(limit=64), reader.text(limit=255)) for _ in range(_count(reader.u8()))
        )
        number = reader.u16()
        if number > MAX_EDGES:
            raise MalformedMessageError(f"{number} edges")
        edges = tuple(_edge(reader) for _ in range(number))
        if list(edges) != sorted(edges, key=lambda e: e.peer) or len(
            {edge.peer for edge in edges}
        ) != len(edges):
            raise MalformedMessageError("edges are not sorted, or repeat a peer")
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


def _count(number: int) -> int:
    if number > MAX_TEXTS:
        raise MalformedMessageError(f"{number} entries, at most {MAX_TEXTS} allowed")
    return number


def _edge(reader: Reader) -> Edge:
    peer, cost = reader.name(), reader.u32()
    established = reader.u8()
    if established > 1:
        raise MalformedMessageError(f"a boolean of {established}")
    mtu, host, port = reader.u16(), reader.text(limit=64), reader.u16()
    endpoint = Endpoint(host, port) if port else None
    return Edge(peer, cost, bool(established), mtu, endpoint)

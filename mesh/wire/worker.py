"""Messages between the daemon and its sleeve worker (docs/protocol.md 11).

They travel over a SOCK_SEQPACKET pair, one message a packet: a kind, then the fields in order.
Both ends are of one version and trust each other, yet a packet that does not decode raises
``MalformedMessageError`` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

from mesh.errors import MalformedMessageError
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire.cipher import MAX_NAME, Cipher, named
from mesh.wire.codec import Reader, Writer

MAX_PACKET = 128 * 1024
"""Octets of the largest message: counters of 4,095 peers are 74 KB."""

MAX_PEERS_TOLD = 1_000
"""Peers whose counters fit one packet."""

MAX_PEER_DROPS_TOLD = 800
"""Of the drops by peer and reason, those there are most of."""

MAX_MACS_TOLD = 4096
"""Addresses in one ``Macs``: a table for people to read."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Who we are; ``mtu`` is what our pods accept, octets of IP packet."""

    short_id: ShortID
    name: PeerName
    mtu: int
    encrypted: bool


@dataclass(frozen=True, slots=True)
class SetPeer:
    """A peer exists; ``mtu`` is what its pods accept. ``in_kernel``: its broadcasts and unknown
    frames come and go by the kernel; those that come to us are passed on and not delivered."""

    short_id: ShortID
    name: PeerName
    mtu: int
    in_kernel: bool = False


@dataclass(frozen=True, slots=True)
class DropPeer:
    """Forget a peer: its keys, its addresses, its neighbour and route entries; not its tree."""

    short_id: ShortID


@dataclass(frozen=True, slots=True)
class SetNeighbour:
    """A peer's direct address; ``segment``: octets of UDP payload that fit the path."""

    short_id: ShortID
    endpoint: Endpoint
    segment: int


@dataclass(frozen=True, slots=True)
class DropNeighbour:
    short_id: ShortID


@dataclass(frozen=True, slots=True)
class SetRoute:
    """Reach a peer by this neighbour; ``segment``: what fits the whole path."""

    short_id: ShortID
    next_hop: ShortID
    segment: int


@dataclass(frozen=True, slots=True)
class DropRoute:
    short_id: ShortID


@dataclass(frozen=True, slots=True)
class SetTree:
    """Whom we pass broadcasts of ``origin`` on to; nobody removes the entry."""

    origin: ShortID
    children: tuple[ShortID, ...]


@dataclass(frozen=True, slots=True)
class InstallEpoch:
    """Keys with a peer; answer ``EpochInstalled`` when what comes under them opens."""

    short_id: ShortID
    epoch: int
    rx_key: bytes
    tx_key: bytes
    rx_tag: int
    tx_tag: int
    cipher: Cipher

    def __repr__(self) -> str:
        return f"InstallEpoch(short_id={self.short_id}, epoch={self.epoch}, cipher={self.cipher})"


@dataclass(frozen=True, slots=True)
class ActivateEpoch:
    """Send under this epoch from now on."""

    short_id: ShortID
    epoch: int


@dataclass(frozen=True, slots=True)
class RetireEpoch:
    short_id: ShortID
    epoch: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a probe of ``size`` octets of UDP payload to a neighbour's own address."""

    short_id: ShortID
    nonce: int
    size: int


@dataclass(frozen=True, slots=True)
class GetCounters:
    pass


@dataclass(frozen=True, slots=True)
class GetMacs:
    pass


@dataclass(frozen=True, slots=True)
class Shutdown:
    pass


@dataclass(frozen=True, slots=True)
class Ready:
    pid: int


@dataclass(frozen=True, slots=True)
class EpochInstalled:
    short_id: ShortID
    epoch: int


@dataclass(frozen=True, slots=True)
class ProbeReplied:
    short_id: ShortID
    nonce: int
    size: int
    rtt_us: int


@dataclass(frozen=True, slots=True)
class ProbeSeen:
    """A neighbour's authenticated probe came from this address."""

    short_id: ShortID
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class TooBig:
    """The kernel refused a datagram of ``size`` octets of payload on a neighbour's path."""

    short_id: ShortID
    size: int


class PeerCounters(NamedTuple):
    """Of one peer since it was set. Octets are of records before sealing; frames as the TAP gave
    or took them, super-frames for one; datagrams and calls are what records were sent by.
    ``rx_lost``: records that did not come whole, ``rx_missing``: datagrams that the path lost on
    their way here. ``tx_loss_ppm``: the share of datagrams that the path there loses at present, in
    millionths, by the peer's reports. ``record_limit``: octets that a record may have (10.9)."""

    short_id: ShortID
    tx_octets: int
    rx_octets: int
    tx_frames: int = 0
    rx_frames: int = 0
    tx_records: int = 0
    rx_records: int = 0
    tx_datagrams: int = 0
    tx_calls: int = 0
    rx_lost: int = 0
    rx_missing: int = 0
    tx_loss_ppm: int = 0
    record_limit: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """Totals since the worker started; ``drops`` by reason; ``peers`` with which something was
    exchanged, at most MAX_PEERS_TOLD; ``peer_drops`` those drops that were one peer's, by peer and
    reason, at most MAX_PEER_DROPS_TOLD. Whose a datagram was that did not open is what it said."""

    tx_frames: int
    tx_octets: int
    rx_frames: int
    rx_octets: int
    relayed: int
    drops: tuple[tuple[str, int], ...] = ()
    peers: tuple[PeerCounters, ...] = ()
    peer_drops: tuple[tuple[ShortID, str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Macs:
    """Learned addresses: MAC as 48-bit number, and the short ID it is behind (0: here).

    At most MAX_MACS_TOLD of ``total`` are told, those learned last.
    """

    entries: tuple[tuple[int, ShortID], ...] = ()
    total: int = 0


ToWorker = (
    Configure
    | SetPeer
    | DropPeer
    | SetNeighbour
    | DropNeighbour
    | SetRoute
    | DropRoute
    | SetTree
    | InstallEpoch
    | ActivateEpoch
    | RetireEpoch
    | Probe
    | GetCounters
    | GetMacs
    | Shutdown
)
FromWorker = Ready | EpochInstalled | ProbeReplied | ProbeSeen | TooBig | Counters | Macs
Message = ToWorker | FromWorker

_KINDS: tuple[type[Message], ...] = (
    Configure,
    SetPeer,
    DropPeer,
    SetNeighbour,
    DropNeighbour,
    SetRoute,
    DropRoute,
    SetTree,
    InstallEpoch,
    ActivateEpoch,
    RetireEpoch,
    Probe,
    GetCounters,
    GetMacs,
    Shutdown,
    Ready,
    EpochInstalled,
    ProbeReplied,
    ProbeSeen,
    TooBig,
    Counters,
    Macs,
)
_NUMBER = {kind: n for n, kind in enumerate(_KINDS, 1)}

_SIZES = {"short_id": 2, "next_hop": 2, "origin": 2, "mtu": 2, "epoch": 2, "segment": 2, "size": 2}
"""Octets of an integer field by its name; any other has 8."""


def encode(message: Message) -> bytes:
    out = Writer().u8(_NUMBER[type(message)])
    for spec in fields(message):
        _write(out, spec.name, getattr(message, spec.name))
    return out.done()


def decode(data: bytes) -> Message:
    """Raises MalformedMessageError."""
    reader = Reader(data)
    number = reader.u8()
    if not 1 <= number <= len(_KINDS):
        raise MalformedMessageError(f"worker message of kind {number}")
    kind = _KINDS[number - 1]
    values = [_read(reader, kind, spec.name) for spec in fields(kind)]
    reader.end()
    return kind(*values)  # type: ignore[arg-type]  # the fields' own codecs gave these types


def _write(out: Writer, name: str, value: object) -> None:
    match value:
        case bool():
            out.u8(value)
        case int():
            out.uint(value, _SIZES.get(name, 8))
        case PeerName():
            out.name(value)
        case bytes():
            out.block(value)
        case Cipher():
            out.text(value)
        case Endpoint(host, port):
            out.text(host).u16(port)
        case tuple():
            out.u32(len(value))
            for entry in value:
                _write_entry(out, name, entry)
        case _:
            raise TypeError(f"no codec for {name}: {value!r}")


def _write_entry(out: Writer, name: str, entry: object) -> None:
    match (name, entry):
        case ("children", int(child)):
            out.u16(child)
        case ("drops", (str(reason), int(count))):
            out.text(reason).u64(count)
        case ("peer_drops", (int(short_id), str(reason), int(count))):
            out.u16(short_id).text(reason).u64(count)
        case ("peers", PeerCounters(short_id)):
            out.u16(short_id)
            for value in entry[1:]:
                out.u64(value)
        case ("entries", (int(mac), int(short_id))):
            out.u64(mac).u16(short_id)
        case _:
            raise TypeError(f"no codec for an entry of {name}: {entry!r}")


def _read(reader: Reader, kind: type[Message], name: str) -> object:
    match name:
        case "encrypted" | "in_kernel":
            return bool(reader.u8())
        case "name":
            return reader.name()
        case "endpoint":
            return Endpoint(reader.text(limit=64), reader.u16())
        case "rx_key" | "tx_key":
            return reader.block(limit=64)
        case "cipher":
            if (cipher := named(reader.text(limit=MAX_NAME))) is None:
                raise MalformedMessageError("no cipher of ours")
            return cipher
        case "children":
            return tuple(ShortID(reader.u16()) for _ in range(_entries(reader, 2)))
        case "drops":
            return tuple((reader.text(limit=64), reader.u64()) for _ in range(_entries(reader, 10)))
        case "peers" if kind is Counters:
            count = len(PeerCounters._fields) - 1
            return tuple(
                PeerCounters(ShortID(reader.u16()), *(reader.u64() for _ in range(count)))
                for _ in range(_entries(reader, 2 + 8 * count))
            )
        case "peer_drops":
            return tuple(
                (ShortID(reader.u16()), reader.text(limit=64), reader.u64())
                for _ in range(_entries(reader, 12))
            )
        case "entries":
            return tuple((reader.u64(), ShortID(reader.u16())) for _ in range(_entries(reader, 10)))
        case _:
            return reader.uint(_SIZES.get(name, 8))


def _entries(reader: Reader, size: int) -> int:
    count = reader.u32()
    if count * size > reader.remaining:
        raise MalformedMessageError(f"{count} entries in {reader.remaining} octets")
    return count

"""What each peer's pods are, and which groups they listen to, said by the peer itself
(docs/protocol.md 13).

A gossip channel with one item a peer, its whole list::

    format u8 = 2 | public key 32 | UID u64 | version u64 | count u16, pod …
    | listening u8 (0: to everything, 1: to these) | count u16, group MAC 6 … | signature 64

    pod: MAC 6 | count u8, (length u8 = 4 or 16, address) …

Invariants: nothing is held that its owner did not sign, and of one peer the newest; of our own list
nobody else's word changes anything, a newer one under our name is overtaken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from struct import Struct

from mesh.clock import Instant
from mesh.crypto.identity import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, Identity, verify
from mesh.errors import MalformedMessageError
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import NAME_SIZE, PeerName, PeerUID
from mesh.topology.forgotten import Forgotten
from mesh.wire.codec import Reader, Writer

CHANNEL = "attachments"
CONTEXT = b"weaver attachments v1"
FORMAT = 2
MAC_SIZE = 6

MAX_PODS = 1024
"""Of one peer that are told, the first by MAC address: several times what a host can bear, and
with their addresses within an item. Others are learned from their frames."""

MAX_ADDRESSES = 8
"""Of one pod."""

MAX_GROUPS = 1024
"""Of one peer that are told; one with more listens to everything."""

MAX_PEERS = 4096
MAX_VERSION = 2**48
_HEAD = Struct("!B32sQQ")


@dataclass(frozen=True, slots=True, order=True)
class Pod:
    """``addresses`` as text, IPv4 or IPv6, without prefix."""

    mac: bytes
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """One peer's list, and how it said it."""

    stamp: int
    pods: tuple[Pod, ...]
    groups: frozenset[bytes] | None
    encoded: bytes


class Attachments:
    """``known``: the peers whose topology records are held."""

    name = CHANNEL

    def __init__(self, identity: Identity, uid: PeerUID) -> None:
        self._identity, self._uid = identity, uid
        self.us = identity.name
        self._told: dict[PeerName, Told] = {}
        self._forgotten = Forgotten()
        self._known: Collection[PeerName] = ()
        self._version = 0
        self._publish((), None)

    @property
    def pods(self) -> Mapping[PeerName, tuple[Pod, ...]]:
        """Of every peer, ours included."""
        return {peer: told.pods for peer, told in self._told.items()}

    def set_own(self, pods: Iterable[Pod]) -> bool:
        """Say what our pods are; whether that is news."""
        wanted, own = tuple(sorted(pods))[:MAX_PODS], self._told[self.us]
        if wanted == own.pods:
            return False
        self._publish(wanted, own.groups)
        return True

    @property
    def groups(self) -> Mapping[PeerName, frozenset[bytes] | None]:
        """MAC addresses of the groups that pods of every peer listen to; None: all there are."""
        return {peer: told.groups for peer, told in self._told.items()}

    def set_groups(self, groups: frozenset[bytes] | None) -> bool:
        """Say which groups our pods listen to, None for all; whether that is news."""
        wanted, own = groups, self._told[self.us]
        if wanted is not None and len(wanted) > MAX_GROUPS:
            wanted = None
        if wanted == own.groups:
            return False
        self._publish(own.pods, wanted)
        return True

    def collect(self, known: Collection[PeerName]) -> None:
        """Forget whom the topology has forgotten."""
        self._known = known
        for peer in self._told.keys() - set(known) - {self.us}:
            self._forgotten.add(peer.octets, self._told.pop(peer).stamp)

    # ---- the channel

    def digest(self) -> Mapping[bytes, int]:
        return {peer.octets: told.stamp for peer, told in self._told.items()}

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        held = {peer.octets: told for peer, told in self._told.items()}
        return [Item(k, held[k].stamp, held[k].encoded) for k in keys if k in held]

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news, rejected = [], []
        for item in items:
            try:
                if self._merge_one(item):
                    news.append(item.key)
            except _RefusedError as err:
                rejected.append(Rejected(item.key, err.reason))
        return Merged(tuple(news), tuple(rejected))

    # ---- inside

    def _merge_one(self, item: Item) -> bool:
        if len(item.key) != NAME_SIZE:
            raise _RefusedError("mislabelled")
        peer = PeerName(item.key)
        held = self._told.get(peer)
        if held is not None and held.stamp >= item.stamp:
            if held.stamp > item.stamp or held.encoded == item.payload or peer == self.us:
                return False
            raise _RefusedError("version-reused")
        if peer not in self._known and self._forgotten.has(item.key, item.stamp):
            return False
        told = _genuine(item)
        if peer == self.us:
            self._version = told.stamp >> 64
            own = self._told[self.us]
            self._publish(own.pods, own.groups)
            return True
        if held is None and len(self._told) >= MAX_PEERS:
            raise _RefusedError("too-many-peers")
        self._told[peer] = told
        return True

    def _publish(self, pods: tuple[Pod, ...], groups: frozenset[bytes] | None) -> None:
        self._version += 1
        part = _signed_part(self._identity.public_key, self._uid, self._version, pods, groups)
        encoded = part + self._identity.sign(CONTEXT, part)
        self._told[self.us] = Told(self._version << 64 | self._uid, pods, groups, encoded)


class _RefusedError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _genuine(item: Item) -> Told:
    """The list in an item, as its owner made it. Raises _RefusedError; cheap checks first."""
    data = item.payload
    try:
        if len(data) < _HEAD.size + SIGNATURE_SIZE:
            raise MalformedMessageError(f"a list of {len(data)} octets")
        form, key, uid, version = _HEAD.unpack_from(data)
        if form != FORMAT or version > MAX_VERSION:
            raise MalformedMessageError(f"a list of format {form}, version {version}")
        if PeerName.of(key).octets != item.key or version << 64 | uid != item.stamp:
            raise _RefusedError("mislabelled")
        if not verify(key, CONTEXT, data[:-SIGNATURE_SIZE], data[-SIGNATURE_SIZE:]):
            raise _RefusedError("bad-signature")
        return Told(item.stamp, *_lists(data), data)
    except MalformedMessageError as err:
        raise _RefusedError(err.reason) from err


def _lists(data: bytes) -> tuple[tuple[Pod, ...], frozenset[bytes] | None]:
    """Raises MalformedMessageError. There is one encoding of a list: sorted, no MAC twice."""
    reader = Reader(data[_HEAD.size :])
    pods, groups = _pods(reader), _groups(reader)
    reader.raw(SIGNATURE_SIZE)
    reader.end()
    return pods, groups


def _groups(reader: Reader) -> frozenset[bytes] | None:
    listening, count = reader.u8(), reader.u16()
    if listening > 1 or count > (MAX_GROUPS if listening else 0):
        raise MalformedMessageError(f"{count} groups, of kind {listening}")
    groups = [reader.raw(MAC_SIZE) for _ in range(count)]
    if any(not group[0] & 1 for group in groups) or sorted(set(groups)) != groups:
        raise MalformedMessageError("group addresses that are none, or in disorder")
    return frozenset(groups) if listening else None


def _pods(reader: Reader) -> tuple[Pod, ...]:
    count = reader.u16()
    if count > MAX_PODS:
        raise MalformedMessageError(f"{count} pods")
    pods: list[Pod] = []
    for _ in range(count):
        mac = reader.raw(MAC_SIZE)
        if mac[0] & 1 or not any(mac) or (pods and pods[-1].mac >= mac):
            raise MalformedMessageError("MAC addresses that are nobody's, or in disorder")
        number = reader.u8()
        if number > MAX_ADDRESSES:
            raise MalformedMessageError(f"{number} addresses of a pod")
        pods.append(Pod(mac, tuple(_address(reader) for _ in range(number))))
    return tuple(pods)


def _address(reader: Reader) -> str:
    octets = reader.raw(reader.u8())
    if len(octets) not in (4, 16):
        raise MalformedMessageError(f"an address of {len(octets)} octets")
    return str(ip_address(octets))


def _signed_part(
    key: bytes,
    uid: PeerUID,
    version: int,
    pods: tuple[Pod, ...],
    groups: frozenset[bytes] | None,
) -> bytes:
    assert len(key) == PUBLIC_KEY_SIZE
    out = Writer().raw(_HEAD.pack(FORMAT, key, uid, version)).u16(len(pods))
    for pod in pods:
        addresses = pod.addresses[:MAX_ADDRESSES]
        out.raw(pod.mac).u8(len(addresses))
        for address in addresses:
            packed = ip_address(address).packed
            out.u8(len(packed)).raw(packed)
    out.u8(groups is not None).u16(len(groups or ()))
    for group in sorted(groups or ()):
        out.raw(group)
    return out.done()

"""Messages to one peer, relayed over control connections (docs/protocol.md 4.5).

Each is signed by its source and numbered under the source's UID, so that whoever relays it can
neither forge, alter nor replay it. Nothing is retried here: what must arrive is asked again by
whoever needs the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.crypto.identity import verify
from mesh.names import PeerName, PeerUID
from mesh.router.hub import Hub
from mesh.topology.record import Record
from mesh.wire.control import SIGNATURE_SIZE, UNICAST_CONTEXT, Unicast

HOP_LIMIT = 32
"""Control hops a unicast may take: far more than a mesh is wide, few enough to end a loop."""

WINDOW = 1024
"""Sequence numbers behind the newest that are still told apart; older ones are replays. Messages
overtake each other only when a route changes, and then by a handful."""


class SeenWindow:
    """Which sequence numbers of one source were accepted."""

    __slots__ = ("_mask", "_top", "uid")

    def __init__(self, uid: PeerUID) -> None:
        self.uid = uid
        self._top = 0
        self._mask = 0

    def accept(self, sequence: int) -> bool:
        """Whether this number is new; remembers it."""
        if sequence > self._top:
            self._mask = (self._mask << min(sequence - self._top, WINDOW)) & ((1 << WINDOW) - 1)
            self._mask |= 1
            self._top = sequence
            return True
        behind = self._top - sequence
        if behind >= WINDOW or self._mask >> behind & 1:
            return False
        self._mask |= 1 << behind
        return True


class Unicasts:
    """Signs what we send, checks what we get. Bounded by the number of known peers."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._sequence = 0
        self._seen: dict[PeerName, SeenWindow] = {}

    def compose(self, dst: PeerName, channel: str, payload: bytes) -> Unicast:
        self._sequence += 1
        hub = self._hub
        bare = Unicast(
            hops=HOP_LIMIT,
            src=hub.us,
            uid=hub.uid,
            sequence=self._sequence,
            dst=dst,
            channel=channel,
            payload=payload,
            signature=bytes(SIGNATURE_SIZE),
        )
        signature = hub.identity.sign(UNICAST_CONTEXT, bare.signed_part())
        return Unicast(
            bare.hops, bare.src, bare.uid, bare.sequence, dst, channel, payload, signature
        )

    def check(self, message: Unicast, records: Mapping[PeerName, Record]) -> str | None:
        """Why a unicast addressed to us is refused, or None when it is good."""
        record = records.get(message.src)
        if record is None:
            return "unknown-peer"
        if not verify(record.public_key, UNICAST_CONTEXT, message.signed_part(), message.signature):
            return "bad-signature"
        seen = self._seen.get(message.src)
        if seen is None or (seen.uid != message.uid and message.uid == record.uid):
            seen = self._seen[message.src] = SeenWindow(message.uid)
        if seen.uid != message.uid:
            return "stale-uid"
        return None if seen.accept(message.sequence) else "replayed"

    def forget(self, peer: PeerName) -> None:
        self._seen.pop(peer, None)

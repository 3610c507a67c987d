"""Messages to one peer, relayed over control connections (docs/protocol.md 4.5).

Each is signed by its source and numbered under the source's UID, so that whoever relays it can
neither forge, alter nor replay it. Nothing is retried here: what must arrive is asked again by
whoever needs the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mesh.crypto.identity import verify
from mesh.names import PeerName, PeerUID
from mesh.router.hub import Hub
from mesh.router.neighbours import Neighbours
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
    """Signs what we send, checks what we get, passes on the rest. Bounded by the known peers."""

    def __init__(
        self,
        hub: Hub,
        neighbours: Neighbours,
        *,
        records: Callable[[], Mapping[PeerName, Record]],
        next_hop: Callable[[PeerName], PeerName | None],
        deliver: Callable[[PeerName, str, bytes], None],
    ) -> None:
        self._hub, self._neighbours = hub, neighbours
        self._records, self._next_hop, self._deliver = records, next_hop, deliver
        self._sequence = 0
        self._seen: dict[PeerName, SeenWindow] = {}

    def send(self, dst: PeerName, channel: str, payload: bytes) -> None:
        """Sign a message and send it on its way; it may be lost."""
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
        self._forward(replace(bare, signature=signature))

    def receive(self, message: Unicast) -> None:
        """Deliver a message for us, or pass it on; a bad one is counted under its reason."""
        if message.dst != self._hub.us:
            if message.hops <= 1:
                self._hub.count("hop-limit")
            else:
                self._forward(message.one_hop_on())
            return
        if (refusal := self._refusal(message)) is not None:
            self._hub.count(refusal)
        else:
            self._deliver(message.src, message.channel, message.payload)

    def forget(self, peer: PeerName) -> None:
        self._seen.pop(peer, None)

    def _forward(self, message: Unicast) -> None:
        neighbours = self._neighbours
        next_hop: PeerName | None = message.dst
        if message.dst not in neighbours.by_peer:
            next_hop = self._next_hop(message.dst)
        if next_hop is None or next_hop not in neighbours.by_peer:
            self._hub.count("no-route")
        elif neighbours.is_paused(next_hop):
            self._hub.count("backlogged")
        else:
            neighbours.send(next_hop, message)

    def _refusal(self, message: Unicast) -> str | None:
        """Why a unicast addressed to us is refused, or None when it is good."""
        record = self._records().get(message.src)
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

"""Spreading channels: deltas on change, digests now and then, never everything to everyone.

Who drives it: ``mesh.router.router``. A change goes at once to every neighbour; whoever learns
something from it passes it on to those of its neighbours that its source does not serve itself.
What got lost on the way is found by comparing digests with a few random neighbours.

    publish / receive(ITEMS) --> pending keys per neighbour --30 ms--> ITEMS
    every 30 s, after a change, at a new neighbour:  SUMMARY --differs--> KEYS --> ITEMS + WANT

Invariants: at most one copy of a key waits for a neighbour, whatever the backlog; an item that
does not merge is counted, set aside and never relayed, and the good items beside it merge.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MisuseError
from mesh.gossip.channel import Channel, Item
from mesh.gossip.surrogate import MAX_SURROGATES, Allowance, Surrogate
from mesh.names import PeerName
from mesh.wire.gossip import (
    HASH_SIZE,
    STAMP_SIZE,
    ChannelSummary,
    GossipMessage,
    Items,
    Keys,
    Summary,
    Want,
    decode,
    encode,
)

if TYPE_CHECKING:
    from random import Random

COALESCE = 0.03
"""Seconds that news wait for company: a starting mesh changes many records at once."""

COMPARE_INTERVAL = 30.0
COMPARE_FANOUT = 2
"""Every so many seconds compare digests with so many random neighbours."""

COMPARE_SOON = 1.5
"""Seconds after a change until one random neighbour's digest is compared: what a lost or
mistimed delta left behind is found without waiting for the interval."""

BATCH_OCTETS = 256 * 1024
BATCH_KEYS = 4096
"""Largest ITEMS and KEYS messages."""

QUARANTINE = 64
"""Refused items that status remembers."""


@dataclass(frozen=True, slots=True)
class SendTo:
    peer: PeerName
    message: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    channel: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Quarantined:
    channel: str
    key: bytes
    reason: str
    source: PeerName


GossipEffect = SendTo | Arm | Notify[Changed] | Notify[Quarantined]


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """What status shows of one channel."""

    channel: str
    items: int
    surrogate: bool
    rejected: dict[str, int]
    quarantine: tuple[Quarantined, ...]


class Gossip:
    """``relay(source)`` names the neighbours that news which came from ``source`` must go to."""

    def __init__(
        self,
        us: PeerName,
        rng: Random,
        relay: Callable[[PeerName], tuple[PeerName, ...]],
    ) -> None:
        self._us, self._rng, self._relay = us, rng, relay
        self._channels: dict[str, Channel] = {}
        self._allowance = Allowance()
        self._pending: dict[PeerName, dict[str, dict[bytes, None]]] = {}
        self._paused: set[PeerName] = set()
        self._rejected: dict[str, Counter[str]] = {}
        self._quarantine: deque[Quarantined] = deque(maxlen=QUARANTINE)
        self._flush_at: Instant | None = None
        self._soon_at: Instant | None = None
        self._compare_at: Instant | None = None

    def register(self, channel: Channel) -> None:
        if channel.name in self._channels:
            raise MisuseError(f"channel {channel.name} twice")
        self._channels[channel.name] = channel

    # ---- inputs

    def publish(self, channel: str, keys: tuple[bytes, ...], now: Instant) -> list[GossipEffect]:
        """Our own state changed under these keys: every neighbour shall know."""
        if channel not in self._channels:
            raise MisuseError(f"no channel {channel}")
        self._spread(channel, keys, tuple(self._pending), now)
        return self._armed([])

    def neighbour_up(self, peer: PeerName, now: Instant) -> list[GossipEffect]:
        """A new neighbour: find out at once what the two of us know differently."""
        self._pending.setdefault(peer, {})
        self._paused.discard(peer)
        return self._armed([self._send(peer, self._summary())])

    def neighbour_down(self, peer: PeerName) -> None:
        self._pending.pop(peer, None)
        self._paused.discard(peer)

    def paused(self, peer: PeerName) -> None:
        """The neighbour takes no more: its keys wait, each once."""
        self._paused.add(peer)

    def resumed(self, peer: PeerName, now: Instant) -> list[GossipEffect]:
        self._paused.discard(peer)
        return self._armed(self._flush(peer))

    def receive(self, peer: PeerName, data: bytes, now: Instant) -> list[GossipEffect]:
        """A neighbour's message. Raises MalformedMessageError, and then nothing has changed."""
        message = decode(data)
        effects: list[GossipEffect] = []
        match message:
            case Summary(channels):
                for summary in channels:
                    self._compare(peer, summary, effects)
            case Keys():
                self._answer(peer, message, effects)
            case Want(channel, keys):
                if channel in self._channels:
                    effects += self._items(peer, channel, keys)
            case Items(channel, items):
                self._merge(peer, channel, [Item(*item) for item in items], effects, now)
        if peer in self._paused:
            # It asks and does not read: its answers would pile up. It will ask again.
            effects = [e for e in effects if not isinstance(e, SendTo)]
        return self._armed(effects)

    def handle_timer(self, now: Instant) -> list[GossipEffect]:
        effects: list[GossipEffect] = []
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_at = None
            for peer in self._pending:
                if peer not in self._paused:
                    effects += self._flush(peer)
        if self._soon_at is not None and now >= self._soon_at:
            self._soon_at = None
            self._compare_with(1, effects)
        if self._compare_at is None or now >= self._compare_at:
            if self._compare_at is not None:
                self._compare_with(COMPARE_FANOUT, effects)
            self._compare_at = Instant(now + COMPARE_INTERVAL * (0.75 + self._rng.random() / 2))
        return self._armed(effects)

    def status(self) -> list[ChannelStatus]:
        return [
            ChannelStatus(
                name,
                len(channel.digest()),
                isinstance(channel, Surrogate),
                dict(self._rejected.get(name, Counter())),
                tuple(q for q in self._quarantine if q.channel == name),
            )
            for name, channel in sorted(self._channels.items())
        ]

    # ---- deltas

    def _spread(
        self, channel: str, keys: tuple[bytes, ...], peers: tuple[PeerName, ...], now: Instant
    ) -> None:
        for peer in peers:
            if (pending := self._pending.get(peer)) is not None:
                pending.setdefault(channel, {}).update(dict.fromkeys(keys))
        if self._flush_at is None:
            self._flush_at = Instant(now + COALESCE)
        if self._soon_at is None:
            self._soon_at = Instant(now + COMPARE_SOON * (0.5 + self._rng.random()))

    def _flush(self, peer: PeerName) -> list[GossipEffect]:
        pending = self._pending.get(peer)
        if not pending:
            return []
        self._pending[peer] = {}
        effects: list[GossipEffect] = []
        for channel, keys in pending.items():
            effects += self._items(peer, channel, tuple(keys))
        return effects

    def _items(self, peer: PeerName, channel: str, keys: tuple[bytes, ...]) -> list[GossipEffect]:
        """The items under these keys in messages of bounded size."""
        effects: list[GossipEffect] = []
        batch: list[tuple[bytes, int, bytes]] = []
        size = 0
        for item in self._channels[channel].items(keys):
            if batch and size + len(item.payload) > BATCH_OCTETS:
                effects.append(self._send(peer, Items(channel, tuple(batch))))
                batch, size = [], 0
            batch.append((item.key, item.stamp, item.payload))
            size += len(item.payload) + len(item.key) + STAMP_SIZE
        if batch:
            effects.append(self._send(peer, Items(channel, tuple(batch))))
        return effects

    def _merge(
        self,
        peer: PeerName,
        channel: str,
        items: list[Item],
        effects: list[GossipEffect],
        now: Instant,
    ) -> None:
        behind = self._channel(channel)
        if behind is None:
            self._rejected.setdefault("", Counter())["too-many-channels"] += 1
            return
        merged = behind.merge(items, peer, now)
        for refused in merged.rejected:
            self._rejected.setdefault(channel, Counter())[refused.reason] += 1
            event = Quarantined(channel, refused.key, refused.reason, peer)
            self._quarantine.append(event)
            effects.append(Notify(event))
        if merged.news:
            relays = tuple(p for p in self._relay(peer) if p != peer)
            self._spread(channel, merged.news, relays, now)
            effects.append(Notify(Changed(channel, merged.news)))

    def _channel(self, name: str) -> Channel | None:
        """The channel, or a surrogate for one nobody here knows; None when there are too many."""
        if name not in self._channels:
            surrogates = sum(isinstance(c, Surrogate) for c in self._channels.values())
            if surrogates >= MAX_SURROGATES:
                return None
            self._channels[name] = Surrogate(name, self._allowance)
        return self._channels[name]

    # ---- digests

    def _summary(self) -> Summary:
        return Summary(
            tuple(
                ChannelSummary(name, len(digest), summary_hash(digest))
                for name, digest in (
                    (name, dict(channel.digest())) for name, channel in self._channels.items()
                )
            )
        )

    def _compare_with(self, count: int, effects: list[GossipEffect]) -> None:
        peers = [p for p in self._pending if p not in self._paused]
        chosen = self._rng.sample(peers, min(count, len(peers)))
        effects.extend(self._send(peer, self._summary()) for peer in chosen)

    def _compare(
        self, peer: PeerName, summary: ChannelSummary, effects: list[GossipEffect]
    ) -> None:
        """Their summary of one channel: if ours differs, list our keys for them to compare."""
        known = self._channels.get(summary.channel)
        digest = {} if known is None else dict(known.digest())
        if len(digest) == summary.items and summary_hash(digest) == summary.hash:
            return
        ordered = sorted(digest.items())
        cuts = list(range(0, max(1, len(ordered)), BATCH_KEYS))
        for n, cut in enumerate(cuts):
            low = b"" if n == 0 else ordered[cut][0]
            high = b"" if n + 1 == len(cuts) else ordered[cuts[n + 1]][0]
            part = tuple(ordered[cut : cut + BATCH_KEYS])
            effects.append(self._send(peer, Keys(summary.channel, low, high, part)))

    def _answer(self, peer: PeerName, keys: Keys, effects: list[GossipEffect]) -> None:
        """Their keys in a range: send what they lack, ask for what we lack."""
        known = self._channels.get(keys.channel)
        ours = {} if known is None else dict(known.digest())
        theirs = dict(keys.stamps)
        wanted = tuple(k for k, stamp in theirs.items() if ours.get(k, -1) < stamp)
        newer = tuple(
            k
            for k, stamp in ours.items()
            if k >= keys.low and (not keys.high or k < keys.high) and theirs.get(k, -1) < stamp
        )
        if newer:
            effects += self._items(peer, keys.channel, newer)
        for at in range(0, len(wanted), BATCH_KEYS):
            part = wanted[at : at + BATCH_KEYS]
            effects.append(self._send(peer, Want(keys.channel, part)))

    # ---- outputs

    @staticmethod
    def _send(peer: PeerName, message: GossipMessage) -> SendTo:
        return SendTo(peer, encode(message))

    def _armed(self, effects: list[GossipEffect]) -> list[GossipEffect]:
        wishes = [w for w in (self._flush_at, self._soon_at, self._compare_at) if w is not None]
        effects.append(Arm(min(wishes) if wishes else None))
        return effects


def summary_hash(digest: dict[bytes, int]) -> bytes:
    """16 octets that are equal for equal (key, stamp) sets, in whatever order they are held."""
    total = 0
    for key, stamp in digest.items():
        total ^= int.from_bytes(
            sha256(stamp.to_bytes(STAMP_SIZE, "big") + key).digest()[:HASH_SIZE]
        )
    return total.to_bytes(HASH_SIZE, "big")

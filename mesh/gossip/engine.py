"""Spreading channels: deltas on change, digests now and then, never everything to everyone.

Who drives it: ``mesh.router.router``. A change goes at once to every neighbour; whoever learns
something from it passes it on to those of its neighbours that its source does not serve itself.
What got lost on the way is found by comparing digests with a few random neighbours.

    publish / news / WANT --> backlog of the neighbour --30 ms--> ITEMS
    new neighbour, after a change, every 30 s:  SUMMARY --differs--> KEYS --> ITEMS + WANT

Invariants: at most one copy of a key waits for a neighbour, whatever the backlog; an item that
does not merge is counted, set aside and never relayed, and the good items beside it merge; what
a neighbour asks for is owed to it, not sent at once, so however often it asks, a timer sends it no
more than ``FLUSH_OCTETS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.effects import Arm, Notify
from mesh.errors import MisuseError
from mesh.gossip.backlog import Backlog
from mesh.gossip.channel import Channel, Item, Rejected
from mesh.gossip.digest import BATCH_KEYS, difference, key_ranges, summary_hash
from mesh.gossip.quarantine import Quarantine, Quarantined
from mesh.gossip.surrogate import MAX_SURROGATES, Allowance, Surrogate
from mesh.names import PeerName
from mesh.wire.gossip import (
    MAX_KEY,
    STAMP_SIZE,
    ChannelSummary,
    GossipMessage,
    Items,
    Keys,
    Summary,
    Want,
    decode,
    encode,
    oversized,
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
"""An ITEMS message is closed when it has grown to this."""

FLUSH_OCTETS = 1024 * 1024
FLUSH_KEYS = 32
"""A neighbour gets so much at once, looked up so many keys at a time; the rest follows after
another ``COALESCE``, unless the neighbour is paused by then."""

UNKNOWN = ""
"""What refusals are counted under that have no channel of ours behind them."""


@dataclass(frozen=True, slots=True)
class SendTo:
    peer: PeerName
    message: bytes


@dataclass(frozen=True, slots=True)
class Changed:
    """Items of the channel under these keys are new, because a neighbour sent them."""

    channel: str
    keys: tuple[bytes, ...]


GossipEffect = SendTo | Arm | Notify[Changed] | Notify[Quarantined]


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """What status shows of one channel. ``changed_at``: when a neighbour's news last merged."""

    channel: str
    items: int
    octets: int
    surrogate: bool
    changed_at: Instant | None
    rejected: dict[str, int]
    quarantine: tuple[Quarantined, ...]


class Gossip:
    """``relay(source)`` names the neighbours that news which came from ``source`` must go to."""

    def __init__(self, rng: Random, relay: Callable[[PeerName], tuple[PeerName, ...]]) -> None:
        self._rng, self._relay = rng, relay
        self._channels: dict[str, Channel] = {}
        self._changed_at: dict[str, Instant] = {}
        self._allowance = Allowance()
        self._surrogates = 0
        self._backlog = Backlog()
        self._quarantine = Quarantine()
        self._flush_at: Instant | None = None
        self._soon_at: Instant | None = None
        self._compare_at: Instant | None = None

    def register(self, channel: Channel) -> None:
        """Spread this channel; before the first neighbour is up."""
        if channel.name in self._channels:
            raise MisuseError(f"channel {channel.name} twice")
        self._channels[channel.name] = channel

    # ---- inputs

    def publish(self, channel: str, keys: tuple[bytes, ...], now: Instant) -> list[GossipEffect]:
        """Our own state changed under these keys: every neighbour shall know."""
        if channel not in self._channels:
            raise MisuseError(f"no channel {channel}")
        self._spread(channel, keys, self._backlog.peers, now)
        return self._armed([])

    def neighbour_up(self, peer: PeerName, now: Instant) -> list[GossipEffect]:
        """A new neighbour: find out at once what the two of us know differently."""
        self._backlog.add(peer)
        return self._armed([self._send(peer, self._summary())])

    def neighbour_down(self, peer: PeerName) -> None:
        self._backlog.drop(peer)
        self._quarantine.forgive(peer)

    def paused(self, peer: PeerName) -> None:
        """The neighbour takes no more: its keys wait, each once."""
        self._backlog.pause(peer)

    def resumed(self, peer: PeerName, now: Instant) -> list[GossipEffect]:
        """It reads again: its backlog, and a summary, for it may have asked while it did not."""
        self._backlog.resume(peer)
        return self._armed([self._send(peer, self._summary()), *self._flush(peer, now)])

    def receive(self, peer: PeerName, data: bytes, now: Instant) -> list[GossipEffect]:
        """A neighbour's message. Raises MalformedMessageError, and then nothing has changed."""
        effects: list[GossipEffect] = []
        match decode(data):
            case Summary(channels):
                self._backlog.compare(peer, self._unequal(channels))
                self._flush_by(now)
            case Keys() as keys:
                effects += self._differing(peer, keys, now)
            case Want(channel, wanted):
                self._owe(peer, channel, wanted)
                self._flush_by(now)
            case Items(channel, items):
                effects += self._merge(peer, channel, [Item(*item) for item in items], now)
        return self._armed(effects)

    def handle_timer(self, now: Instant) -> list[GossipEffect]:
        effects: list[GossipEffect] = []
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_at = None
            for peer in self._backlog.ready:
                if self._backlog.owes(peer):
                    effects += self._flush(peer, now)
        if self._soon_at is not None and now >= self._soon_at:
            self._soon_at = None
            effects += self._compare_with(1)
        if self._compare_at is None or now >= self._compare_at:
            if self._compare_at is not None:
                effects += self._compare_with(COMPARE_FANOUT)
            self._compare_at = Instant(now + COMPARE_INTERVAL * (0.75 + self._rng.random() / 2))
        return self._armed(effects)

    def status(self) -> list[ChannelStatus]:
        return [self._status(name) for name in sorted(self._channels)]

    def _status(self, name: str) -> ChannelStatus:
        channel = self._channels[name]
        digest = channel.digest()
        return ChannelStatus(
            name,
            len(digest),
            sum(len(item.payload) for item in channel.items(list(digest))),
            isinstance(channel, Surrogate),
            self._changed_at.get(name),
            self._quarantine.counts(name),
            self._quarantine.entries(name),
        )

    # ---- deltas

    def _spread(
        self, channel: str, keys: tuple[bytes, ...], peers: Sequence[PeerName], now: Instant
    ) -> None:
        for peer in peers:
            self._backlog.owe(peer, channel, keys)
        self._flush_by(Instant(now + COALESCE))
        if self._soon_at is None:
            self._soon_at = Instant(now + COMPARE_SOON * (0.5 + self._rng.random()))

    def _owe(self, peer: PeerName, channel: str, keys: Sequence[bytes]) -> None:
        """Owe only what we hold: keys that do not exist must not fill the backlog."""
        if (known := self._channels.get(channel)) is not None:
            digest = known.digest()
            self._backlog.owe(peer, channel, [key for key in keys if key in digest])

    def _flush_by(self, when: Instant) -> None:
        if self._flush_at is None or when < self._flush_at:
            self._flush_at = when

    def _flush(self, peer: PeerName, now: Instant) -> list[GossipEffect]:
        """Send what the neighbour is owed, up to a bound; the rest a little later."""
        parcel = _Parcel()
        backlog = self._backlog
        while parcel.total < FLUSH_OCTETS and (name := backlog.take_channel(peer)) is not None:
            for keys in key_ranges(name, self._listed(name, peer)):
                parcel.put(keys)
        while parcel.total < FLUSH_OCTETS:
            if (taken := backlog.take(peer, FLUSH_KEYS)) is None:
                break
            channel, owed = taken
            for item in self._channels[channel].items(owed):
                parcel.add(channel, item)
        if backlog.owes(peer):
            self._flush_by(Instant(now + COALESCE))
        return [SendTo(peer, message) for message in parcel.closed()]

    def _merge(
        self, peer: PeerName, name: str, items: list[Item], now: Instant
    ) -> list[GossipEffect]:
        channel = self._channel(name)
        stamps = {item.key: item.stamp for item in items}
        if channel is None:
            refused = [Rejected(b"", "too-many-channels", name)]
            return self._refuse(UNKNOWN, refused, stamps, peer)
        rejected = [
            Rejected(item.key[:MAX_KEY], "item-too-large", f"{len(item.payload)} octets")
            for item in items
            if oversized(item.key, item.payload)
        ]
        fit = [item for item in items if not oversized(item.key, item.payload)]
        merged = channel.merge(fit, peer, now)
        # What we do not believe of the other end, it may not believe of us: both must learn of it.
        in_vain = {
            entry.key
            for entry in merged.rejected
            if not self._quarantine.is_refused(peer, name, entry.key, stamps.get(entry.key, 0))
        }
        effects = self._refuse(name, [*rejected, *merged.rejected], stamps, peer)
        # Whoever sent what we know better gets it back: a restarted peer's former record too.
        digest = channel.digest()
        behind = [
            item.key
            for item in fit
            if digest.get(item.key, -1) > item.stamp or (item.key in in_vain and item.key in digest)
        ]
        if behind:
            self._backlog.owe(peer, name, behind)
            self._flush_by(Instant(now + COALESCE))
        if merged.news:
            self._changed_at[name] = now
            relays = tuple(p for p in self._relay(peer) if p != peer)
            self._spread(name, merged.news, relays, now)
            effects.append(Notify(Changed(name, merged.news)))
        return effects

    def _refuse(
        self, channel: str, rejected: list[Rejected], stamps: dict[bytes, int], source: PeerName
    ) -> list[GossipEffect]:
        pairs = [(item, stamps.get(item.key, 0)) for item in rejected]
        return [Notify(event) for event in self._quarantine.refuse(channel, pairs, source)]

    def _channel(self, name: str) -> Channel | None:
        """The channel, or a surrogate for one nobody here knows; None when there are too many."""
        channel = self._channels.get(name)
        if channel is None and self._surrogates < MAX_SURROGATES:
            self._surrogates += 1
            channel = self._channels[name] = Surrogate(name, self._allowance)
        return channel

    # ---- digests

    def _summary(self) -> Summary:
        channels = []
        for name, channel in self._channels.items():
            digest = channel.digest()
            channels.append(ChannelSummary(name, len(digest), summary_hash(digest)))
        return Summary(tuple(channels))

    def _compare_with(self, count: int) -> list[GossipEffect]:
        peers = self._backlog.ready
        chosen = self._rng.sample(peers, min(count, len(peers)))
        summary = self._summary()
        return [self._send(peer, summary) for peer in chosen]

    def _unequal(self, summaries: tuple[ChannelSummary, ...]) -> list[str]:
        """The channels that differ. Of those they did not name, they hold nothing."""
        theirs = {summary.channel: (summary.items, summary.hash) for summary in summaries}
        unequal = []
        for name in {**theirs, **self._channels}:
            known = self._channels.get(name)
            if known is None and self._surrogates >= MAX_SURROGATES:
                continue
            digest = {} if known is None else known.digest()
            ours = (len(digest), summary_hash(digest))
            if theirs.get(name, (0, summary_hash({}))) != ours:
                unequal.append(name)
        return unequal

    def _listed(self, name: str, peer: PeerName) -> dict[bytes, int]:
        """The keys to list to a neighbour: ours, and those it need not send us again in vain."""
        known = self._channels.get(name)
        digest = {} if known is None else dict(known.digest())
        for key, stamp in self._quarantine.refused(peer, name).items():
            digest[key] = max(stamp, digest.get(key, 0))
        return digest

    def _differing(self, peer: PeerName, keys: Keys, now: Instant) -> list[GossipEffect]:
        """Their keys in a range: owe them what they lack, and ask for what we lack."""
        known = self._channels.get(keys.channel)
        if known is None and self._surrogates >= MAX_SURROGATES:
            return []
        newer, wanted = difference({} if known is None else known.digest(), keys)
        self._backlog.owe(peer, keys.channel, newer)
        self._flush_by(now)
        if self._backlog.is_paused(peer):
            return []  # it will be compared with again when it reads
        theirs = dict(keys.stamps)
        wanted = [
            key
            for key in wanted
            if not self._quarantine.is_refused(peer, keys.channel, key, theirs[key])
        ]
        return [
            self._send(peer, Want(keys.channel, tuple(wanted[at : at + BATCH_KEYS])))
            for at in range(0, len(wanted), BATCH_KEYS)
        ]

    # ---- outputs

    @staticmethod
    def _send(peer: PeerName, message: GossipMessage) -> SendTo:
        return SendTo(peer, encode(message))

    def _armed(self, effects: list[GossipEffect]) -> list[GossipEffect]:
        wishes = [w for w in (self._flush_at, self._soon_at, self._compare_at) if w is not None]
        effects.append(Arm(min(wishes) if wishes else None))
        return effects


class _Parcel:
    """Messages for one neighbour in the making, items packed together per channel."""

    def __init__(self) -> None:
        self.total = 0
        self._messages: list[bytes] = []
        self._channel = UNKNOWN
        self._batch: list[tuple[bytes, int, bytes]] = []
        self._size = 0

    def put(self, message: GossipMessage) -> None:
        octets = encode(message)
        self._messages.append(octets)
        self.total += len(octets)

    def add(self, channel: str, item: Item) -> None:
        if channel != self._channel or self._size > BATCH_OCTETS:
            self._close()
            self._channel = channel
        self._batch.append((item.key, item.stamp, item.payload))
        octets = len(item.key) + STAMP_SIZE + len(item.payload)
        self._size += octets
        self.total += octets

    def closed(self) -> list[bytes]:
        self._close()
        return self._messages

    def _close(self) -> None:
        if self._batch:
            self._messages.append(encode(Items(self._channel, tuple(self._batch))))
        self._batch, self._size = [], 0

"""What each neighbour is still to be told: sets of keys, never a queue of messages.

Invariant: a key waits for a neighbour at most once, and what is sent is its newest item, so a
backlog is bounded by the channels' state: not by how long a neighbour does not read, and not by
how often it asks.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.names import PeerName


class Backlog:
    def __init__(self) -> None:
        self._keys: dict[PeerName, dict[str, dict[bytes, None]]] = {}
        self._paused: set[PeerName] = set()
        self._to_compare: dict[PeerName, dict[str, None]] = {}

    @property
    def peers(self) -> tuple[PeerName, ...]:
        """Every neighbour, paused or not."""
        return tuple(self._keys)

    @property
    def ready(self) -> tuple[PeerName, ...]:
        """The neighbours that take messages now."""
        return tuple(peer for peer in self._keys if peer not in self._paused)

    def add(self, peer: PeerName) -> None:
        self._keys.setdefault(peer, {})
        self._to_compare.setdefault(peer, {})
        self._paused.discard(peer)

    def drop(self, peer: PeerName) -> None:
        self._keys.pop(peer, None)
        self._to_compare.pop(peer, None)
        self._paused.discard(peer)

    def pause(self, peer: PeerName) -> None:
        self._paused.add(peer)

    def resume(self, peer: PeerName) -> None:
        self._paused.discard(peer)

    def is_paused(self, peer: PeerName) -> bool:
        return peer in self._paused

    def owe(self, peer: PeerName, channel: str, keys: Iterable[bytes]) -> None:
        """The neighbour is to get the items under these keys, in the order they are owed."""
        owed = dict.fromkeys(keys)
        if owed and (waiting := self._keys.get(peer)) is not None:
            waiting.setdefault(channel, {}).update(owed)

    def compare(self, peer: PeerName, channels: Iterable[str]) -> None:
        """The neighbour is to get the list of our keys of these channels."""
        if (waiting := self._to_compare.get(peer)) is not None:
            waiting.update(dict.fromkeys(channels))

    def owes(self, peer: PeerName) -> bool:
        return bool(self._keys.get(peer)) or bool(self._to_compare.get(peer))

    def take_channel(self, peer: PeerName) -> str | None:
        """Take one channel off those whose keys are to be listed; None when there is none."""
        waiting = self._to_compare.get(peer)
        if not waiting:
            return None
        channel = next(iter(waiting))
        del waiting[channel]
        return channel

    def take(self, peer: PeerName, limit: int) -> tuple[str, list[bytes]] | None:
        """Take up to ``limit`` keys of one channel off what is owed; None when nothing is."""
        waiting = self._keys.get(peer)
        if not waiting:
            return None
        channel, keys = next(iter(waiting.items()))
        taken = [key for key, _ in zip(keys, range(limit), strict=False)]
        for key in taken:
            del keys[key]
        if not keys:
            del waiting[channel]
        return channel, taken

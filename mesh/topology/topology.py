"""The view of the mesh: the newest genuine record of every peer. A gossip channel.

Who drives it: ``mesh.router.router``, and ``mesh.gossip.engine`` as the channel "topology".

Invariants: every record but ours was signed by the key its name is the hash of; of one peer the
record with the highest (version, UID) is held; ours is newer than any other under our name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.errors import MalformedMessageError
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import PeerName, PeerUID, ShortID
from mesh.topology.record import Edge, Record
from mesh.topology.short_id import choose

if TYPE_CHECKING:
    from random import Random

CHANNEL = "topology"

MAX_PEERS = 4096
"""Records held: as many as there are short IDs."""

COLLECT_AFTER = 60.0
"""Seconds a peer may be unreachable before its record is forgotten."""

CLONE_OVERTAKES = 3
CLONE_WINDOW = 60.0
"""A restarted peer overtakes its former self once. Whoever must do so three times within a minute
has a twin that is alive."""


class Topology:
    name = CHANNEL

    def __init__(
        self,
        identity: Identity,
        uid: PeerUID,
        nickname: str,
        rng: Random,
        *,
        short_id_hint: ShortID | None = None,
        program: str = "weaver",
        mtu: int = 1420,
        overlays: tuple[str, ...] = ("sleeve",),
        collect_after: float = COLLECT_AFTER,
    ) -> None:
        self._identity, self._rng, self._collect_after = identity, rng, collect_after
        self.us = identity.name
        hint = choose(self.us, short_id_hint, {}, rng)
        own = Record(identity.public_key, uid, 0, hint, mtu, nickname, program, overlays)
        self.records: dict[PeerName, Record] = {self.us: own.signed(identity)}
        self._unreachable_since: dict[PeerName, Instant] = {}
        self._overtakes: deque[Instant] = deque(maxlen=CLONE_OVERTAKES)
        self._ahead = 0
        self.overtaken = False
        self.clone_suspected = False

    @property
    def own(self) -> Record:
        return self.records[self.us]

    # ---- our own record

    def update(self, *, edges: Iterable[Edge], now: Instant) -> bool:
        """Publish our edges, and a short ID that nobody may take from us.

        Returns whether there is a new version to gossip.
        """
        own = self.own
        others = {n: r.short_id for n, r in self.records.items() if n != self.us}
        short_id = choose(self.us, own.short_id, others, self._rng)
        wanted = replace(own, edges=tuple(edges), short_id=short_id)
        if wanted == own and own.version > 0 and not self.overtaken:
            return False
        version = max(own.version, self._ahead) + 1
        self.overtaken = False
        self.records[self.us] = replace(wanted, version=version).signed(self._identity)
        return True

    # ---- the channel

    def digest(self) -> Mapping[bytes, int]:
        return {name.octets: record.stamp for name, record in self.records.items()}

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        found = []
        for key in keys:
            record = self.records.get(PeerName(key)) if len(key) == 8 else None
            if record is not None:
                found.append(Item(key, record.stamp, record.encode()))
        return found

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news: list[bytes] = []
        rejected: list[Rejected] = []
        for item in items:
            reason = self._merge_one(item, now)
            if reason == "":
                news.append(item.key)
            elif reason is not None:
                rejected.append(Rejected(item.key, reason))
        return Merged(tuple(news), tuple(rejected))

    def _merge_one(self, item: Item, now: Instant) -> str | None:
        """ "" for news, None for nothing new, else the reason of the refusal."""
        held = self.records.get(PeerName(item.key)) if len(item.key) == 8 else None
        if held is not None and held.stamp >= item.stamp:
            if held.stamp == item.stamp and held.encode() != item.payload:
                return "version-reused"
            return None
        try:
            record = Record.decode(item.payload)
        except MalformedMessageError as err:
            return err.reason
        name = record.name
        if name.octets != item.key or record.stamp != item.stamp:
            return "mislabelled"
        if held is None and len(self.records) >= MAX_PEERS:
            return "too-many-peers"
        if not record.is_genuine():
            return "bad-signature"
        if name == self.us:
            self._overtake(record, now)
            return None
        self.records[name] = record
        self._mind_short_id(record)
        return ""

    def _overtake(self, record: Record, now: Instant) -> None:
        """A record under our own name that is newer than ours: our former self, or our clone."""
        self._ahead = max(self._ahead, record.version)
        self.overtaken = True
        self._overtakes.append(now)
        full = len(self._overtakes) == CLONE_OVERTAKES
        if full and now - self._overtakes[0] <= CLONE_WINDOW and record.uid != self.own.uid:
            self.clone_suspected = True

    def _mind_short_id(self, record: Record) -> None:
        own = self.own
        if own.short_id is not None and record.short_id == own.short_id and record.name < self.us:
            self.overtaken = True  # a new version of ours is due, with another short ID

    # ---- the unreachable

    def collect(self, reachable: Iterable[PeerName], now: Instant) -> list[PeerName]:
        """Forget the peers that have been unreachable for long; their names."""
        alive = {self.us, *reachable}
        for name in self._unreachable_since.keys() & alive:
            del self._unreachable_since[name]
        gone = []
        for name in self.records.keys() - alive:
            since = self._unreachable_since.setdefault(name, now)
            if now - since >= self._collect_after:
                gone.append(name)
        for name in gone:
            del self.records[name]
            del self._unreachable_since[name]
        return sorted(gone)

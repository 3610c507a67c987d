"""The view of the mesh: the newest genuine record of every peer. A gossip channel.

Who drives it: ``mesh.router.router``, and ``mesh.gossip.engine`` as the channel "topology".

Invariants: every record was signed by the key its name is the hash of; of one peer the record
with the highest (version, UID) is held; ours is newer than any other heard of under our name; at
most ``MAX_PEERS`` records and ``MAX_TOTAL_EDGES`` edges are held, but for our neighbours' own.

    heard of --> held --half of COLLECT_AFTER unreachable--> quiet --the other half--> forgotten
                   ^-----------------reachable again-----------'

Quiet records are kept but not gossiped: everybody falls silent about a lost peer before anybody
forgets it, and what was forgotten is not learnt again (``mesh.topology.forgotten``), else those
who remember would for ever teach those who forgot.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.errors import MalformedMessageError, OperatorError
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import NAME_SIZE, PeerName, PeerUID, ShortID
from mesh.topology.forgotten import Forgotten, reached
from mesh.topology.namesakes import Namesakes
from mesh.topology.record import MAX_EDGES, Edge, Label, Record, is_address
from mesh.topology.short_id import NONE_FREE, choose

if TYPE_CHECKING:
    from random import Random

CHANNEL = "topology"

MAX_PEERS = 4096
"""Records held: as many as there are short IDs. Whoever invents identities fills it and no more."""

MAX_TOTAL_EDGES = 1 << 17
"""Edges held: 362 peers in a full mesh, or 4,096 with 32 each; some 50 MB at most."""

MAX_FORGED = 1024
"""Forgeries remembered, so that one is not verified each time it is repeated."""

COLLECT_AFTER = 60.0
"""Seconds a peer may be unreachable before its record is forgotten."""

QUIET_SHARE = 0.5
"""Share of it after which the record is no longer gossiped."""


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
        mtu: int = 1400,
        overlays: tuple[str, ...] = ("sleeve",),
        collect_after: float = COLLECT_AFTER,
    ) -> None:
        self._identity, self._rng, self._collect_after = identity, rng, collect_after
        self.us = identity.name
        hint = choose(self.us, short_id_hint, {}, rng)
        self.overlays = overlays
        self.mtu = mtu
        """That we take frames by; what is set here is published with the next ``update``."""
        own = Record(identity.public_key, uid, 0, hint, mtu, nickname, program, overlays)
        if own.problem:
            raise OperatorError(f"no peer would read our record: {own.problem}", "bad-record")
        self.records: dict[PeerName, Record] = {}
        self._encoded: dict[PeerName, bytes] = {}
        self._stamps: dict[bytes, int] = {}
        self._edges = 0
        self._forged: OrderedDict[bytes, None] = OrderedDict()
        self._forgotten = Forgotten()
        self._unreachable_since: dict[PeerName, Instant] = {}
        self._namesakes = Namesakes()
        self.is_update_due = False
        """Somebody may keep our short ID, or we may get one: ``update`` shall be called soon."""
        self._publish(own)

    @property
    def own(self) -> Record:
        return self.records[self.us]

    @property
    def clone_suspected(self) -> bool:
        """Whether another living peer seems to hold our identity."""
        return self._namesakes.clone_suspected

    @property
    def short_id_problem(self) -> str | None:
        """Why we have no short ID; None when we have one."""
        return NONE_FREE if self.own.short_id is None else None

    # ---- our own record

    def update(self, *, edges: Iterable[Edge], now: Instant) -> bool:
        """Publish our edges, and a short ID that nobody may take from us.

        Returns whether there is a new version to gossip.
        """
        own = self.own
        others = {n: r.short_id for n, r in self.records.items() if n != self.us}
        short_id = choose(self.us, own.short_id, others, self._rng)
        self.is_update_due = False
        wanted = replace(
            own, edges=_fit(edges), short_id=short_id, overlays=self.overlays, mtu=self.mtu
        )
        if wanted == own and own.version > 0:
            return False
        self._publish(wanted)
        return True

    def _publish(self, record: Record) -> None:
        """Make this our record, newer than whatever was heard of under our name."""
        version = record.version
        if self.us in self.records:
            version = max(version, self._namesakes.version) + 1
        signed = replace(record, version=version).signed(self._identity)
        self._hold(signed, signed.encode())

    # ---- the channel

    def digest(self) -> Mapping[bytes, int]:
        return self._stamps

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        return [
            Item(key, self._stamps[key], self._encoded[PeerName(key)])
            for key in keys
            if key in self._stamps
        ]

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        """Hold what is newer and genuine. Our own key among the news: we overtook a namesake."""
        news: dict[bytes, None] = {}
        rejected: list[Rejected] = []
        known, forgotten = self._sorted_out(items, source)
        for item in chain(known, self._returning(forgotten, source)):
            refusal = self._merge_one(item, source, now)
            if refusal == "":
                news[item.key] = None
            elif refusal is not None:
                rejected.append(Rejected(item.key, refusal))
        return Merged(tuple(news), tuple(rejected))

    def _sorted_out(self, items: Sequence[Item], source: PeerName) -> tuple[list[Item], list[Item]]:
        """(what is to be looked at, what was forgotten and is told again)."""
        known: list[Item] = []
        forgotten: list[Item] = []
        for item in items:
            again = item.key != source.octets and self._forgotten.has(item.key, item.stamp)
            held = again and PeerName(item.key) in self.records
            (forgotten if again and not held else known).append(item)
        return known, forgotten

    def _returning(self, items: list[Item], source: PeerName) -> Iterator[Item]:
        """Of what was forgotten, those who are reachable now, and what is no genuine record.

        Looks when it is asked for the first: what merges before may lead to these.
        """
        if not items:
            return
        genuine: dict[PeerName, Item] = {}
        records = dict(self.records)
        for item in items:
            try:
                record = self._genuine(item)
            except _RefusedError:
                yield item  # to be refused
            else:
                genuine[record.name], records[record.name] = item, record
        near = reached(records, (self.us, source))
        yield from [item for name, item in genuine.items() if name in near]

    def _merge_one(self, item: Item, source: PeerName, now: Instant) -> str | None:
        """ "" for news, None for nothing new, else the reason of the refusal."""
        name = PeerName(item.key) if len(item.key) == NAME_SIZE else None
        held = None if name is None else self.records.get(name)
        reused = False
        if name is not None and held is not None and held.stamp >= item.stamp:
            if held.stamp > item.stamp or self._encoded[name] == item.payload:
                return None
            reused = True
        try:
            record = self._genuine(item)
        except _RefusedError as refusal:
            return refusal.reason
        if record.name == self.us:
            return self._overtake(record, now)
        if reused:
            return "version-reused"
        if (full := self._full_for(record, held)) and record.name != source:
            return full
        self._hold(record, item.payload)
        ours = self.own.short_id
        if ours is None or (record.short_id == ours and record.name < self.us):
            self.is_update_due = True
        return ""

    def _genuine(self, item: Item) -> Record:
        """The record in an item, as its owner made it, or _RefusedError. Cheap checks first."""
        try:
            label = Label.of(item.payload)
            if label.name.octets != item.key or label.stamp != item.stamp:
                raise _RefusedError("mislabelled")
            print_ = sha256(item.payload).digest()
            if print_ in self._forged:
                raise _RefusedError("bad-signature")
            if not label.is_genuine(item.payload):
                self._forged[print_] = None
                if len(self._forged) > MAX_FORGED:
                    self._forged.popitem(last=False)
                raise _RefusedError("bad-signature")
            return Record.decode(item.payload)
        except MalformedMessageError as err:
            raise _RefusedError(err.reason) from err

    def _full_for(self, record: Record, held: Record | None) -> str:
        """The reason why there is no room for this record, "" when there is."""
        if held is None and len(self.records) >= MAX_PEERS:
            return "too-many-peers"
        growth = len(record.edges) - (0 if held is None else len(held.edges))
        return "too-many-edges" if self._edges + growth > MAX_TOTAL_EDGES else ""

    def _overtake(self, record: Record, now: Instant) -> str | None:
        """A record under our name that is newer than ours: our former self's, or a clone's."""
        if not self._namesakes.heard(record.version, now):
            return None
        self._publish(self.own)
        return ""

    # ---- what is held

    def _hold(self, record: Record, encoded: bytes) -> None:
        name = record.name
        before = self.records.get(name)
        self._edges += len(record.edges) - (0 if before is None else len(before.edges))
        self.records[name], self._encoded[name] = record, encoded
        if before is None or name.octets in self._stamps:
            self._stamps[name.octets] = record.stamp

    def _forget(self, name: PeerName) -> None:
        self._forgotten.add(name.octets, self.records[name].stamp)
        self._edges -= len(self.records.pop(name).edges)
        del self._encoded[name]
        self._stamps.pop(name.octets, None)
        del self._unreachable_since[name]

    def collect(self, reachable: Iterable[PeerName], now: Instant) -> list[PeerName]:
        """Fall silent about the long unreachable, then forget them: the names of those forgotten.

        To be called every few seconds.
        """
        self._namesakes.collect(now)
        alive = {self.us, *reachable}
        for name in self._unreachable_since.keys() & alive:
            del self._unreachable_since[name]
            self._stamps[name.octets] = self.records[name].stamp
        gone = []
        for name in self.records.keys() - alive:
            silence = now - self._unreachable_since.setdefault(name, now)
            if silence >= self._collect_after:
                gone.append(name)
            elif silence >= QUIET_SHARE * self._collect_after:
                self._stamps.pop(name.octets, None)
        for name in gone:
            self._forget(name)
        return sorted(gone)


class _RefusedError(Exception):
    """An item that is not a genuine record."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _fit(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    """Edges as a record has them: by name, not too many, no endpoint that others cannot dial."""
    ordered = sorted(edges, key=lambda edge: edge.peer)[:MAX_EDGES]
    return tuple(
        edge
        if edge.endpoint is None or is_address(edge.endpoint.host)
        else replace(edge, endpoint=None)
        for edge in ordered
    )

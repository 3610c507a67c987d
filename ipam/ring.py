"""The ring: which peer owns which slice of the range. A gossip channel (docs/ipam.md R1 to R8).

A slice says its own start *and* end, so a peer that has heard only a part of a donation never
believes to own more than it was given. Where slices overlap, the greatest stamp counts.

Merge is commutative, associative and idempotent: at every address it keeps the greatest stamp.
That no stamp is made by two is what R4 and R5 say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self

from ipam.address import Address, AddressRange
from ipam.disputes import COVERED, FORGED, REUSED, Conflict, Disputes, contradicted
from ipam.divided import Divided
from ipam.overlay import Cover
from ipam.shortened import Shortened
from ipam.slices import (
    ADDRESS_SIZE,
    CLUSTER_SIZE,
    CONTEXT,
    RingId,
    Slice,
    decode_slice,
    encode_slice,
    next_epoch,
    sign_slice,
)
from ipam.unsaved import Unsaved
from mesh.clock import Instant
from mesh.crypto.identity import Identity, verify
from mesh.errors import MalformedMessageError, MisuseError
from mesh.gossip.channel import Item, Merged, Rejected
from mesh.names import PeerName

CHANNEL = "ipam"
MAX_SLICES = 100_000
"""Slices held: a /12 in blocks of ten addresses. More come only from a peer that lies."""


class Ring(Divided):
    name = CHANNEL

    def __init__(self, identity: Identity, range: AddressRange) -> None:
        super().__init__(range)
        self.identity = identity
        self.us = identity.name
        self.id: RingId | None = None
        self.conflicts = Disputes()
        self.is_asking = False
        """We merge what we asked for, what is newer than our memory: of our own slices, too."""
        self.is_outdated = False
        """We heard of a slice that we issued and do not remember."""
        self.changed: list[Slice] = []
        """Slices that merges brought since ``take_changed``: to persist and to act on."""
        self.dropped: list[Address] = []
        """Starts of slices that others lie on wholly, since ``take_dropped``."""
        self._cut: list[tuple[Address, Address, int]] = []
        """Ends of slices of ours that others made shorter, and their versions."""
        self._lost: dict[Address, tuple[Slice, Slice]] = {}
        """Slices of ours that we hear of late, and lies that lie on them."""
        self._unsaved = Unsaved()
        self._digest: dict[bytes, int] = {}
        self._digest_at = (0, 0)
        self.shortened = Shortened()

    @classmethod
    def restored(
        cls,
        identity: Identity,
        range: AddressRange,
        cluster: bytes | None,
        stored: Iterable[bytes],
    ) -> Self:
        """The ring as the store has it. Raises MalformedMessageError when it is not one."""
        ring = cls(identity, range)
        if cluster is not None and len(cluster) != CLUSTER_SIZE:
            raise MalformedMessageError("a cluster's id of another size")
        if cluster is not None:
            ring.id = RingId(cluster, range)
        for data in stored:
            head, piece = decode_slice(data)
            if ring.id is None or head != ring.id.head():
                raise MalformedMessageError("a slice of another ring")
            ring._put(piece)
        ring.take_dropped()
        return ring

    # ---- questions

    @property
    def is_seeded(self) -> bool:
        return bool(self.slices)

    def holds(self, octets: bytes) -> bool:
        """Whether this slice of this ring is known here, or what became of it."""
        head, said = decode_slice(octets)
        if self.id is None or head != self.id.head():
            return False
        parts = self._parts.under(said.start, said.end)
        covered = sum(min(p.end, said.end) - max(p.start, said.start) for p in parts)
        return covered == said.size and all(
            p.stamp == said.stamp or p.stamp >> 64 > said.version for p in parts
        )

    # ---- our own changes

    def seed(self, cluster: bytes, owners: Sequence[PeerName]) -> list[Slice]:
        """Divide the whole range among ``owners``; callers hold consensus first."""
        if self.slices:
            raise MisuseError("the ring is seeded already")
        self.id = RingId(cluster, self.range)
        starts = [*self.range.split(len(owners)), self.range.end]
        return self._set(
            Slice(starts[n], starts[n + 1], owner, 1)
            for n, owner in enumerate(owners)
            if starts[n] < starts[n + 1]
        )

    def give(self, start: Address, end: Address, to: PeerName) -> list[Slice]:
        """Hand ``[start, end)``, inside one slice of ours, to another peer; what changed.

        All that is left of the slice has the same new version: nothing older counts anywhere.
        """
        held = next((s for s in self.owned(self.us) if s.start <= start < end <= s.end), None)
        if held is None:
            raise MisuseError("giving away what is not ours")
        version = held.version + 1
        pieces = [Slice(start, end, to, version)]
        if held.start < start:
            pieces.insert(0, Slice(held.start, start, self.us, version))
        if end < held.end:
            pieces.append(Slice(end, held.end, self.us, version))
        return self._set(pieces)

    def join(self, apart: Iterable[Address] = ()) -> list[Slice]:
        """Make one slice of neighbours that are both ours, but those ``apart``; what changed."""
        runs: list[list[Slice]] = []
        alone = set(apart)
        for piece in self.owned(self.us):
            last = runs[-1][-1] if runs else None
            if last is None or last.end != piece.start or {last.start, piece.start} & alone:
                runs.append([piece])
            else:
                runs[-1].append(piece)
        return self._set(
            Slice(run[0].start, run[-1].end, self.us, 1 + max(p.version for p in run))
            for run in runs
            if len(run) > 1
        )

    def take_over(self, dead: PeerName, *, gaps: bool = False) -> list[Slice]:
        """Make every slice of a peer that is gone for good our own, in a new epoch.

        ``gaps`` too: what nobody is known to own, for those who knew are gone.
        """
        pieces = [
            replace(s, owner=self.us, version=next_epoch(s.version, self.us), takeover=True)
            for s in self.owned(dead)
        ]
        if gaps:
            top = max((s.version for s in self.slices.values()), default=0)
            pieces += [
                Slice(start, end, self.us, next_epoch(top, self.us), True)
                for start, end in self.gaps()
            ]
        return self._set(pieces)

    def reassert(self, said: Slice) -> list[Slice]:
        """Say again what we own, above a version that somebody lied about; nothing when it is.

        Two above: whoever believed the lie takes the very next version from the liar only.
        """
        return self._set(
            replace(piece, version=said.version + 2, takeover=False)
            for piece in self.owned(self.us)
            if piece.start < said.end and said.start < piece.end and piece.version <= said.version
        )

    def resolve(self, conflict: Conflict) -> list[Slice]:
        """Say in a version above both sides of a dispute that what is ours of it is ours."""
        version = max(conflict.held.version, conflict.said.version) + 2
        mine = [
            replace(piece, version=version, takeover=False)
            for piece in self.owned(self.us)
            if piece.start < conflict.end and conflict.start < piece.end
        ]
        if mine:
            self.conflicts.pop(conflict.said.start, None)
        return self._set(mine)

    def _set(self, pieces: Iterable[Slice]) -> list[Slice]:
        wanted = list(pieces)
        if not wanted:
            return []
        if self.id is None:
            raise MisuseError("a ring without a cluster")
        wanted += self._rest_of(wanted)
        signed = [sign_slice(self.id, piece, self.identity) for piece in wanted]
        for piece in signed:
            self._unsaved.changes(piece.start, self.slices.get(piece.start))
            self._put(piece)
        return signed

    def _rest_of(self, pieces: list[Slice]) -> list[Slice]:
        """Where others lie on the middle of a slice of ours, what is behind them is said anew when
        its beginning is: one start has one slice."""
        return [
            Slice(part.start, part.end, self.us, piece.version)
            for piece in pieces
            if (held := self.slices.get(piece.start)) is not None and held.owner == self.us
            for part in self._parts
            if part.slice_start == piece.start
            and all(other.end <= part.start or part.end <= other.start for other in pieces)
        ]

    def orphans(self) -> list[Slice]:
        """What was ours, and is nobody's since another's slice took its beginning: ours again."""
        found, self._cut = self._cut, []
        return self._set(
            Slice(max(floor.start, start), min(floor.end, end), self.us, version + 1)
            for start, end, version in found
            for floor in self._parts.under(start, end)
            if floor.slice_start is None and floor.stamp >> 64 == version
        )

    def _put(self, piece: Slice) -> None:
        """Have a slice count where its stamp does; forget what counts nowhere any more."""
        held, end = self.slices.get(piece.start), piece.end
        self.slices[piece.start] = piece
        covers = [Cover(piece.start, piece.end, piece.stamp, piece.start)]
        if held is not None and held.end > end:
            # Until somebody says whose the rest is: nobody's, but not open to what is older.
            end = held.end
            covers.append(Cover(piece.start, held.end, held.stamp, None))
            self.shortened.keep(held, self._parts.nobodys)
            if held.owner == self.us != piece.issuer:
                self._cut.append((piece.end, held.end, held.version))
        was = self._parts.under(piece.start, end)
        covers += [part for part in was if held is None or part.slice_start != piece.start]
        self._parts.lay(piece.start, end, covers)
        for start in {part.slice_start for part in was} - {piece.start, None}:
            self._forget_covered(start)
        self._forget_covered(piece.start)

    def _lay_rest(self, said: Slice) -> None:
        """A slice that has become shorter since: its rest is nobody's, as if it had come before."""
        under = self._parts.under(said.start, said.end)
        rest = Cover(said.start, said.end, said.stamp, None)
        self._parts.lay(said.start, said.end, [*under, rest])
        self.shortened.keep(said, self._parts.nobodys)
        for start in {part.slice_start for part in under}:
            self._forget_covered(start)

    def _forget_covered(self, start: Address | None) -> None:
        held = None if start is None else self.slices.get(start)
        if start is None or held is None:
            return
        if all(part.slice_start != start for part in self._parts.under(held.start, held.end)):
            del self.slices[start]
            self.dropped.append(start)

    def encoded(self, piece: Slice) -> bytes:
        assert self.id is not None
        return encode_slice(self.id, piece)

    def take_changed(self) -> list[Slice]:
        changed, self.changed = self.changed, []
        return changed

    def take_dropped(self) -> list[Address]:
        dropped, self.dropped = self.dropped, []
        return [start for start in dropped if start not in self.slices]

    # ---- the channel

    def hide(self, changed: Iterable[Slice]) -> None:
        """Our own changes are not durable yet: until ``saved``, digests show what was."""
        self._unsaved.hide(changed)

    def saved(self, start: Address, octets: bytes) -> None:
        """Its slice is durable in this version, and may be shown."""
        held = self.slices.get(start) if start in self._unsaved else None
        if held is not None and self.encoded(held) == octets:
            self._unsaved.saved(start)

    def digest(self) -> Mapping[bytes, int]:
        at = (self._parts.changes, self._unsaved.turns)
        if self._digest_at != at:
            self._digest, self._digest_at = self._digested(), at
        return self._digest

    def _digested(self) -> dict[bytes, int]:
        shown = {piece.key: piece.stamp for piece in self.slices.values()}
        for start in self._unsaved.starts():
            key = start.to_bytes(ADDRESS_SIZE, "big")
            shown.pop(key, None)
            piece = self._unsaved.shown(start, None)
            if piece is not None:
                shown[key] = piece.stamp
        return shown

    def items(self, keys: Iterable[bytes]) -> list[Item]:
        found = []
        for key in keys:
            start = Address(int.from_bytes(key, "big"))
            piece = self._unsaved.shown(start, self.slices.get(start))
            if piece is not None and piece.key == key:
                found.append(Item(key, piece.stamp, self.encoded(piece)))
        return found

    def merge(self, items: Sequence[Item], source: PeerName, now: Instant) -> Merged:
        news: list[bytes] = []
        rejected: list[Rejected] = []
        for item in items:
            try:
                reason = self._merge_one(item, source)
            except MalformedMessageError as err:
                reason = err.reason
            if reason == "":
                news.append(item.key)
            elif reason is not None:
                rejected.append(Rejected(item.key, reason))
        return Merged(tuple(news), tuple(rejected))

    def _merge_one(self, item: Item, source: PeerName) -> str | None:
        """ "" for news, None for nothing new, else why the slice is refused."""
        head, said = decode_slice(item.payload)
        if said.key != item.key or said.stamp != item.stamp:
            return "mislabelled"
        if (reason := self._foreign(head)) is not None:
            return reason
        held = self.slices.get(said.start)
        if held is not None and held.stamp == said.stamp:
            return None
        if self._is_old(said):
            return self._reused(said, source) or self._covered(said) or self._robbed(said)
        if not _is_genuine(said, head):
            return "bad-signature"
        if held is None and len(self.slices) >= MAX_SLICES:
            return "too-many-slices"
        if said.start < self.range.start or said.end > self.range.end:
            return "slice-outside-range"
        under = [
            self.slices[part.slice_start]
            for part in self._parts.under(said.start, said.end)
            if part.slice_start is not None and part.stamp < said.stamp
        ]
        forged = contradicted(said, under, None if self.is_asking else self.us)
        if forged is not None:
            if forged.owner != self.us:
                self.shortened.tell(forged.owner, forged)  # it may have heard the lie first
            return self.conflicts.add(Conflict(forged, said, FORGED, source))
        if held is not None and held.stamp > said.stamp:
            self._lay_rest(said)
            return ""
        if self.id is None:
            self.id = RingId(head[:CLUSTER_SIZE], self.range)
        self._reused(said, source)
        self.conflicts.settle(said)
        self.is_outdated = self.is_outdated or said.issuer == self.us
        self._unsaved.saved(said.start)
        self._put(said)
        self.changed.append(said)
        return ""

    def _is_old(self, said: Slice) -> bool:
        """Whether it says nothing that counts anywhere."""
        at = said.start
        for part in self._parts.under(said.start, said.end):
            if part.start > at or part.stamp < said.stamp:
                return False
            at = part.end
        return at >= said.end

    def _reused(self, said: Slice, source: PeerName) -> str | None:
        """One version of one address made twice, and not by takeovers that raced: the owner lies,
        or there are two of it. Both are kept as evidence, the greater stamp counts (R7)."""
        for part in self._parts.under(said.start, said.end):
            if part.slice_start is None or part.stamp >> 64 != said.version:
                continue
            held = self.slices[part.slice_start]
            if held.stamp == said.stamp:
                continue
            if not _is_genuine(said, self._head()):
                return "bad-signature"
            reason = REUSED if said.issuer in (held.issuer, held.owner) else FORGED
            return self.conflicts.add(Conflict(held, said, reason, source))
        return None

    def _covered(self, said: Slice) -> str | None:
        """Whether what counts there was replaced before its owner can have heard of it (R6)."""
        under = self._parts.under(said.start, said.end)
        found = self.shortened.under(part.stamp for part in under if part.slice_start is None)
        if found is None:
            return None
        if not _is_genuine(said, self._head()):
            return "bad-signature"
        self.shortened.tell(said.owner, found)
        return COVERED

    def _robbed(self, said: Slice) -> str | None:
        """Whether it is ours, and what lies on it a lie that came before we knew that (R6)."""
        if said.owner != self.us or not _is_genuine(said, self._head()):
            return None
        for part in self._parts.under(said.start, said.end):
            over = None if part.slice_start is None else self.slices[part.slice_start]
            if over is not None and contradicted(over, [said], None):
                self._lost[over.start] = said, over
        return FORGED if self._lost else None

    def regained(self) -> list[Slice]:
        """What others said of it before we knew that it is ours: ours again, two above them."""
        found, self._lost = self._lost.values(), {}
        return self._set(
            Slice(part.start, part.end, self.us, over.version + 2)
            for said, over in found
            for part in self._parts.under(over.start, over.end)
            if part.slice_start == over.start
            and part.stamp == over.stamp
            and said.start <= part.start
            and part.end <= said.end
        )

    def _head(self) -> bytes:
        assert self.id is not None
        return self.id.head()

    def _foreign(self, head: bytes) -> str | None:
        ours = RingId(bytes(CLUSTER_SIZE), self.range).head()
        if head[CLUSTER_SIZE:] != ours[CLUSTER_SIZE:]:
            return "range-mismatch"
        if self.id is not None and head[:CLUSTER_SIZE] != self.id.cluster:
            return "cluster-mismatch"
        return None


def _is_genuine(said: Slice, head: bytes) -> bool:
    return verify(said.issuer_key, CONTEXT, head + said.content(), said.signature)

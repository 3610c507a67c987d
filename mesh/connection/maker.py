"""Which addresses to connect to, and when: targets, discovery, back-off, limits.

Who drives it: ``mesh.router.neighbours``. One row a target:

    WAITING --due--> ATTEMPTING --established--> CONNECTED --lost, back-off--> WAITING
       ^                  `------failed, back-off------^
    SUSPENDED: an address that is ourselves or our clone; only ``connect`` wakes it

A row whose peer connected to us, or is reached at another address, counts as CONNECTED too. A row
that nobody wants any more stays until its back-off is over, so that a peer that is discovered
again and again is not dialled again and again.

Invariants: a target is attempted at most once at a time, and so is a peer as far as we know who
answers where; attempts and connections together never exceed ``limit``; an attempt of a target
never starts before its back-off is over, unless the operator asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.connection.bucket import Bucket
from mesh.connection.reasons import Refusal
from mesh.connection.target import DEFAULT_PORT, Target
from mesh.effects import Arm
from mesh.errors import OperatorError
from mesh.names import Endpoint, PeerName

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "DEFAULT_PORT",
    "ConnectionMaker",
    "Dial",
    "MakerEffect",
    "PersistTargets",
    "Target",
    "TargetState",
    "TargetStatus",
    "survivor",
]

BACKOFF_FIRST = 2.0
BACKOFF_FACTOR = 1.5
BACKOFF_MAX = 360.0
JITTER = 0.25
"""A wait is drawn from within this share of its nominal length: restarted meshes spread out."""

GOOD_AFTER = 60.0
"""Seconds after which a connection counts as good, so that its loss starts the back-off anew."""

KEEP_PROVEN = 24 * 3600.0
"""Seconds that an address which worked is tried after it was lost and nobody else reports it: two
halves of a cut mesh that only discovery had joined must find each other again."""

MAX_OPERATOR_TARGETS = 1024
MAX_TARGETS = 4096
"""Rows in all: the operator's targets, then those found by discovery."""

MAX_PLACES = 8
"""Addresses of one peer that discovery takes up: peers may lie about them."""

MAX_HALF_OPEN = 64
"""Accepted connections whose handshake is not over: a scan cannot hold more memory."""

ACCEPT_RATE = 50.0
ACCEPT_BURST = 100.0
"""Accepted connections a second, and at once: a mesh of a hundred peers may start together."""

DIAL_RATE = 20.0
DIAL_BURST = 20.0
"""Attempts a second, and at once: whatever discovery is told, we are no flood to others."""


class TargetState(StrEnum):
    WAITING = "waiting"
    ATTEMPTING = "attempting"
    CONNECTED = "connected"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True)
class Dial:
    target: Target


@dataclass(frozen=True, slots=True)
class PersistTargets:
    targets: tuple[Target, ...]


MakerEffect = Dial | Arm | PersistTargets


@dataclass(frozen=True, slots=True)
class TargetStatus:
    target: Target
    state: TargetState
    last_error: str | None
    tries: int
    next_attempt: Instant | None
    origin: str
    peer: PeerName | None


@dataclass(slots=True)
class _Row:
    due: Instant
    operator: bool = False
    found: bool = False
    """Discovery names this address now."""
    state: TargetState = TargetState.WAITING
    interval: float = BACKOFF_FIRST
    last_error: str | None = None
    tries: int = 0
    peer: PeerName | None = None
    """Whom it is connected to; set exactly while CONNECTED."""
    expected: PeerName | None = None
    """Who answered there last, or who discovery says does."""
    kept_until: Instant | None = None
    """An address that worked is wanted until then."""

    def is_wanted(self, now: Instant) -> bool:
        return (
            self.operator or self.found or (self.kept_until is not None and now < self.kept_until)
        )

    def is_stale(self, now: Instant) -> bool:
        at_rest = self.state in (TargetState.WAITING, TargetState.SUSPENDED)
        return at_rest and self.due <= now and not self.is_wanted(now)

    def connect(self, peer: PeerName) -> None:
        self.state, self.peer, self.expected = TargetState.CONNECTED, peer, peer
        self.last_error = None


def survivor(a: bytes, b: bytes) -> bytes:
    """Of two connections between one pair, which stays: both ends hold both hashes."""
    return min(a, b)


class ConnectionMaker:
    """Decides what to dial. ``limit`` bounds connections and attempts together."""

    def __init__(self, rng: Random, *, limit: int = 200, discovery: bool = True) -> None:
        self._rng, self._limit, self._discovery = rng, limit, discovery
        self._rows: dict[Target, _Row] = {}
        self._connected: dict[PeerName, Instant] = {}
        self._half_open = 0
        self._accepts = Bucket(rate=ACCEPT_RATE, burst=ACCEPT_BURST)
        self._dials = Bucket(rate=DIAL_RATE, burst=DIAL_BURST)
        self._persisted: tuple[Target, ...] = ()

    # ---- orders

    def connect(self, targets: Iterable[Target], now: Instant) -> list[MakerEffect]:
        """The operator wants these: try them now, whatever happened before.

        Raises OperatorError, and takes none of them, when they are too many.
        """
        wanted = list(targets)
        ours = {t for t, row in self._rows.items() if row.operator}
        if len(ours | set(wanted)) > MAX_OPERATOR_TARGETS:
            raise OperatorError(f"more than {MAX_OPERATOR_TARGETS} targets", "too-many-targets")
        for target in wanted:
            row = self._rows.setdefault(target, _Row(due=now))
            row.operator = True
            if row.state in (TargetState.WAITING, TargetState.SUSPENDED):
                row.state, row.due, row.interval = TargetState.WAITING, now, BACKOFF_FIRST
        return self._next(now)

    def forget(self, targets: Iterable[Target], now: Instant) -> list[MakerEffect]:
        """The operator no longer wants these; discovery may still find them."""
        for target in targets:
            row = self._rows.get(target)
            if row is None:
                continue
            row.operator = row.found = False
            row.kept_until = None
            if row.state in (TargetState.WAITING, TargetState.SUSPENDED):
                del self._rows[target]
        return self._next(now)

    def discovered(
        self, endpoints: Mapping[PeerName, frozenset[Endpoint]], now: Instant
    ) -> list[MakerEffect]:
        """Where peers that we are not connected to were reached by others, all of them."""
        if not self._discovery:
            return []
        found = {
            Target(place.host, place.port): peer
            for peer, places in endpoints.items()
            if peer not in self._connected
            for place in sorted(places)[:MAX_PLACES]
        }
        for target, row in self._rows.items():
            row.found = target in found
        for target, peer in sorted(found.items()):
            known = self._rows.get(target)
            if known is None:
                if len(self._rows) >= MAX_TARGETS:
                    break
                self._rows[target] = _Row(due=now, found=True, expected=peer)
            elif known.state is TargetState.WAITING:
                known.expected = peer
        return self._next(now)

    # ---- what became of attempts

    def dial_failed(self, target: Target, reason: str, now: Instant) -> list[MakerEffect]:
        """An attempt ended before it was established."""
        row = self._rows.get(target)
        if row is not None and row.state is TargetState.ATTEMPTING:
            self._fail(row, reason, now)
        return self._next(now)

    def established(
        self, target: Target | None, peer: PeerName, reached: Endpoint, now: Instant
    ) -> list[MakerEffect]:
        """A connection stands; ``target`` is None when the peer dialled us.

        ``reached`` is where its control port would be, seen from here.
        """
        self._connected[peer] = now
        if target is None:
            self._half_open = max(0, self._half_open - 1)
        elif (dialled := self._rows.get(target)) is not None:
            dialled.connect(peer)
            dialled.kept_until = Instant(inf)
        there = Target(reached.host, reached.port)
        for place, row in self._rows.items():
            if row.state is TargetState.WAITING and (place == there or row.expected == peer):
                row.connect(peer)
        return self._next(now)

    def lost(
        self,
        target: Target | None,
        peer: PeerName,
        reason: str,
        now: Instant,
        *,
        another: bool = False,
    ) -> list[MakerEffect]:
        """An established connection ended; ``another`` with the same peer stands.

        What the reason says of that is the other end's view: ours may be that it was the only one.
        """
        row = None if target is None else self._rows.get(target)
        if another:
            if row is not None:
                row.connect(peer)
            return self._next(now)
        since = self._connected.pop(peer, now)
        for other in self._rows.values():
            if other.peer == peer:
                if now - since >= GOOD_AFTER:
                    other.interval = BACKOFF_FIRST
                if other.kept_until is not None:
                    other.kept_until = Instant(now + KEEP_PROVEN)
                self._retry(other, reason, now)
        if row is not None and row.state is TargetState.ATTEMPTING:
            self._retry(row, reason, now)
        if reason == Refusal.FORGOTTEN and row is not None and not row.is_wanted(now):
            row.due = now
        return self._next(now)

    def handle_timer(self, now: Instant) -> list[MakerEffect]:
        return self._next(now)

    # ---- accepting

    def may_accept(self, now: Instant) -> bool:
        """Whether one more incoming connection may begin its handshake; takes a token."""
        return self._half_open < MAX_HALF_OPEN and self._accepts.take(now)

    def accepted(self, now: Instant) -> None:
        """An incoming connection is open; ``established`` or ``rejected`` ends the count."""
        self._half_open += 1

    def rejected(self, now: Instant) -> None:
        """An accepted connection ended before it was established."""
        self._half_open = max(0, self._half_open - 1)

    # ---- questions

    @property
    def half_open(self) -> int:
        """Accepted connections whose handshake is not over."""
        return self._half_open

    @property
    def active(self) -> int:
        """Connections and attempts, as the limit counts them."""
        attempting = sum(row.state is TargetState.ATTEMPTING for row in self._rows.values())
        return len(self._connected) + attempting

    def status(self) -> list[TargetStatus]:
        return [
            TargetStatus(
                target,
                row.state,
                row.last_error,
                row.tries,
                row.due if row.state is TargetState.WAITING else None,
                "operator" if row.operator else "discovered",
                row.peer,
            )
            for target, row in sorted(self._rows.items())
        ]

    # ---- inside

    def _fail(self, row: _Row, reason: str, now: Instant) -> None:
        """An attempt ended: again later, unless who answers there has our own key."""
        if reason in (Refusal.SELF, Refusal.CLONE):
            row.last_error, row.peer = reason, None
            row.state, row.due = TargetState.SUSPENDED, Instant(now + BACKOFF_MAX)
        else:
            self._retry(row, reason, now)

    def _retry(self, row: _Row, reason: str, now: Instant) -> None:
        row.last_error, row.peer = reason, None
        row.state = TargetState.WAITING
        spread = 1 + JITTER * (2 * self._rng.random() - 1)
        row.due = Instant(now + row.interval * spread)
        row.interval = min(row.interval * BACKOFF_FACTOR, BACKOFF_MAX)

    def _next(self, now: Instant) -> list[MakerEffect]:
        """Drop what nobody wants, dial what is due, arm for what is due next."""
        for target in [t for t, row in self._rows.items() if row.is_stale(now)]:
            del self._rows[target]
        effects: list[MakerEffect] = []
        deadline = self._dial_due(effects, now)
        effects.append(Arm(deadline))
        lasting = (t for t, row in self._rows.items() if row.operator or row.kept_until is not None)
        # The operator's own come first: nothing that was only found may displace them.
        chosen = sorted(lasting, key=lambda t: (not self._rows[t].operator, t))
        persist = tuple(chosen[:MAX_OPERATOR_TARGETS])
        if persist != self._persisted:
            self._persisted = persist
            effects.append(PersistTargets(persist))
        return effects

    def _dial_due(self, effects: list[MakerEffect], now: Instant) -> Instant | None:
        """Dial what is due, the operator's first; when to look again."""
        rows = self._rows
        waiting = [t for t, row in rows.items() if row.state is TargetState.WAITING]
        later = [rows[t].due for t in waiting if rows[t].due > now]
        soonest = min(later, default=None)
        room = self._limit - self.active
        busy = {row.expected for row in rows.values() if row.state is TargetState.ATTEMPTING}
        due = [t for t in waiting if rows[t].due <= now]
        for target in sorted(due, key=lambda t: (not rows[t].operator, rows[t].due, t)):
            row = rows[target]
            if row.expected is not None and row.expected in busy:
                continue  # the end of the other attempt brings us back here
            if room <= 0:
                row.last_error = Refusal.LIMIT
                continue
            if not self._dials.take(now):
                return min(self._dials.next(now), soonest or Instant(inf))
            row.state = TargetState.ATTEMPTING
            row.tries += 1
            room -= 1
            busy.add(row.expected)
            effects.append(Dial(target))
        return soonest

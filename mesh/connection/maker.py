"""Which addresses to connect to, and when: targets, discovery, back-off, limits.

Who drives it: ``mesh.router.neighbours``. One row a target:

    WAITING --due--> ATTEMPTING --established--> CONNECTED --lost--> WAITING
       ^                 `----failed, back-off----^
    SUSPENDED: an address that is ourselves or our clone; only ``connect`` wakes it

Invariants: a target is attempted at most once at a time; attempts and connections together never
exceed ``limit``; an attempt of a target never starts before its back-off is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from mesh.clock import Instant
from mesh.connection.reasons import Refusal
from mesh.effects import Arm
from mesh.errors import OperatorError
from mesh.names import Endpoint, PeerName

if TYPE_CHECKING:
    from random import Random

DEFAULT_PORT = 6783
BACKOFF_FIRST = 2.0
BACKOFF_FACTOR = 1.5
BACKOFF_MAX = 360.0
JITTER = 0.25
"""A wait is drawn from within this share of its nominal length: restarted meshes spread out."""

GOOD_AFTER = 60.0
"""Seconds after which a connection counts as good, so that its loss starts the back-off anew."""

MAX_TARGETS = 4096
"""Rows: operator's targets and those found by discovery."""

MAX_PERSISTED = 1024
MAX_HALF_OPEN = 64
"""Accepted connections whose handshake is not over: a scan cannot hold more memory."""

ACCEPT_RATE = 50.0
ACCEPT_BURST = 100.0
"""Accepted connections a second, and at once: a mesh of a hundred peers may start together."""


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a peer may be reached: an IP address or a DNS name, and a port."""

    host: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Self:
        """Read ``host``, ``host:port``, ``v6`` or ``[v6]:port``. Raises OperatorError."""
        host, port = text, ""
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise OperatorError(f"not an address: {text!r}", "bad-address")
            port = rest[1:]
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        try:
            number = int(port) if port else default_port
        except ValueError:
            number = 0
        allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:%")
        if not host or len(host) > 253 or not set(host) <= allowed or not 0 < number < 65536:
            raise OperatorError(f"not an address: {text!r}", "bad-address")
        if ":" in host:
            try:
                host = str(ip_address(host))
            except ValueError as err:
                raise OperatorError(f"not an address: {text!r}", "bad-address") from err
        return cls(host, number)

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port))


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
    operator: bool
    discovered: bool
    due: Instant
    state: TargetState = TargetState.WAITING
    interval: float = BACKOFF_FIRST
    last_error: str | None = None
    tries: int = 0
    peer: PeerName | None = None
    proven: bool = field(default=False)

    @property
    def wanted(self) -> bool:
        return self.operator or self.discovered


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
        self._tokens = ACCEPT_BURST
        self._tokens_at: Instant | None = None
        self._persisted: tuple[Target, ...] | None = None

    # ---- orders

    def connect(self, targets: Iterable[Target], now: Instant) -> list[MakerEffect]:
        """The operator wants these: try them now, whatever happened before."""
        for target in targets:
            row = self._rows.get(target)
            if row is None:
                if len(self._rows) >= MAX_TARGETS:
                    raise OperatorError(f"more than {MAX_TARGETS} targets", "too-many-targets")
                row = self._rows[target] = _Row(operator=True, discovered=False, due=now)
            row.operator = True
            if row.state in (TargetState.WAITING, TargetState.SUSPENDED):
                row.state, row.due, row.interval = TargetState.WAITING, now, BACKOFF_FIRST
        return self._next(now)

    def forget(self, targets: Iterable[Target], now: Instant) -> list[MakerEffect]:
        """The operator no longer wants these; discovery may still find them."""
        for target in targets:
            if (row := self._rows.get(target)) is not None:
                row.operator = row.discovered = row.proven = False
        return self._next(now)

    def discovered(
        self, endpoints: Mapping[PeerName, frozenset[Endpoint]], now: Instant
    ) -> list[MakerEffect]:
        """Where peers that we are not connected to were reached by others, all of them."""
        if not self._discovery:
            return []
        found = {
            Target(endpoint.host, endpoint.port): peer
            for peer, places in endpoints.items()
            if peer not in self._connected
            for endpoint in places
        }
        for target, row in self._rows.items():
            row.discovered = target in found
        for target in sorted(found.keys() - self._rows.keys()):
            if len(self._rows) >= MAX_TARGETS:
                break
            self._rows[target] = _Row(operator=False, discovered=True, due=now)
        return self._next(now)

    # ---- what became of attempts

    def dial_failed(self, target: Target, reason: str, now: Instant) -> list[MakerEffect]:
        """An attempt ended before it was established."""
        if (row := self._rows.get(target)) is not None:
            self._fail(row, reason, now)
        return self._next(now)

    def established(
        self, target: Target | None, peer: PeerName, reached: Endpoint, now: Instant
    ) -> list[MakerEffect]:
        """A connection stands; ``target`` is None when the peer dialled us."""
        self._connected[peer] = now
        if target is None:
            self._half_open = max(0, self._half_open - 1)
            row = self._rows.get(Target(reached.host, reached.port))
            if row is not None and row.state is TargetState.WAITING:
                row.state, row.peer, row.last_error = TargetState.CONNECTED, peer, None
        elif (row := self._rows.get(target)) is not None:
            row.state, row.peer, row.last_error = TargetState.CONNECTED, peer, None
            row.proven = True
        return self._next(now)

    def lost(
        self, target: Target | None, peer: PeerName, reason: str, now: Instant
    ) -> list[MakerEffect]:
        """An established connection ended, or one of two with the same peer did."""
        row = None if target is None else self._rows.get(target)
        if reason in (Refusal.DUPLICATE, Refusal.RESTARTED) and peer in self._connected:
            if row is not None:
                row.state, row.peer, row.last_error = TargetState.CONNECTED, peer, None
            return self._next(now)
        since = self._connected.pop(peer, now)
        for other in self._rows.values():
            if other.peer == peer and other.state is TargetState.CONNECTED:
                if now - since >= GOOD_AFTER:
                    other.interval = BACKOFF_FIRST
                self._fail(other, reason, now)
        if row is not None and row.state is TargetState.ATTEMPTING:
            self._fail(row, reason, now)
        return self._next(now)

    def handle_timer(self, now: Instant) -> list[MakerEffect]:
        return self._next(now)

    # ---- accepting

    def may_accept(self, now: Instant) -> bool:
        """Whether one more incoming connection may begin its handshake; takes a token."""
        if self._tokens_at is not None:
            gained = (now - self._tokens_at) * ACCEPT_RATE
            self._tokens = min(ACCEPT_BURST, self._tokens + gained)
        self._tokens_at = now
        if self._tokens < 1 or self._half_open >= MAX_HALF_OPEN:
            return False
        self._tokens -= 1
        return True

    def accepted(self, now: Instant) -> None:
        self._half_open += 1

    def rejected(self, now: Instant) -> None:
        """An accepted connection ended before it was established."""
        self._half_open = max(0, self._half_open - 1)

    # ---- questions

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
        row.last_error, row.peer = reason, None
        if reason in (Refusal.SELF, Refusal.CLONE):
            row.state = TargetState.SUSPENDED
            return
        row.state = TargetState.WAITING
        spread = 1 + JITTER * (2 * self._rng.random() - 1)
        row.due = Instant(now + row.interval * spread)
        row.interval = min(row.interval * BACKOFF_FACTOR, BACKOFF_MAX)

    def _next(self, now: Instant) -> list[MakerEffect]:
        """Drop what nobody wants, dial what is due, arm for what is due next."""
        effects: list[MakerEffect] = []
        for target in [t for t, row in self._rows.items() if self._is_stale(row)]:
            del self._rows[target]
        room = self._limit - self.active
        soonest: Instant | None = None
        for target, row in self._rows.items():
            if row.state is not TargetState.WAITING:
                continue
            if row.due <= now and room > 0:
                row.state = TargetState.ATTEMPTING
                row.tries += 1
                room -= 1
                effects.append(Dial(target))
            elif room > 0 and (soonest is None or row.due < soonest):
                soonest = row.due
            elif room <= 0 and row.due <= now:
                row.last_error = Refusal.LIMIT
        effects.append(Arm(soonest))
        lasting = tuple(sorted(t for t, row in self._rows.items() if row.operator or row.proven))
        if lasting != self._persisted:
            self._persisted = lasting
            effects.append(PersistTargets(lasting[:MAX_PERSISTED]))
        return effects

    @staticmethod
    def _is_stale(row: _Row) -> bool:
        return not row.wanted and row.state in (TargetState.WAITING, TargetState.SUSPENDED)

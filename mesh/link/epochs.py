"""End-to-end keys of one pair of peers, renewed every two minutes (docs/protocol.md 5).

Who drives it: ``mesh.router.links``, over unicasts that may be lost. The peer with the lower name
initiates; the other solicits when it has no keys.

    initiator                                   responder
      NOISE 1 (epoch e) ---------------------->
      <------------------------------- NOISE 2
      install e, wait for the worker
      NOISE 3 -------------------------------->  install e, wait for the worker, use e
      <---------------------------------- READY
      use e, DONE ----------------------------->

Either end keeps the epochs that it uses, that the other end says it uses, and that is being
made; any other goes 30 s after it stopped being one of these. Messages 1 and 2 say which epoch
their sender uses, so that lost messages leave nothing behind for long.

Invariants: whoever sends under an epoch knows that the other end has it installed, so no frame
is lost by a change of epoch; an epoch's keys are installed once and never again, and each retired.
A daemon whose worker started again makes a new PairKeys: keys of the old one are never repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.clock import Instant
from mesh.connection.handshake import IdentityHandshake, Local, RefusedError
from mesh.connection.reasons import MIRROR, Refusal, understood
from mesh.crypto.kem import Kem
from mesh.crypto.noise import CipherState, NoiseError
from mesh.effects import Arm, Notify
from mesh.errors import MalformedMessageError
from mesh.link.ciphers import agree, confirm, said
from mesh.link.pair_effects import (
    ActivateEpoch,
    EpochKeys,
    InstallEpoch,
    PairEffect,
    PairFailed,
    PairReady,
    RetireEpoch,
    SendPair,
)
from mesh.names import PeerName
from mesh.wire.cipher import Cipher, Offer
from mesh.wire.pair import (
    Done,
    NoiseStep,
    PairMessage,
    Ready,
    Refused,
    Solicit,
    decode,
    encode,
)

if TYPE_CHECKING:
    from random import Random

ROTATE = 120.0
"""Seconds an epoch is used before the initiator makes the next, give or take a tenth."""

RETIRE = 30.0
"""Seconds an old epoch still opens what was sent under it: far above any path's delay."""

ATTEMPT = 30.0
"""Seconds after which an attempt is begun anew whose next step is not ours to repeat."""

RETRY_FIRST = 1.0
RETRY_MAX = 10.0
TRIES = 6
"""A step unanswered is repeated after 1, 2, 4 … 10 s; then the attempt is given up."""

EPOCHS = 1 << 16


@dataclass(slots=True)
class _Attempt:
    """One handshake under way."""

    epoch: int
    handshake: IdentityHandshake | None
    password_id: str
    first: bytes = b""
    """The responder's copy of message 1, to tell a repetition from another attempt."""
    again: PairMessage | None = None
    """What to repeat until it is answered, or when the other end repeats itself."""
    keys: EpochKeys | None = None
    ciphers: tuple[CipherState, CipherState] | None = None
    third: bytes = b""
    is_installed: bool = False
    tries: int = 0


class PairKeys:
    """Our end of the keys with ``remote``."""

    def __init__(
        self,
        local: Local,
        remote: PeerName,
        *,
        offer: Offer,
        kem: Kem,
        entropy: Callable[[int], bytes],
        rng: Random,
    ) -> None:
        self._local, self._remote, self._offer = local, remote, offer
        self._kem, self._entropy, self._rng = kem, entropy, rng
        self.initiator = local.identity.name < remote
        self.active: int | None = None
        self._attempt: _Attempt | None = None
        # A random start: an epoch of an earlier life of ours must not meet one of this life.
        self._next_epoch = rng.randrange(1, EPOCHS)
        self._retry_at: Instant | None = None
        self._renew_at: Instant | None = None
        self._theirs: set[int] = set()
        """The epoch that the other end said it uses, and the one it may use since."""
        self._installed: dict[int, Instant | None] = {}
        """Epochs the worker has, and when each is retired."""
        self._failures = 0
        self._password = 0
        self._begun_at: Instant | None = None

    def use(self, local: Local) -> None:
        """Say this of ourselves, and use its passwords, from the next handshake on."""
        self._local = local
        self._password = 0

    # ---- inputs

    def start(self, now: Instant) -> list[PairEffect]:
        """Get keys: begin as the initiator, solicit as the responder."""
        effects: list[PairEffect] = []
        if self.initiator:
            self._begin(effects, now)
        else:
            self._solicit(effects, now)
        return self._end(effects, now)

    def receive(self, message: bytes, now: Instant) -> list[PairEffect]:
        """A message of the other end; what is wrong with it changes nothing but the attempt."""
        effects: list[PairEffect] = []
        try:
            match decode(message):
                case Solicit() if self.initiator:
                    self._solicited(effects, now)
                case NoiseStep(step=1) as step if not self.initiator:
                    self._respond(step, effects, now)
                case NoiseStep(step=2) as step if self.initiator:
                    self._conclude(step, effects, now)
                case NoiseStep(step=3) as step if not self.initiator:
                    self._accept(step, effects)
                case Ready() as ready if self.initiator:
                    self._ready(ready, effects, now)
                case Done(epoch) if not self.initiator:
                    if epoch == self.active:
                        self._theirs = {epoch}
                case Refused(epoch, reason):
                    if self._attempt is not None and self._attempt.epoch == epoch:
                        self._refused(understood(reason.encode()), effects, now)
                case _:
                    pass
        except MalformedMessageError:
            effects.append(Notify(PairFailed(Refusal.MALFORMED)))
        except RefusedError as err:
            if self._attempt is not None:
                effects.append(SendPair(encode(Refused(self._attempt.epoch, err.word))))
            self._fail(err.word, effects, now)
        return self._end(effects, now)

    def installed(self, epoch: int, now: Instant) -> list[PairEffect]:
        """The worker can open what comes under this epoch."""
        effects: list[PairEffect] = []
        attempt = self._attempt
        if attempt is None or attempt.epoch != epoch or attempt.is_installed:
            return []
        attempt.is_installed = True
        if self.initiator:
            attempt.again = self._step(attempt, 3, attempt.third)
            attempt.tries = 0
            self._theirs.add(epoch)
            self._renew_at = None
            self._repeat(effects, now)
        else:
            assert attempt.ciphers is not None
            sealed = attempt.ciphers[0].encrypt(b"ready", b"")
            attempt.again = Ready(epoch, sealed)
            self._activate(attempt, effects, now)
            effects.append(SendPair(encode(attempt.again)))
        return self._end(effects, now)

    def handle_timer(self, now: Instant) -> list[PairEffect]:
        effects: list[PairEffect] = []
        if self._renew_at is not None and now >= self._renew_at:
            self._renew_at = None
            if self.initiator:
                self._begin(effects, now)
            else:
                self._solicit(effects, now)
        elif self._retry_at is not None and now >= self._retry_at:
            self._repeat(effects, now)
        return self._end(effects, now)

    # ---- the initiator

    def _begin(self, effects: list[PairEffect], now: Instant) -> None:
        ids = self._local.passwords.ids
        attempt = _Attempt(self._next_epoch, None, ids[self._password] if ids else "")
        self._next_epoch = self._next_epoch % (EPOCHS - 1) + 1
        self._begun_at = now
        handshake = self._handshake(attempt.epoch, attempt.password_id)
        attempt.handshake = handshake
        attempt.again = self._step(attempt, 1, handshake.write())
        self._attempt = attempt
        self._renew_at = None
        self._repeat(effects, now)

    def _solicited(self, effects: list[PairEffect], now: Instant) -> None:
        """Begin, unless we just did: a peer that asks all the time gets no more for it.

        A peer that asks while our first message is out was not ready when that came.
        """
        attempt = self._attempt
        recent = self._begun_at is not None and now - self._begun_at < RETRY_FIRST
        if attempt is None:
            if not recent:
                self._begin(effects, now)
        elif attempt.tries == 1 and not attempt.third:
            self._repeat(effects, now)

    def _conclude(self, step: NoiseStep, effects: list[PairEffect], now: Instant) -> None:
        attempt = self._attempt
        if attempt is None or attempt.epoch != step.epoch or attempt.third:
            return
        assert attempt.handshake is not None
        attempt.handshake.read(step.body)
        cipher = agree(self._offer, self._check_identity(attempt.handshake))
        attempt.third = attempt.handshake.write(said(self._offer, cipher))
        self._theirs = {step.active}
        # The wait is for the worker now; the other end has nothing to repeat.
        self._renew_at = Instant(now + ATTEMPT)
        self._install(attempt, cipher, effects)

    def _ready(self, ready: Ready, effects: list[PairEffect], now: Instant) -> None:
        attempt = self._attempt
        if attempt is None or attempt.epoch != ready.epoch or not attempt.is_installed:
            return
        assert attempt.ciphers is not None
        try:
            attempt.ciphers[1].decrypt(b"ready", ready.sealed)
        except NoiseError as err:
            raise RefusedError(Refusal.HANDSHAKE_FAILED) from err
        self._attempt, self._retry_at = None, None
        self._theirs = {attempt.epoch}
        self._activate(attempt, effects, now)
        effects.append(SendPair(encode(Done(attempt.epoch))))

    # ---- the responder

    def _solicit(self, effects: list[PairEffect], now: Instant) -> None:
        self._attempt = _Attempt(0, None, "", again=Solicit())
        self._repeat(effects, now)

    def _respond(self, step: NoiseStep, effects: list[PairEffect], now: Instant) -> None:
        attempt = self._attempt
        if attempt is not None and attempt.first == step.body and attempt.again is not None:
            effects.append(SendPair(encode(attempt.again)))
            return
        attempt = self._attempt = _Attempt(step.epoch, None, step.password_id, first=step.body)
        self._retry_at = None
        handshake = attempt.handshake = self._handshake(step.epoch, step.password_id)
        handshake.read(step.body)
        self._theirs = {step.active}
        attempt.again = self._step(attempt, 2, handshake.write(said(self._offer)))
        effects.append(SendPair(encode(attempt.again)))
        # The initiator repeats itself; if it falls silent for good, we solicit again.
        self._renew_at = Instant(now + ATTEMPT)

    def _accept(self, step: NoiseStep, effects: list[PairEffect]) -> None:
        attempt = self._attempt
        if attempt is None or attempt.epoch != step.epoch or attempt.handshake is None:
            effects.append(SendPair(encode(Refused(step.epoch, Refusal.UNKNOWN_EPOCH))))
            return
        if attempt.keys is not None:
            if isinstance(attempt.again, Ready):
                effects.append(SendPair(encode(attempt.again)))
            return
        attempt.handshake.read(step.body)
        cipher = confirm(self._offer, self._check_identity(attempt.handshake))
        self._install(attempt, cipher, effects)

    # ---- both

    def _step(self, attempt: _Attempt, step: int, body: bytes) -> NoiseStep:
        return NoiseStep(attempt.epoch, step, self.active or 0, attempt.password_id, body)

    def _handshake(self, epoch: int, password_id: str) -> IdentityHandshake:
        """The handshake for an epoch; RefusedError when we lack that password."""
        psk = None
        if password_id:
            psk = self._local.passwords.psk(password_id)
            if psk is None:
                known = bool(self._local.passwords)
                raise RefusedError(
                    Refusal.PASSWORD_ID_UNKNOWN if known else Refusal.PASSWORD_MISSING
                )
        elif self._local.passwords:
            raise RefusedError(Refusal.PASSWORD_UNEXPECTED)
        names = [self._local.identity.name.octets, self._remote.octets]
        parts = [b"weaver pair v1", *sorted(names), epoch.to_bytes(2, "big"), password_id.encode()]
        return IdentityHandshake(
            self._local,
            initiator=self.initiator,
            prologue=b"".join(parts),
            psk=psk,
            kem=self._kem,
            entropy=self._entropy,
        )

    def _check_identity(self, handshake: IdentityHandshake) -> dict[str, str]:
        """What the other end said of itself, once it is who it should be."""
        assert handshake.hello is not None
        if PeerName.of(handshake.hello.public_key) != self._remote:
            raise RefusedError(Refusal.BAD_IDENTITY)
        return dict(handshake.hello.features)

    def _install(self, attempt: _Attempt, cipher: Cipher, effects: list[PairEffect]) -> None:
        handshake = attempt.handshake
        assert handshake is not None
        labels = (b"to responder", b"to initiator")
        tx, rx = labels if self.initiator else labels[::-1]
        tags = {label: handshake.export(b"tag " + label)[:4] for label in labels}
        attempt.keys = EpochKeys(
            epoch=attempt.epoch,
            cipher=cipher,
            rx_key=handshake.export(b"key %s %s" % (cipher.encode(), rx)),
            tx_key=handshake.export(b"key %s %s" % (cipher.encode(), tx)),
            rx_tag=int.from_bytes(tags[rx], "big"),
            tx_tag=int.from_bytes(tags[tx], "big"),
        )
        attempt.ciphers = handshake.split()
        self._retry_at = None
        self._installed[attempt.epoch] = None
        effects.append(InstallEpoch(attempt.keys))

    def _activate(self, attempt: _Attempt, effects: list[PairEffect], now: Instant) -> None:
        assert attempt.keys is not None
        epoch = self.active = attempt.epoch
        self._failures = self._password = 0
        wait = ROTATE * (0.9 + 0.2 * self._rng.random())
        # The responder waits longer: it renews only when the initiator has forgotten to.
        self._renew_at = Instant(now + (wait if self.initiator else wait * 1.5))
        effects += [ActivateEpoch(epoch), Notify(PairReady(epoch, attempt.keys.cipher))]

    def _repeat(self, effects: list[PairEffect], now: Instant) -> None:
        attempt = self._attempt
        if attempt is None or attempt.again is None:
            self._retry_at = None
            return
        if attempt.tries >= TRIES:
            self._fail(Refusal.PAIR_TIMEOUT, effects, now)
            return
        wait = min(RETRY_FIRST * 2**attempt.tries, RETRY_MAX)
        attempt.tries += 1
        self._retry_at = Instant(now + wait)
        effects.append(SendPair(encode(attempt.again)))

    def _fail(self, reason: str, effects: list[PairEffect], now: Instant) -> None:
        """Give the attempt up, not what works already; try again after a while."""
        self._attempt, self._retry_at = None, None
        self._failures = min(self._failures + 1, 16)
        wait = min(RETRY_FIRST * 2**self._failures, ROTATE / 2)
        self._renew_at = Instant(now + wait * (0.75 + 0.5 * self._rng.random()))
        effects.append(Notify(PairFailed(reason)))

    def _refused(self, reason: Refusal, effects: list[PairEffect], now: Instant) -> None:
        """The other end gave the attempt up; a password it does not know is not our only one."""
        if reason is Refusal.PASSWORD_ID_UNKNOWN and self.initiator:
            if self._password + 1 < len(self._local.passwords.ids):
                self._password += 1
                self._begin(effects, now)
                return
            self._password = 0
        self._fail(MIRROR.get(reason, reason), effects, now)

    def _end(self, effects: list[PairEffect], now: Instant) -> list[PairEffect]:
        """The end of every input: retire what nobody can need any more, arm for the rest."""
        needed = self._theirs | {self.active}
        if self._attempt is not None:
            needed.add(self._attempt.epoch)
        for epoch, when in list(self._installed.items()):
            if epoch in needed:
                self._installed[epoch] = None
            elif when is None:
                self._installed[epoch] = Instant(now + RETIRE)
            elif when <= now:
                del self._installed[epoch]
                effects.append(RetireEpoch(epoch))
        wishes = [self._retry_at, self._renew_at, *self._installed.values()]
        effects.append(Arm(min((w for w in wishes if w is not None), default=None)))
        return effects

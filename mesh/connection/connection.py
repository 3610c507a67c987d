"""One control connection, sans I/O: header, handshake, sealed messages, good-bye.

Who drives it: ``mesh.router.neighbours``.

    EXPECT_HEADER --their header--> HANDSHAKE --message 3--> EXPECT_CONFIRM (initiator)
          |                            |                          |
          |                            `--message 3 opens, responder confirms--> ESTABLISHED
          `---- anything wrong, the deadline, the stream's end ----> CLOSED <------'

Invariants: Close is returned exactly once, and nothing after it; Established at most once, and
Received only between the two. A refusal tells the other end its reason before it closes: in clear
until the Noise handshake is over on our side, sealed from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from mesh.clock import Instant
from mesh.connection.handshake import IdentityHandshake, Local, RefusedError, Remote
from mesh.connection.reasons import MIRROR, Refusal, understood
from mesh.crypto.kem import Kem
from mesh.crypto.noise import CipherState, NoiseError
from mesh.crypto.records import RecordForgedError, RecordReader, RecordTooLargeError, RecordWriter
from mesh.effects import Arm, Close, Notify, Send
from mesh.errors import MalformedMessageError, MisuseError
from mesh.names import PeerName
from mesh.wire.handshake import (
    FIXED_SIZE,
    FRAME_HEADER,
    MAGIC,
    MAX_FRAME,
    VERSION,
    FrameKind,
    Header,
    frame,
)

__all__ = ["Connection", "Established", "Local", "Received", "Remote"]

HEADER_TIMEOUT = 10.0
"""Seconds for the whole handshake. Long enough for lost segments and a slow peer; short enough
that a port scanner does not hold memory for minutes."""

CONFIRM_AD = b"confirm"
"""Additional data of CONFIRM, so that no record can pass for it."""

GOODBYE = b"\0"
"""First octet of a message that ends the connection; the reason follows as text. Messages of the
router begin with a kind from 1 up (``mesh.wire.control``)."""


@dataclass(frozen=True, slots=True)
class Established:
    remote: Remote


@dataclass(frozen=True, slots=True)
class Received:
    message: bytes


ConnectionEffect = Send | Arm | Close | Notify[Established] | Notify[Received]


class State(Enum):
    IDLE = auto()
    EXPECT_HEADER = auto()
    HANDSHAKE = auto()
    EXPECT_CONFIRM = auto()
    ESTABLISHED = auto()
    CLOSED = auto()


class Connection:
    """Our end of one TCP stream."""

    def __init__(
        self,
        local: Local,
        *,
        outbound: bool,
        kem: Kem,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._local, self._outbound, self._kem, self._entropy = local, outbound, kem, entropy
        self.state = State.IDLE
        self.refused_by_peer = False
        self._buffer = bytearray()
        self._deadline: Instant | None = None
        self._header = Header(VERSION, VERSION, local.passwords.ids)
        self._handshake: IdentityHandshake | None = None
        self._password_id: str | None = None
        self._version = VERSION
        self._ciphers: tuple[CipherState, CipherState] | None = None
        self._writer: RecordWriter | None = None
        self._reader: RecordReader | None = None

    # ---- inputs

    def start(self, now: Instant) -> list[ConnectionEffect]:
        """The stream is open: say who we are."""
        if self.state is not State.IDLE:
            raise MisuseError(f"start() in {self.state.name}")
        self.state = State.EXPECT_HEADER
        self._deadline = Instant(now + HEADER_TIMEOUT)
        return [Send(self._header.encode()), Arm(self._deadline)]

    def receive_data(self, data: bytes, now: Instant) -> list[ConnectionEffect]:
        """Feed octets as the stream yields them, in pieces of any size."""
        if self.state in (State.IDLE, State.CLOSED):
            return []
        effects: list[ConnectionEffect] = []
        try:
            if self.state is not State.ESTABLISHED:
                self._buffer += data
                data = b""
                while self._advance(effects, now):
                    pass
            if self.state is State.ESTABLISHED:
                self._feed(data, effects)
        except RefusedError as err:
            effects += self._refuse(err.word, now)
        except (MalformedMessageError, RecordTooLargeError, RecordForgedError) as err:
            effects += self._refuse(err.reason, now)
        return effects

    def receive_eof(self, now: Instant) -> list[ConnectionEffect]:
        if self.state is State.CLOSED:
            return []
        return self._end(Refusal.STREAM_ENDED)

    def handle_timer(self, now: Instant) -> list[ConnectionEffect]:
        if self.state in (State.CLOSED, State.ESTABLISHED) or self._deadline is None:
            return []
        return self._refuse(Refusal.HEADER_TIMEOUT, now) if now >= self._deadline else []

    # ---- orders

    def send(self, message: bytes, now: Instant) -> list[ConnectionEffect]:
        """Seal one message; silently nothing when the connection is closed already."""
        if self.state is State.CLOSED:
            return []
        if self._writer is None or self.state is not State.ESTABLISHED:
            raise MisuseError(f"send() in {self.state.name}")
        return [Send(self._writer.seal(message, now))]

    def close(self, reason: str, now: Instant) -> list[ConnectionEffect]:
        """Tell the other end why, then close."""
        return [] if self.state is State.CLOSED else self._refuse(reason, now)

    # ---- inside: before it is established

    def _advance(self, effects: list[ConnectionEffect], now: Instant) -> bool:
        """Take one header or frame off the buffer; False when it is not whole yet."""
        if self.state is State.EXPECT_HEADER:
            return self._take_header(effects)
        if self.state not in (State.HANDSHAKE, State.EXPECT_CONFIRM):
            return False
        if len(self._buffer) < FRAME_HEADER:
            return False
        length = int.from_bytes(self._buffer[:2], "big")
        if length > MAX_FRAME:
            raise RefusedError(Refusal.TOO_LARGE)
        end = FRAME_HEADER + length
        if len(self._buffer) < end:
            return False
        kind, body = self._buffer[2], bytes(self._buffer[FRAME_HEADER:end])
        del self._buffer[:end]
        self._take_frame(kind, body, effects, now)
        return True

    def _take_header(self, effects: list[ConnectionEffect]) -> bool:
        # Whatever does not begin like weaver is refused at its first wrong octet.
        if len(self._buffer) < FIXED_SIZE:
            if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
                raise RefusedError(Refusal.NOT_WEAVER)
            return False
        try:
            low, high, length = Header.peek(bytes(self._buffer[:FIXED_SIZE]))
            self._choose_version(low, high)
            size = FIXED_SIZE + length
            if len(self._buffer) < size:
                return False
            other = bytes(self._buffer[:size])
            theirs = Header.decode(other)
        except MalformedMessageError as err:
            raise RefusedError(Refusal.NOT_WEAVER) from err
        del self._buffer[:size]
        self._choose_password(theirs)
        ours = self._header.encode()
        self._handshake = IdentityHandshake(
            self._local,
            initiator=self._outbound,
            prologue=ours + other if self._outbound else other + ours,
            psk=None if self._password_id is None else self._local.passwords.psk(self._password_id),
            kem=self._kem,
            entropy=self._entropy,
        )
        self.state = State.HANDSHAKE
        if self._outbound:
            effects.append(self._send_message())
        return True

    def _choose_version(self, low: int, high: int) -> None:
        """The highest that both speak; both ends come to the same."""
        self._version = min(self._header.max_version, high)
        if self._version < max(self._header.min_version, low):
            raise RefusedError(Refusal.VERSION)

    def _choose_password(self, theirs: Header) -> None:
        """The initiator's most preferred that both hold; both ends come to the same."""
        ours = self._header
        if ours.password_ids and not theirs.password_ids:
            raise RefusedError(Refusal.PASSWORD_UNEXPECTED)
        if theirs.password_ids and not ours.password_ids:
            raise RefusedError(Refusal.PASSWORD_MISSING)
        first, second = (ours, theirs) if self._outbound else (theirs, ours)
        common = [id for id in first.password_ids if id in second.password_ids]
        if ours.password_ids and not common:
            raise RefusedError(Refusal.PASSWORD_ID_UNKNOWN)
        self._password_id = common[0] if common else None

    def _take_frame(
        self, kind: int, body: bytes, effects: list[ConnectionEffect], now: Instant
    ) -> None:
        handshake = self._handshake
        assert handshake is not None
        if kind == FrameKind.ALERT:
            effects += self._refused(body)
        elif kind == FrameKind.HANDSHAKE and self.state is State.HANDSHAKE:
            handshake.read(body)
            if not handshake.is_finished:
                effects.append(self._send_message())
            if handshake.is_finished:
                self._ciphers = handshake.split()
                self._writer = RecordWriter(self._ciphers[0], now)
                if self._outbound:
                    self.state = State.EXPECT_CONFIRM
                else:
                    confirm = self._ciphers[0].encrypt(CONFIRM_AD, b"")
                    effects.append(Send(frame(FrameKind.CONFIRM, confirm)))
                    self._establish(effects)
        elif kind == FrameKind.CONFIRM and self.state is State.EXPECT_CONFIRM:
            assert self._ciphers is not None
            try:
                self._ciphers[1].decrypt(CONFIRM_AD, body)
            except NoiseError as err:
                raise RefusedError(Refusal.HANDSHAKE_FAILED) from err
            self._establish(effects)
        else:
            raise RefusedError(Refusal.MALFORMED)

    def _send_message(self) -> Send:
        assert self._handshake is not None
        return Send(frame(FrameKind.HANDSHAKE, self._handshake.write()))

    def _establish(self, effects: list[ConnectionEffect]) -> None:
        handshake, ciphers = self._handshake, self._ciphers
        assert handshake is not None
        assert handshake.hello is not None
        assert ciphers is not None
        hello = handshake.hello
        self._reader = RecordReader(ciphers[1])
        self.state = State.ESTABLISHED
        self._deadline = None
        remote = Remote(
            name=PeerName.of(hello.public_key),
            public_key=hello.public_key,
            uid=hello.uid,
            nickname=hello.nickname,
            port=hello.port,
            probe_port=hello.probe_port,
            sleeve_port=hello.sleeve_port,
            features=dict(hello.features),
            password_id=self._password_id,
            version=self._version,
            key=handshake.export(b"probe"),
            handshake_hash=handshake.handshake_hash,
        )
        self._handshake = None
        effects += [Arm(None), Notify(Established(remote))]

    # ---- inside: established, and the end

    def _feed(self, data: bytes, effects: list[ConnectionEffect]) -> None:
        assert self._reader is not None
        if self._buffer:
            data, self._buffer = bytes(self._buffer) + data, bytearray()
        for message in self._reader.feed(data):
            if message[:1] == GOODBYE:
                effects += self._refused(message[1:])
                return
            if message:
                effects.append(Notify(Received(message)))

    def _refuse(self, reason: str, now: Instant) -> list[ConnectionEffect]:
        """Close, and say why: in clear while nothing sealed would be understood."""
        if self._writer is None:
            said = frame(FrameKind.ALERT, reason.encode())
        else:
            said = self._writer.seal(GOODBYE + reason.encode(), now)
        return [Send(said), *self._end(reason)]

    def _refused(self, word: bytes) -> list[ConnectionEffect]:
        """The other end closes, and says why."""
        self.refused_by_peer = True
        reason = understood(word)
        return self._end(MIRROR.get(reason, reason))

    def _end(self, reason: str) -> list[ConnectionEffect]:
        self.state = State.CLOSED
        self._buffer = bytearray()
        self._handshake = None
        return [Arm(None), Close(reason)]

"""Sealed records of an established control connection (docs/protocol.md 3).

::

     0         2        2 + length
    +---------+----------------------------------------+
    | length  | sealed: kind u8 | part of a message    |
    +---------+----------------------------------------+

    kind: 0 a message ends here, 1 more of it follows, 2 the next record has a new key

The n-th record of a direction is sealed under counter n of its key: a record that was dropped,
repeated, reordered or altered does not open. Keys change by Noise REKEY after a REKEY record.
The length is the additional data, so it cannot be altered either.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from mesh.clock import Instant
from mesh.crypto.noise import CipherState, NoiseError
from mesh.errors import MalformedMessageError, MisuseError, PeerError

MAX_PLAIN = 32 * 1024
"""Octets of a message in one record: the receiver never buffers much more than one of them."""

TAG_SIZE = 16
LENGTH_SIZE = 2
MAX_SEALED = 1 + MAX_PLAIN + TAG_SIZE

MAX_MESSAGE = 10 * 1024 * 1024
"""Octets of one message, over all its records."""

REKEY_RECORDS = 1 << 15
REKEY_SECONDS = 120.0
"""A key begins no message after so many records (1 GiB) or seconds: what is stolen from memory
tells nothing of two minutes ago."""


class RecordForgedError(PeerError):
    reason = "record-forged"


class RecordTooLargeError(PeerError):
    reason = "record-too-large"


class RecordKind(IntEnum):
    LAST = 0
    MORE = 1
    REKEY = 2


class RecordWriter:
    """Seals the messages of one direction."""

    def __init__(self, cipher: CipherState, now: Instant) -> None:
        self._cipher = cipher
        self._key_since = now

    def seal(self, message: bytes, now: Instant) -> bytes:
        """The records of one message, and of a change of key before it when one is due."""
        if len(message) > MAX_MESSAGE:
            raise MisuseError(f"a message of {len(message)} octets, at most {MAX_MESSAGE} go")
        out: list[bytes] = []
        cipher = self._cipher
        if cipher.counter >= REKEY_RECORDS or now - self._key_since >= REKEY_SECONDS:
            out.append(self._record(RecordKind.REKEY, b""))
            cipher.rekey()
            cipher.counter = 0
            self._key_since = now
        last = max(0, (len(message) - 1) // MAX_PLAIN)
        for n in range(last + 1):
            kind = RecordKind.LAST if n == last else RecordKind.MORE
            out.append(self._record(kind, message[n * MAX_PLAIN : (n + 1) * MAX_PLAIN]))
        return b"".join(out)

    def _record(self, kind: RecordKind, part: bytes) -> bytes:
        length = (1 + len(part) + TAG_SIZE).to_bytes(LENGTH_SIZE, "big")
        return length + self._cipher.encrypt(length, bytes((kind,)) + part)


class RecordReader:
    """Opens the records of one direction, fed in pieces of any size."""

    def __init__(self, cipher: CipherState) -> None:
        self._cipher = cipher
        self._buffer = bytearray()
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the messages that are whole now; to be exhausted before the next call.

        Raises RecordForgedError, RecordTooLargeError or MalformedMessageError behind the last
        good message; the stream is unusable after any of them.
        """
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= LENGTH_SIZE:
            prefix = bytes(self._buffer[at : at + LENGTH_SIZE])
            length = int.from_bytes(prefix, "big")
            if length > MAX_SEALED:
                raise RecordTooLargeError(f"a record of {length} octets")
            if length < 1 + TAG_SIZE:
                raise RecordForgedError(f"a record of {length} octets")
            end = at + LENGTH_SIZE + length
            if end > len(self._buffer):
                break
            message = self._open(prefix, bytes(self._buffer[at + LENGTH_SIZE : end]))
            if message is not None:
                yield message
            at = end
        del self._buffer[:at]

    def _open(self, length: bytes, sealed: bytes) -> bytes | None:
        """Open one record; the message that it completes, if it does."""
        try:
            plain = self._cipher.decrypt(length, sealed)
        except NoiseError as err:
            raise RecordForgedError("a record does not open") from err
        kind, part = plain[0], plain[1:]
        if kind == RecordKind.REKEY and not part:
            self._cipher.rekey()
            self._cipher.counter = 0
            return None
        # Only a full record may have more behind it: empty ones would pile up for ever.
        if kind != RecordKind.LAST and (kind != RecordKind.MORE or len(part) != MAX_PLAIN):
            raise MalformedMessageError(f"a record of kind {kind} with {len(part)} octets")
        self._size += len(part)
        if self._size > MAX_MESSAGE:
            raise RecordTooLargeError(f"a message of more than {MAX_MESSAGE} octets")
        self._parts.append(part)
        if kind == RecordKind.MORE:
            return None
        message = b"".join(self._parts)
        self._parts, self._size = [], 0
        return message

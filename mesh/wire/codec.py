"""Octets in, octets out: the two small tools every codec of the wire is made of.

Integers are unsigned and big-endian. ``Reader`` raises ``MalformedMessageError`` and nothing
else, whatever it is fed, and never reads past its end; a length is checked before the octets
behind it are touched, so no declared size makes us allocate.
"""

from __future__ import annotations

from mesh.errors import MalformedMessageError
from mesh.names import NAME_SIZE, PeerName


class Writer:
    """Collects fields into one message."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def uint(self, value: int, size: int) -> Writer:
        """Append an unsigned integer of ``size`` octets."""
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def u8(self, value: int) -> Writer:
        return self.uint(value, 1)

    def u16(self, value: int) -> Writer:
        return self.uint(value, 2)

    def u32(self, value: int) -> Writer:
        return self.uint(value, 4)

    def u64(self, value: int) -> Writer:
        return self.uint(value, 8)

    def raw(self, data: bytes) -> Writer:
        """Append octets whose length the reader knows."""
        self._parts.append(data)
        return self

    def block(self, data: bytes, *, size: int = 2) -> Writer:
        """Append octets behind their length, which takes ``size`` octets itself."""
        return self.uint(len(data), size).raw(data)

    def text(self, value: str) -> Writer:
        """Append UTF-8 text behind a 2-octet length in octets."""
        return self.block(value.encode())

    def name(self, value: PeerName) -> Writer:
        return self.raw(value.octets)

    def done(self) -> bytes:
        return b"".join(self._parts)


class Reader:
    """Takes fields off the front of one message."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = bytes(data)
        self._at = 0

    @property
    def remaining(self) -> int:
        """Octets not read yet."""
        return len(self._data) - self._at

    def raw(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedMessageError(
                f"{size} octets wanted at {self._at}, {self.remaining} left"
            )
        data = self._data[self._at : end]
        self._at = end
        return data

    def uint(self, size: int) -> int:
        return int.from_bytes(self.raw(size), "big")

    def u8(self) -> int:
        return self.uint(1)

    def u16(self) -> int:
        return self.uint(2)

    def u32(self) -> int:
        return self.uint(4)

    def u64(self) -> int:
        return self.uint(8)

    def block(self, *, size: int = 2, limit: int | None = None) -> bytes:
        """Octets behind a length of ``size`` octets; refuse more than ``limit`` of them."""
        length = self.uint(size)
        if limit is not None and length > limit:
            raise MalformedMessageError(f"block of {length} octets, at most {limit} allowed")
        return self.raw(length)

    def text(self, *, limit: int = 1024) -> str:
        try:
            return self.block(limit=limit).decode()
        except UnicodeDecodeError as err:
            raise MalformedMessageError("text is not UTF-8") from err

    def name(self) -> PeerName:
        return PeerName(self.raw(NAME_SIZE))

    def rest(self) -> bytes:
        return self.raw(self.remaining)

    def end(self) -> None:
        """Insist that everything was read."""
        if self.remaining:
            raise MalformedMessageError(f"{self.remaining} octets behind the end of the message")

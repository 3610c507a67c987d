"""The error hierarchy. Who is at fault decides the class; the class decides the reaction."""

from __future__ import annotations

from typing import ClassVar


class WeaverError(Exception):
    """Base of every error this project raises on purpose.

    ``reason`` is a stable word: the same in logs, metrics, status, HTTP answers and tests.
    """

    reason: ClassVar[str] = "error"


class PeerError(WeaverError):
    """A peer sent something it must not. Its message is refused; the daemon lives."""

    reason = "protocol-violation"


class MalformedMessageError(PeerError):
    """Octets that do not decode. Raised by codecs, and nothing else is."""

    reason = "malformed-message"


class MisuseError(WeaverError):
    """Our own code drove a state machine in an order it forbids. A bug: never caught."""

    reason = "misuse"


class OperatorError(WeaverError):
    """Bad configuration or an impossible request; shown as one line without a traceback."""

    reason = "bad-request"

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason  # type: ignore[misc]  # an instance may name a narrower word

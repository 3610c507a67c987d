"""Why a connection was refused or ended: one stable word each, and the words for people."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    WRONG_PASSWORD = "wrong-password"  # noqa: S105
    PASSWORD_MISSING = "password-missing"  # noqa: S105
    PASSWORD_UNEXPECTED = "password-unexpected"  # noqa: S105
    PASSWORD_ID_UNKNOWN = "password-id-unknown"  # noqa: S105
    VERSION = "version-mismatch"
    NOT_WEAVER = "not-weaver"
    SELF = "own-address"
    CLONE = "cloned-identity"
    LIMIT = "connection-limit"
    DUPLICATE = "duplicate-connection"
    FORGOTTEN = "forgotten"
    HEADER_TIMEOUT = "header-timeout"
    STREAM_ENDED = "stream-ended"
    BAD_IDENTITY = "bad-identity"
    HANDSHAKE_FAILED = "handshake-failed"
    MALFORMED = "malformed-message"
    RECORD_FORGED = "record-forged"
    TOO_LARGE = "record-too-large"
    SILENT = "peer-silent"
    NOT_READING = "peer-not-reading"
    RESTARTED = "peer-restarted"
    SHUTDOWN = "shutting-down"
    BUSY = "too-many-attempts"
    PAIR_TIMEOUT = "pair-timeout"
    UNKNOWN_EPOCH = "unknown-epoch"
    NO_COMMON_CIPHER = "no-common-cipher"
    UNKNOWN_CIPHER = "unknown-cipher"
    CIPHER_MISMATCH = "cipher-mismatch"
    REFUSED = "refused"


_OURS: dict[str, str] = {
    Refusal.WRONG_PASSWORD: "the other end's password is not ours; give both the same",
    Refusal.PASSWORD_MISSING: "the other end has a password and we have none; start with"
    " --password-file",
    Refusal.PASSWORD_UNEXPECTED: "we have a password and the other end has none; start it with"
    " --password-file",
    Refusal.PASSWORD_ID_UNKNOWN: "no password id is known to both ends; give them one in common",
    Refusal.VERSION: "the two ends speak no version in common; upgrade the older one",
    Refusal.NOT_WEAVER: "whatever answers there is not weaver",
    Refusal.SELF: "that address is our own",
    Refusal.CLONE: "two running hosts have one identity, as a copied disk has; on one of the two"
    " stop weaver, remove the file identity from its state directory and start it again",
    Refusal.LIMIT: "the limit of connections is reached; raise --conn-limit",
    Refusal.DUPLICATE: "the two ends are connected already",
    Refusal.FORGOTTEN: "the operator told us to forget that address",
    Refusal.HEADER_TIMEOUT: "the handshake was not finished in time",
    Refusal.STREAM_ENDED: "the connection was closed without a reason",
    Refusal.BAD_IDENTITY: "the other end could not prove its identity",
    Refusal.HANDSHAKE_FAILED: "the handshake did not open; somebody altered it",
    Refusal.MALFORMED: "the other end sent octets that mean nothing",
    Refusal.RECORD_FORGED: "a record did not open; somebody altered or replayed it",
    Refusal.TOO_LARGE: "a record or message was larger than allowed",
    Refusal.SILENT: "nothing was heard of the peer, and nobody vouched for it",
    Refusal.NOT_READING: "the peer left what we sent unread for a minute",
    Refusal.RESTARTED: "the peer started again",
    Refusal.SHUTDOWN: "the daemon was stopped",
    Refusal.BUSY: "too many connections were being opened at once; it is tried again",
    Refusal.PAIR_TIMEOUT: "the peer did not answer while end-to-end keys were made",
    Refusal.UNKNOWN_EPOCH: "the peer lost the keys that were being made, as after a restart",
    Refusal.NO_COMMON_CIPHER: "no cipher of the data path is known to both ends; start both with"
    " --cipher auto, or with the same",
    Refusal.UNKNOWN_CIPHER: "the initiator chose a cipher that the other end does not offer",
    Refusal.CIPHER_MISMATCH: "the two ends came to different ciphers; upgrade the older one",
    Refusal.REFUSED: "for a reason that this version has no word for",
    "connection-refused": "nothing listens there",
    "unreachable": "the network has no way there",
    "timed-out": "nothing answered in time",
    "name-not-found": "the name does not resolve",
}

MIRROR: dict[str, str] = {
    Refusal.PASSWORD_MISSING: Refusal.PASSWORD_UNEXPECTED,
    Refusal.PASSWORD_UNEXPECTED: Refusal.PASSWORD_MISSING,
}
"""What the other end's reason is called from our side, where the two differ."""


def understood(word: bytes) -> Refusal:
    """The reason that the other end gives, if it is one of ours.

    Anything else becomes "refused": reasons are counted, so a stranger must not coin them.
    """
    try:
        return Refusal(word.decode("ascii"))
    except ValueError:
        return Refusal.REFUSED


def explain(reason: str, by_peer: bool) -> str:
    """Words for people, with what to do about it. Unknown reasons explain themselves."""
    words = _OURS.get(reason, reason)
    return f"said by the other end: {words}" if by_peer and reason not in MIRROR else words

"""CNI's error codes (SPEC.md section 5, "Error") and how ours map to them."""

from __future__ import annotations

from enum import IntEnum

from mesh.errors import OperatorError


class Code(IntEnum):
    VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    ENVIRONMENT = 4
    IO = 5
    DECODE = 6
    BAD_CONFIG = 7
    BAD_NETNS = 8
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    LIMITED = 51
    INTERNAL = 999
    KERNEL = 100
    NO_ADDRESS = 101
    CHECK_FAILED = 102
    DELEGATE = 103


class CniError(Exception):
    """One error result."""

    def __init__(self, code: Code, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.details = code, details


_CODES = {
    "netns-missing": Code.INTERNAL,
    "netns-invalid": Code.BAD_NETNS,
    "netns-own": Code.BAD_NETNS,
    "no-space": Code.NO_ADDRESS,
    "no-quorum": Code.TRY_AGAIN,
    "starting": Code.TRY_AGAIN,
    "bad-address": Code.BAD_CONFIG,
    "address-outside-range": Code.BAD_CONFIG,
    "address-in-use": Code.NO_ADDRESS,
    "not-our-space": Code.NO_ADDRESS,
    "address-reserved": Code.NO_ADDRESS,
}


def explained(err: OperatorError) -> CniError:
    """An error of ours as CNI says it."""
    return CniError(_CODES.get(err.reason, Code.KERNEL), str(err), err.reason)

"""CNI's error codes (SPEC.md section 5, "Error") and how ours map to them."""

from __future__ import annotations

from enum import IntEnum

from mesh.errors import OperatorError


class Code(IntEnum):
    """1 to 99 are the specification's (8 is its Go library's), 100 and above are ours."""

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
    KERNEL = 100
    NO_ADDRESS = 101
    CHECK_FAILED = 102
    DELEGATE = 103
    EXISTS = 104
    INTERNAL = 999


class CniError(Exception):
    """One error result. ``code`` is a Code, or what a delegated plugin said."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code, self.details = int(code), details


_CODES = {
    "netns-missing": Code.BAD_NETNS,
    "netns-invalid": Code.BAD_NETNS,
    "netns-own": Code.BAD_NETNS,
    "interface-exists": Code.EXISTS,
    "no-space": Code.NO_ADDRESS,
    "address-in-use": Code.NO_ADDRESS,
    "not-our-space": Code.NO_ADDRESS,
    "address-reserved": Code.NO_ADDRESS,
    "address-excluded": Code.NO_ADDRESS,
    "key-in-use": Code.NO_ADDRESS,
    "bad-address": Code.BAD_CONFIG,
    "address-outside-range": Code.BAD_CONFIG,
    "bad-mtu": Code.BAD_CONFIG,
    "bad-range": Code.BAD_CONFIG,
    "unknown-range": Code.BAD_CONFIG,
    "too-many-addresses": Code.UNSUPPORTED_FIELD,
    "no-quorum": Code.TRY_AGAIN,
    "ipam-timeout": Code.TRY_AGAIN,
    "too-many-requests": Code.TRY_AGAIN,
    "leaving": Code.TRY_AGAIN,
    "helper-failed": Code.TRY_AGAIN,
    "store-full": Code.IO,
    "store-locked": Code.IO,
    "store-unwritable": Code.IO,
    "store-corrupt": Code.IO,
}


def explained(err: OperatorError) -> CniError:
    """An error of ours as CNI says it; its reason becomes the details."""
    return CniError(_CODES.get(err.reason, Code.KERNEL), str(err), err.reason)

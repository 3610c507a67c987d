"""What the executables send: u32 length, u32 length, environment lines, configuration."""

from __future__ import annotations

from weaver.cni.config import MAX_STDIN
from weaver.cni.errors import CniError, Code

HEAD = 8
MAX_ENVIRON = 64 * 1024


def sizes(head: bytes) -> tuple[int, int]:
    """Octets of environment and configuration. Raises CniError for more than we take."""
    environ, stdin = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:HEAD], "big")
    if environ > MAX_ENVIRON:
        raise CniError(Code.ENVIRONMENT, f"an environment of more than {MAX_ENVIRON} octets")
    if stdin > MAX_STDIN:
        raise CniError(Code.DECODE, f"a configuration of more than {MAX_STDIN} octets")
    return environ, stdin


def environ_of(lines: bytes) -> dict[str, str]:
    pairs = (line.partition("=") for line in lines.decode(errors="replace").split("\n"))
    return {key: value for key, equals, value in pairs if equals}


def split(frame: bytes) -> tuple[dict[str, str], bytes]:
    """A whole frame's environment and configuration. Raises CniError."""
    environ, stdin = sizes(frame[:HEAD].ljust(HEAD, b"\xff"))
    if len(frame) != HEAD + environ + stdin:
        raise CniError(Code.DECODE, "not a whole frame")
    return environ_of(frame[HEAD : HEAD + environ]), frame[HEAD + environ :]

"""The identity's file: 32 octets, the seed of the Ed25519 key, readable by its owner only.

Whoever reads it can be this peer, so a file that others may read is refused, not repaired: it may
have been read already.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mesh.crypto.identity import SEED_SIZE, Identity
from mesh.errors import OperatorError

MODE = 0o600


def load_identity(path: Path) -> Identity:
    """The identity in ``path``, made there at first use.

    Raises OperatorError with the reason ``identity-mode``, ``identity-size``,
    ``identity-unreadable`` or ``identity-unwritable``.
    """
    seed = _read(path)
    if seed is None:
        seed = _create(path, os.urandom(SEED_SIZE))
    return Identity.from_seed(seed)


def _read(path: Path) -> bytes | None:
    """The seed, or None when there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise OperatorError(_said(path, "read", err), "identity-unreadable") from err
    try:
        _check(path, os.fstat(fd).st_mode)
        seed = os.read(fd, SEED_SIZE + 1)
    except OSError as err:
        raise OperatorError(_said(path, "read", err), "identity-unreadable") from err
    finally:
        os.close(fd)
    if len(seed) != SEED_SIZE:
        raise OperatorError(
            f"{path}: an identity has {SEED_SIZE} octets, this file has another length; restore it"
            " from a backup, or remove it to mint a new identity",
            "identity-size",
        )
    return seed


def _check(path: Path, mode: int) -> None:
    """Insist on a regular file that only its owner may touch."""
    if not stat.S_ISREG(mode):
        raise OperatorError(f"{path}: not a regular file", "identity-unreadable")
    if stat.S_IMODE(mode) & 0o077:
        raise OperatorError(
            f"{path}: mode {stat.S_IMODE(mode):04o} lets others use the identity; if nobody can"
            f" have, run chmod 600 {path}, else remove it to mint a new one",
            "identity-mode",
        )


def _create(path: Path, seed: bytes) -> bytes:
    """Write a new seed so that the file has either all of it or does not exist, also after a crash.

    Another process that was faster wins: its seed is returned.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            with open(fd, "wb") as file:
                file.write(seed)
                file.flush()
                os.fsync(fd)
            os.link(partial, path)  # unlike rename, never replaces a file that is there
        except FileExistsError:
            return _read(path) or seed
        finally:
            partial.unlink()
        _sync(path.parent)
    except OSError as err:
        raise OperatorError(_said(path, "write", err), "identity-unwritable") from err
    return seed


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _said(path: Path, verb: str, err: OSError) -> str:
    return f"{path}: cannot {verb} the identity: {err.strerror or err}"

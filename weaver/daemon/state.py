"""The state directory: what a peer keeps over restarts besides addresses and attachments."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from pathlib import Path
from typing import Any

from mesh.connection.maker import Target
from mesh.errors import OperatorError
from mesh.names import Endpoint, ShortID

log = logging.getLogger(__name__)

VERSION = 1
"""Of facts.json. Another is left as it is, and the daemon does not start."""


def lock(path: Path) -> int:
    """Make the directory if need be, and hold it until the descriptor is closed.

    Raises OperatorError: state-unwritable, state-in-use.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise OperatorError(f"cannot use {path}: {err.strerror}", "state-unwritable") from err
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        os.close(held)
        raise OperatorError(f"another weaver runs on {path}", "state-in-use") from err
    return held


class StateDir:
    """One daemon's directory, locked for as long as the daemon lives.

    What is remembered here only makes the next start quicker, so a disk that is full or read-only
    stops nobody: ``fault`` says so, and every later write tries again.
    """

    def __init__(self, path: Path) -> None:
        """Raises OperatorError: state-unwritable, state-in-use, state-corrupt, state-version."""
        self.path = path
        self.fault: str | None = None
        self._lock = lock(path)
        try:
            self._facts = self._load()
        except OperatorError:
            os.close(self._lock)
            raise

    def _load(self) -> dict[str, Any]:
        try:
            facts = json.loads((self.path / "facts.json").read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as err:
            raise OperatorError(f"{self.path}/facts.json: {err}", "state-corrupt") from err
        if not isinstance(facts, dict):
            raise OperatorError(f"{self.path}/facts.json is not an object", "state-corrupt")
        if (version := facts.pop("version", VERSION)) != VERSION:
            raise OperatorError(
                f"{self.path}/facts.json is of version {version!r}, this weaver knows {VERSION}",
                "state-version",
            )
        return facts

    def _set(self, key: str, value: Any) -> None:  # noqa: ANN401  # JSON
        """Remember a fact."""
        if self._facts.get(key) == value and self.fault is None:
            return
        self._facts[key] = value
        try:
            self._write()
        except OSError as err:
            if self.fault is None:
                log.warning(
                    "state not written", extra={"reason": "state-unwritable", "error": str(err)}
                )
            self.fault = f"{self.path}: {err.strerror}"
        else:
            self.fault = None

    def _write(self) -> None:
        """Whole beside the old file, then in its place."""
        new = self.path / "facts.json.new"
        with new.open("w") as file:
            json.dump({"version": VERSION, **self._facts}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / "facts.json")

    # ---- what the mesh remembers (mesh.drivers.mesh.Memory)

    def save_targets(self, targets: tuple[Target, ...]) -> None:
        self._set("targets", [[t.host, t.port] for t in targets])

    def save_short_id(self, short_id: ShortID) -> None:
        self._set("short_id", int(short_id))

    def save_nodes(self, known: dict[str, str]) -> None:
        """Peer -> node of Kubernetes on which it ran."""
        self._set("nodes", known)

    @property
    def nodes(self) -> dict[str, str]:
        known = self._facts.get("nodes") or {}
        if not isinstance(known, dict) or not all(isinstance(n, str) for n in known.values()):
            raise OperatorError(f"{self.path}/facts.json: bad nodes", "state-corrupt")
        return dict(known)

    @property
    def targets(self) -> tuple[Target, ...]:
        try:
            rows = self._facts.get("targets") or ()
            return tuple(Target.parse(str(Endpoint(host, port))) for host, port in rows)
        except (TypeError, ValueError, OperatorError) as err:
            raise OperatorError(f"{self.path}/facts.json: bad targets", "state-corrupt") from err

    @property
    def short_id(self) -> ShortID | None:
        value = self._facts.get("short_id")
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 4096:
            return None
        return ShortID(value)

    def close(self) -> None:
        os.close(self._lock)

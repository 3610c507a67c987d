"""The state directory: what a peer keeps over restarts besides addresses and attachments."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from mesh.connection.maker import Target
from mesh.errors import OperatorError
from mesh.names import ShortID


class StateDir:
    """One daemon's directory, locked for as long as the daemon lives."""

    def __init__(self, path: Path) -> None:
        """Raises OperatorError: state-unwritable, state-in-use, state-corrupt."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as err:
            raise OperatorError(f"cannot use {path}: {err.strerror}", "state-unwritable") from err
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            os.close(self._lock)
            raise OperatorError(f"another weaver runs on {path}", "state-in-use") from err
        self._facts = self._load()

    def _load(self) -> dict[str, Any]:
        try:
            facts = json.loads((self.path / "facts.json").read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as err:
            raise OperatorError(f"{self.path}/facts.json: {err}", "state-corrupt") from err
        if not isinstance(facts, dict):
            raise OperatorError(f"{self.path}/facts.json is not an object", "state-corrupt")
        return facts

    def get(self, key: str) -> Any:  # noqa: ANN401  # JSON
        return self._facts.get(key)

    def set(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Remember a fact: written whole beside the old file, then put in its place."""
        if self._facts.get(key) == value:
            return
        self._facts[key] = value
        new = self.path / "facts.json.new"
        with new.open("w") as file:
            json.dump(self._facts, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.path / "facts.json")

    # ---- what the mesh remembers (mesh.drivers.mesh.Memory)

    def save_targets(self, targets: tuple[Target, ...]) -> None:
        self.set("targets", [[t.host, t.port] for t in targets])

    def save_short_id(self, short_id: ShortID) -> None:
        self.set("short_id", int(short_id))

    @property
    def targets(self) -> tuple[Target, ...]:
        try:
            return tuple(Target(str(h), int(p)) for h, p in self._facts.get("targets") or ())
        except (TypeError, ValueError) as err:
            raise OperatorError(f"{self.path}/facts.json: bad targets", "state-corrupt") from err

    @property
    def short_id(self) -> ShortID | None:
        value = self._facts.get("short_id")
        return ShortID(value) if isinstance(value, int) and 0 < value < 4096 else None

    def close(self) -> None:
        os.close(self._lock)

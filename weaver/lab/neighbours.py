"""Room in the machine's one neighbour table while labs are up, and the old limits back after."""

from __future__ import annotations

import json
from pathlib import Path

from weaver.lab import kernel

_FILE = "neighbour-table.json"


def make_room(base: Path) -> None:
    """Raise the limits; what they were is kept beside the labs, once, whichever lab came first."""
    before = kernel.raise_neighbour_table()
    kept = base / _FILE
    if before and not kept.exists():
        kept.write_text(json.dumps(before))


def give_back(base: Path) -> None:
    """Put the limits back when the last lab is gone, and remove the empty base directory."""
    if any(entry.is_dir() for entry in base.iterdir()):
        return
    kept = base / _FILE
    if kept.exists():
        kernel.restore(json.loads(kept.read_text()))
        kept.unlink()

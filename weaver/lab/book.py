"""What a lab writes down, so that the next command finds it: one JSON file, replaced whole."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mesh.errors import OperatorError
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import Process

BASE = Path("/run/weaver-lab")
"""Beside the namespaces: both are gone after a reboot."""

LOCK_TIMEOUT = 120.0
"""Seconds one lab command waits for another: a big lab's `up` takes about a minute."""


@dataclass
class Book:
    """A lab as built: the order it came from, its daemons, its cuts, their flags."""

    order: Order
    password_file: str | None = None
    daemons: dict[str, Process] = field(default_factory=dict)
    cuts: list[tuple[str, str]] = field(default_factory=list)
    options: tuple[str, ...] = ()

    def write(self, directory: Path) -> None:
        new = directory / "lab.json.new"
        new.write_text(json.dumps(asdict(self), indent=1))
        new.replace(directory / "lab.json")

    @classmethod
    def read(cls, directory: Path) -> Book | None:
        """The book in a directory, None when there is none. Raises OperatorError if unreadable,
        PermissionError to whom the lab is not."""
        path = directory / "lab.json"
        try:
            return cls._from(json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except PermissionError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise OperatorError(
                f"{path} cannot be read ({err}); `weaver lab down` still clears the lab away",
                "lab-unreadable",
            ) from err

    @classmethod
    def _from(cls, facts: dict[str, Any]) -> Book:
        order = facts["order"]
        return cls(
            order=Order(
                name=order["name"],
                hosts=order["hosts"],
                shape=Shape(order["shape"]),
                pods=order["pods"],
                deny=tuple((a, b) for a, b in order["deny"]),
                mtu=order["mtu"],
                ipv6=order["ipv6"],
            ),
            password_file=facts["password_file"],
            daemons={host: Process(**process) for host, process in facts["daemons"].items()},
            cuts=[(a, b) for a, b in facts["cuts"]],
            options=tuple(facts["options"]),
        )


@contextmanager
def locked(base: Path, name: str) -> Iterator[None]:
    """One command at a time changes a lab. Raises OperatorError when another one takes too long."""
    path = base / f"{name}.lock"
    lock = _acquire(path)
    try:
        yield
    finally:
        # Gone with the lab, and unlinked while held: `_acquire` notices, so nobody locks a ghost.
        if not (base / name).exists():
            path.unlink(missing_ok=True)
        os.close(lock)
        with suppress(OSError):  # other labs live there, or another command was quicker
            base.rmdir()


def _acquire(path: Path) -> int:
    """The lock's descriptor. Whoever held it may have removed the file, and the directory too."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue  # the directory went between the two lines
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise OperatorError(f"another lab command holds {path}", "lab-busy") from None
            time.sleep(0.05)
        except FileNotFoundError:
            os.close(lock)
            continue  # it was removed while we waited: lock the next one
        os.close(lock)

"""What really is on the wires: captures of many interfaces at once, searched for a marker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import WeaverError
from weaver.lab import kernel
from weaver.lab.processes import Process, kill, spawn
from weaver.lab.waiting import wait_until

START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
CHUNK = 1 << 20


class CaptureError(WeaverError):
    """tcpdump did not do its work; without it nothing is proven either way."""

    reason = "lab-capture"


@dataclass(frozen=True, slots=True)
class Tap:
    """One interface to listen on, and the file that what it sees goes to."""

    namespace: str
    device: str
    file: Path


@contextmanager
def capturing(taps: Sequence[Tap]) -> Iterator[None]:
    """Capture whole packets on every interface; the files are complete when this is over."""
    running: list[Process] = []
    try:
        for tap in taps:
            command = ["tcpdump", "-i", tap.device, "-s", "0", "-U", "-B", "16384", "-Z", "root"]
            inside = kernel.inside(tap.namespace, [*command, "-w", str(tap.file)])
            running.append(spawn(inside, os.environ, tap.file.with_suffix(".log")))
        wait_until("captures to begin", lambda: _silent(taps, running), _in(START_TIMEOUT))
        yield
        for process in running:
            os.kill(process.pid, signal.SIGINT)
        wait_until("captures to end", lambda: _running(running), _in(STOP_TIMEOUT))
    finally:
        kill(running)


def octets_on(tap: Tap) -> int:
    """How much was captured: a capture of nothing proves nothing."""
    return tap.file.stat().st_size


def holds(tap: Tap, marker: bytes) -> bool:
    """Whether a capture has the marker in it anywhere."""
    with tap.file.open("rb") as file:
        tail = b""
        while chunk := file.read(CHUNK):
            if marker in tail + chunk:
                return True
            tail = chunk[-(len(marker) - 1) :]
    return False


def _silent(taps: Sequence[Tap], running: Sequence[Process]) -> list[str]:
    """The interfaces whose tcpdump does not say that it listens yet."""
    for tap, process in zip(taps, running, strict=True):
        if not process.is_alive:
            raise CaptureError(
                f"{tap.namespace} {tap.device}: {_said(tap).strip() or 'tcpdump ended'}"
            )
    return [f"{tap.namespace} {tap.device}" for tap in taps if "listening on" not in _said(tap)]


def _said(tap: Tap) -> str:
    log = tap.file.with_suffix(".log")
    return log.read_text(errors="replace") if log.exists() else ""


def _running(processes: Sequence[Process]) -> list[str]:
    return [f"tcpdump {process.pid}" for process in processes if process.is_alive]


def _in(seconds: float) -> float:
    return time.monotonic() + seconds

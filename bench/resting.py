"""What daemons and workers of a lab did while frames passed: nothing, where kernels carry them.

Three counts that no frame escapes which a process sees: packets of the two devices that lead to
processes (the sleeve's TAP and the upcalls'), octets that processes read (``/proc/PID/io``), and
their processor time. The last one holds softirqs as well that happened to interrupt them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.processes import cpu_seconds, with_children

TO_PROCESSES = ("weave-sleeve", "weave-upcall")


@dataclass(frozen=True)
class Work:
    """Of all hosts together. ``frames``: handed to processes by the TAP, or by them to it;
    ``upcalls``: packets of the upcall device, which heartbeats are."""

    frames: int
    upcalls: int
    octets_read: int
    seconds: float

    def __sub__(self, other: Work) -> Work:
        return Work(
            self.frames - other.frames,
            self.upcalls - other.upcalls,
            self.octets_read - other.octets_read,
            self.seconds - other.seconds,
        )


def work(lab: Lab) -> Work:
    """Done so far by every daemon, its workers and helpers."""
    daemons = lab.book().daemons
    family = [member for daemon in daemons.values() for member in with_children(daemon)]
    frames, upcalls = (
        sum(_packets(host.namespace, device) for host in lab.plan().hosts)
        for device in TO_PROCESSES
    )
    return Work(
        frames,
        upcalls,
        sum(_octets_read(member.pid) for member in family),
        sum(cpu_seconds(daemon) for daemon in daemons.values()),
    )


def during(lab: Lab, action: Callable[[], object]) -> Work:
    before = work(lab)
    action()
    return work(lab) - before


def _packets(namespace: str, device: str) -> int:
    shown = json.loads(kernel.run("ip", "-n", namespace, "-s", "-j", "link", "show", device))
    counted = shown[0]["stats64"]
    return int(counted["rx"]["packets"] + counted["tx"]["packets"])


def _octets_read(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return int(next(line.split()[1] for line in lines if line.startswith("rchar:")))

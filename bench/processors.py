"""Processor time of everything that takes part in a measurement.

The scheduler's own clock of each task, in nanoseconds, summed over the processes named, what they
started, and the kernel's softirq threads. On kernels that do not account for interrupts apart
(CONFIG_IRQ_TIME_ACCOUNTING off) a softirq is charged to the task it interrupts, which on a path
whose every packet is sent by a system call is the sender; so device queues, VXLAN, bridges and the
inner TCP are all in the sum. What runs on an idle processor, between tasks, is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")


def family(pid: int) -> set[int]:
    """A process and all it started that still runs."""
    found, new = {pid}, [pid]
    while new:
        for path in PROC.glob(f"{new.pop()}/task/*/children"):
            for child in map(int, _read(path).split()):
                if child not in found:
                    found.add(child)
                    new.append(child)
    return found


def softirq_threads() -> set[int]:
    return {
        int(path.parent.name)
        for path in PROC.glob("[0-9]*/comm")
        if _read(path).startswith("ksoftirqd/")
    }


def task_seconds(pid: int) -> float:
    """Of all threads of a process; nothing of one that is gone."""
    times = (_read(path).split() for path in PROC.glob(f"{pid}/task/*/schedstat"))
    return sum(int(fields[0]) for fields in times if fields) / 1e9


def spent(pids: Iterable[int]) -> float:
    """Seconds so far of these processes, their children and the kernel's softirq threads."""
    everybody = softirq_threads().union(*(family(pid) for pid in pids))
    return sum(map(task_seconds, everybody))


def machine_seconds() -> float:
    """What the whole machine has spent so far, waiting left out, to a hundredth of a second."""
    fields = [int(n) for n in (PROC / "stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return ""

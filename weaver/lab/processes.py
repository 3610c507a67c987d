"""Processes a lab starts: found again by number and start time, ended by number alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

END_TIMEOUT = 5.0
"""Seconds a killed process may take to be gone; more means it hangs in the kernel."""

_ZOMBIE = "Z"


@dataclass(frozen=True, slots=True)
class Process:
    """A process id that cannot be mistaken for a later process with the same number."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this number now, if any."""
        stat = _stat(pid)
        return None if stat is None else cls(pid, int(stat[19]))

    @property
    def is_alive(self) -> bool:
        stat = _stat(self.pid)
        return stat is not None and stat[0] != _ZOMBIE and int(stat[19]) == self.started


def spawn(command: Sequence[str], env: Mapping[str, str], log: Path) -> Process:
    """Start a process in a session of its own, so that Ctrl-C here does not reach it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawnp(
        command[0],
        list(command),
        dict(env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    process = Process.of(pid)
    assert process is not None, "our child cannot vanish before we wait for it"
    return process


def with_children(process: Process) -> list[Process]:
    """A living process and all its descendants; nothing when it is not alive."""
    if not process.is_alive:
        return []
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        stat = _stat(pid)
        if stat is not None:
            children.setdefault(int(stat[1]), []).append(pid)
    family, edge = [process], [process.pid]
    while edge:
        for pid in children.get(edge.pop(), []):
            found = Process.of(pid)
            if found is not None:
                family.append(found)
                edge.append(pid)
    return family


def kill(processes: Iterable[Process]) -> None:
    """SIGKILL each and wait until all are gone."""
    doomed = list(processes)
    for process in doomed:
        if process.is_alive:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    deadline = time.monotonic() + END_TIMEOUT
    for process in doomed:
        while process.is_alive:
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {process.pid} does not end")
            time.sleep(0.005)
        _reap(process.pid)


def resident(process: Process) -> int:
    """Octets of memory a process holds, shared pages too (RSS)."""
    return _memory(process, "Rss:")


def proportional(process: Process) -> int:
    """Octets of memory a process holds, of shared pages its share (PSS)."""
    return _memory(process, "Pss:")


def _memory(process: Process, field: str) -> int:
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return 1024 * next(int(line.split()[1]) for line in rollup.splitlines() if field in line)


def cpu_seconds(process: Process) -> float:
    """Processor time a process and its living descendants have used."""
    ticks = 0
    for member in with_children(process):
        stat = _stat(member.pid)
        if stat is not None:
            ticks += int(stat[11]) + int(stat[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on: 0 state, 1 parent, 11 and 12 ticks used, 19 start."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # another command started it

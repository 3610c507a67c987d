"""``make bench-control N=20``: the control plane of N real daemons in namespaces on one machine.

Prints Markdown tables: times until ready, until all know all, until all links stand, memory, CPU
and octets at rest, on a full mesh and on a star; then what one daemon does alone.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from weaver.client import Client
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Host, Order, Shape
from weaver.lab.processes import Process, cpu_seconds, proportional, resident, with_children
from weaver.lab.waiting import Progress

REST = 10.0
"""Seconds over which CPU and octets at rest are counted."""

ALLOCATIONS = 2000
CLIENTS = 8
ROUNDS = 3
HELPS = 15


class Stopwatch(Progress):
    """Keeps how long each step took."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.took: dict[str, float] = {}

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.took[text] = time.monotonic() - began


def underlay_octets(host: Host) -> int:
    """Octets sent by a host on its underlay since its devices were made."""
    total = 0
    text = kernel.run(*kernel.inside(host.namespace, ["cat", "/proc/net/dev"]))
    for line in text.splitlines()[2:]:
        name, _, counters = line.partition(":")
        if name.strip().startswith("to-"):
            total += int(counters.split()[8])
    return total


def is_helper(process: Process) -> bool:
    """Whether this is the process that enters pods' namespaces for the daemon."""
    return b"nethelper" in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def allocate_many(socket: Path, turn: int) -> tuple[float, list[float]]:
    """(a second, seconds of each) of durable allocations by several clients at once."""

    def some(client: int) -> list[float]:
        api, took = Client(socket), []
        for n in range(ALLOCATIONS // CLIENTS):
            began = time.monotonic()
            api.post("/v1/ipam/allocate", container=f"bench-{turn}-{client}-{n}", interface="eth0")
            took.append(time.monotonic() - began)
        return took

    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        times = [t for part in pool.map(some, range(CLIENTS)) for t in part]
    return len(times) / (time.monotonic() - began), sorted(times)


Figures = dict[str, str]
"""What was measured, as it is printed."""


def measure_lab(hosts: int, shape: Shape) -> Figures:
    """A lab without pods: nothing but daemons, from nothing until all links stand, then at rest."""
    lab = Lab("benchctl", quiet=True)
    watch = lab.progress = Stopwatch()
    lab.down()
    lab.up(Order(name="benchctl", hosts=hosts, shape=shape, pods=0), "a password", timeout=180)
    try:
        plan, book = lab.plan(), lab.book()
        daemons = [book.daemons[h.name] for h in plan.hosts]
        time.sleep(REST)  # what starting stirred up settles: this is a measurement of rest
        families = [with_children(daemon) for daemon in daemons]
        own = [sum(resident(p) for p in family if not is_helper(p)) for family in families]
        whole = [sum(map(resident, family)) for family in families]
        shared = [sum(map(proportional, family)) for family in families]
        cpu = sum(cpu_seconds(daemon) for daemon in daemons)
        octets = sum(underlay_octets(h) for h in plan.hosts)
        time.sleep(REST)
        cpu = sum(cpu_seconds(daemon) for daemon in daemons) - cpu
        octets = sum(underlay_octets(h) for h in plan.hosts) - octets
        began = time.monotonic()
        lab.kill(["h1"])
        lab.start(["h1"])
        restart = time.monotonic() - began
    finally:
        lab.down()
    took = watch.took
    know, links = took["all know all"], took["every pair linked"]
    return {
        "all daemons ready, started together": f"{took['daemons ready']:.1f} s",
        "all know all, after the last is ready": f"{know:.2f} s",
        "every pair linked, after the last is ready": f"{know + links:.1f} s",
        "one daemon killed and ready again": f"{restart:.1f} s",
        "memory of daemon and worker, RSS, most": f"{max(own) / 1e6:.0f} MB",
        "and of the helper that enters namespaces": f"{max(whole) / 1e6:.0f} MB",
        "of all three, shared pages counted once (PSS), median": f"{median(shared) / 1e6:.0f} MB",
        "CPU at rest, of one core, each host": f"{100 * cpu / REST / hosts:.1f} %",
        "octets a second sent at rest, each host": f"{octets / REST / hosts:,.0f}",
    }


def measure_one() -> Figures:
    """One daemon alone on the machine: its start, and its durable allocations."""
    lab = Lab("benchctl", quiet=True)
    watch = lab.progress = Stopwatch()
    lab.down()
    lab.up(Order(name="benchctl", hosts=1, pods=0), "a password")
    try:
        socket = lab.site(lab.plan().hosts[0]).socket
        rounds = [allocate_many(socket, n) for n in range(ROUNDS)]
    finally:
        lab.down()
    times = sorted(t for _, found in rounds for t in found)
    return {
        "ready": f"{watch.took['daemons ready']:.1f} s",
        f"durable allocations a second, {CLIENTS} clients": f"{median(r for r, _ in rounds):,.0f}",
        "one allocation, p50": f"{1000 * times[len(times) // 2]:.1f} ms",
        "one allocation, p99": f"{1000 * times[len(times) * 99 // 100]:.1f} ms",
        "`weaver --help` as a multiple of `python -c pass`": f"{help_ratio():.1f}",
    }


def help_ratio() -> float:
    """Medians of runs that take turns."""
    weaver = str(Path(sys.executable).with_name("weaver"))
    commands = [[sys.executable, "-c", "pass"], [weaver, "--help"]]
    took: list[list[float]] = [[], []]
    for _ in range(HELPS):
        for times, command in zip(took, commands, strict=True):
            began = time.monotonic()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.monotonic() - began)
    return median(took[1]) / median(took[0])


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.control", description=__doc__)
    parser.add_argument("--hosts", type=int, default=20, metavar="N")
    args = parser.parse_args()
    mesh = measure_lab(args.hosts, Shape.MESH)
    star = measure_lab(args.hosts, Shape.STAR)
    print(f"| {args.hosts} daemons | everybody beside everybody | a star |\n|---|---|---|")
    for what, value in mesh.items():
        print(f"| {what} | {value} | {star[what]} |")
    print("\n| one daemon alone | |\n|---|---|")
    for what, value in measure_one().items():
        print(f"| {what} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

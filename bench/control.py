"""``make bench-control N=20``: the control plane of N real daemons in namespaces on one machine.

Prints a Markdown table: times until ready, until all know all, until all links stand; memory, CPU
and octets at rest; durable allocations a second through one daemon's API.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from weaver.client import Client
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Host, Order, Shape
from weaver.lab.processes import cpu_seconds, resident
from weaver.lab.waiting import Progress

REST = 10.0
"""Seconds over which CPU and octets at rest are counted."""

ALLOCATIONS = 2000
CLIENTS = 8


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


def allocate_many(socket: Path) -> tuple[float, list[float]]:
    """(a second, seconds of each) of durable allocations by several clients at once."""

    def some(client: int) -> list[float]:
        api, took = Client(socket), []
        for n in range(ALLOCATIONS // CLIENTS):
            began = time.monotonic()
            api.post("/v1/ipam/allocate", container=f"bench-{client}-{n}", interface="eth0")
            took.append(time.monotonic() - began)
        return took

    began = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        times = [t for part in pool.map(some, range(CLIENTS)) for t in part]
    return len(times) / (time.monotonic() - began), sorted(times)


def measure(hosts: int) -> list[tuple[str, str]]:
    lab = Lab("benchctl", quiet=True)
    watch = lab.progress = Stopwatch()
    lab.down()
    order = Order(name="benchctl", hosts=hosts, shape=Shape.MESH, pods=1)
    lab.up(order, "a password", timeout=180)
    try:
        plan, book = lab.plan(), lab.book()
        daemons = [book.daemons[h.name] for h in plan.hosts]
        memory = [resident(daemon) for daemon in daemons]
        time.sleep(REST / 2)  # what starting stirred up settles: this is a measurement of rest
        cpu = sum(cpu_seconds(daemon) for daemon in daemons)
        octets = sum(underlay_octets(h) for h in plan.hosts)
        time.sleep(REST)
        cpu = sum(cpu_seconds(daemon) for daemon in daemons) - cpu
        octets = sum(underlay_octets(h) for h in plan.hosts) - octets
        rate, times = allocate_many(lab.site(plan.hosts[0]).socket)
    finally:
        lab.down()
    took = watch.took
    return [
        ("all daemons ready, started together", f"{took['daemons ready']:.1f} s"),
        ("all know all, after the last is ready", f"{took['all know all']:.2f} s"),
        ("all links stand, after the pods were attached", f"{took['every pair linked']:.1f} s"),
        (
            "memory of all its processes (PSS), median",
            f"{statistics.median(memory) / 1e6:.0f} MB",
        ),
        ("CPU at rest, of one core, each host", f"{100 * cpu / REST / hosts:.1f} %"),
        ("octets a second at rest, each host", f"{octets / REST / hosts:,.0f}"),
        (f"durable allocations a second, {CLIENTS} clients", f"{rate:,.0f}"),
        ("one allocation, p50", f"{1000 * times[len(times) // 2]:.1f} ms"),
        ("one allocation, p99", f"{1000 * times[len(times) * 99 // 100]:.1f} ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.control", description=__doc__)
    parser.add_argument("--hosts", type=int, default=20, metavar="N")
    args = parser.parse_args()
    print(f"| {args.hosts} daemons | |\n|---|---|")
    for what, value in measure(args.hosts):
        print(f"| {what} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

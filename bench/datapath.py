"""The data path side by side: ``python -m bench.datapath [--rounds N] [--seconds S] [--json]``.

Three hosts in a row, a pod behind the bridge of each; nothing but the sleeve workers runs, told
what to do by the worker protocol. Every row is measured between the same two hosts in the same
minute (the relayed one over the third), rounds are interleaved, and what is printed is the median
with its quartiles. Nothing else may run on the machine: all of it shares the same processors.

    raw       veth between the hosts, no overlay
    vxlan     the kernel's VXLAN between the pods, not encrypted
    sleeve    pod to pod, AES-256-GCM
    plain     the same without encryption (a mesh without a password)
    relayed   pod to pod through a third host, AES-256-GCM end to end
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from bench.nodes import Cable, Node, World, ip, leave_nothing, run_in
from mesh.wire import worker as w

ROWS = ("raw", "vxlan", "sleeve", "plain", "relayed")
LOSS = 1.0
"""Per cent of UDP datagrams that may be lost for a rate to count."""

SEARCH_STEPS = 6
UDP_SECONDS = 1
"""Of one UDP run; iperf3 knows whole seconds only."""

PINGS = 500


@dataclass(frozen=True)
class Ends:
    """Where traffic starts and ends."""

    source: str
    target: str
    address: str


@dataclass
class Samples:
    """Everything measured of one row, one value a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        return median(self.values[name])

    def show(self, name: str, digits: int) -> str:
        values = self.values[name]
        if len(values) < 2:
            return f"{values[0]:.{digits}f}"
        low, _, high = quantiles(values, n=4, method="inclusive")
        return f"{median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


# ---- the rows


def add_vxlan(node: Node, other: Node) -> str:
    """A second bridge with a kernel VXLAN and a second leg into the pod; the pod's address."""
    host, pod = node.namespace, node.pod
    local, remote = other.underlay[node.number], node.underlay[other.number]
    ip("-n", host, "link", "add", "vx0", "type", "vxlan", "id", "7", "dstport", "4790",
       "local", local, "remote", remote)  # fmt: skip
    ip("-n", host, "link", "add", "brx", "type", "bridge")
    ip("link", "add", "podx", "netns", host, "type", "veth", "peer", "name", "eth1", "netns", pod)
    for device in ("vx0", "podx"):
        ip("-n", host, "link", "set", device, "master", "brx", "up")
    ip("-n", host, "link", "set", "brx", "up")
    ip("-n", pod, "link", "set", "eth1", "mtu", "1420", "up")
    address = f"10.97.0.{node.number}"
    ip("-n", pod, "addr", "add", f"{address}/24", "dev", "eth1")
    return address


@contextmanager
def hosts(*, offloads: bool) -> Iterator[tuple[World, dict[str, Ends]]]:
    """The three hosts, and where each row's traffic goes."""
    cables = [Cable(1, 2), Cable(2, 3)]
    tag = f"bd{os.getpid() % 1000}"
    with World(tag, 3, cables, via={(1, 3): 2}, offloads=offloads) as world:
        a, b, c = world.nodes
        add_vxlan(a, b)
        vxlan = add_vxlan(b, a)
        direct = Ends(a.pod, b.pod, b.address)
        yield (
            world,
            {
                "raw": Ends(a.namespace, b.namespace, a.underlay[2]),
                "vxlan": Ends(a.pod, b.pod, vxlan),
                "sleeve": direct,
                "plain": direct,
                "relayed": Ends(a.pod, c.pod, c.address),
            },
        )


def configure(world: World, *, encrypted: bool) -> None:
    for node in world.nodes:
        node.say(w.Configure(node.short_id, node.name, 1420, encrypted))
        node.counters()


# ---- the measurements


def iperf(ends: Ends, *flags: str, seconds: float) -> dict[str, object]:
    """What iperf3 says at the end of one run; empty when it did not get through."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", ends.target, "iperf3", "-s", "-1", "-B", ends.address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_listener(ends.target)
        said = run_in(ends.source, "iperf3", "-J", "-c", ends.address, "-t", str(seconds), *flags,
                      check=False, within=seconds + 30)  # fmt: skip
        end = json.loads(said).get("end", {})
        return dict(end)
    except ValueError:
        return {}
    finally:
        server.terminate()
        server.wait()


def wait_for_listener(namespace: str, port: int = 5201, within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while f":{port} " not in run_in(namespace, "ss", "-Hltn"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no listener on {port} in {namespace}")
        time.sleep(0.02)


def _number(end: dict[str, object], group: str, name: str) -> float:
    entry = end.get(group)
    value = entry.get(name, 0.0) if isinstance(entry, dict) else 0.0
    return float(value)


def busy_seconds() -> float:
    """Processor time the whole machine has spent so far, waiting left out."""
    fields = [int(n) for n in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _, _, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def tcp(ends: Ends, samples: Samples, seconds: float) -> None:
    before = busy_seconds()
    end = iperf(ends, seconds=seconds)
    spent = busy_seconds() - before
    samples.add("tcp1", _number(end, "sum_received", "bits_per_second") / 1e9)
    octets = _number(end, "sum_received", "bytes")
    samples.add("cpu", spent / (octets / 1e9) if octets else float("nan"))
    end = iperf(ends, "-P", "4", seconds=seconds)
    samples.add("tcp4", _number(end, "sum_received", "bits_per_second") / 1e9)


def udp(ends: Ends, size: int, steps: int) -> float:
    """Datagrams a second at the highest rate that loses no more than LOSS per cent."""

    def at(rate: float) -> tuple[float, float]:
        flags = ("-u", "-l", str(size), "-b", str(int(rate * size * 8)))
        end = iperf(ends, *flags, seconds=UDP_SECONDS)
        packets, lost = _number(end, "sum", "packets"), _number(end, "sum", "lost_percent")
        return packets * (1 - lost / 100) / UDP_SECONDS, lost if packets else 100.0

    most, lost = at(0)  # as fast as the sender can
    if lost <= LOSS:
        return most
    low, high, best = 0.1 * most, 1.2 * most, 0.0
    for _ in range(steps):
        rate = (low + high) / 2
        got, lost = at(rate)
        if lost <= LOSS:
            low, best = rate, max(best, got)
        else:
            high = rate
    return best


def pings(ends: Ends, samples: Samples) -> None:
    said = run_in(ends.source, "ping", "-c", str(PINGS), "-i", "0.002", ends.address, check=False)
    times = sorted(float(t) for t in re.findall(r"time=([\d.]+)", said))
    if not times:
        raise RuntimeError(f"{ends.address} does not answer: {said[-200:]}")
    samples.add("p50", times[len(times) // 2])
    samples.add("p99", times[int(len(times) * 0.99)])


def measure(
    ends: Ends, samples: Samples, seconds: float, *, quick: bool, steps: int = SEARCH_STEPS
) -> None:
    pings(ends, samples)
    tcp(ends, samples, seconds)
    if not quick:
        samples.add("udp64", udp(ends, 64, steps) / 1e3)
        samples.add("udp1400", udp(ends, 1348, steps) * 1348 * 8 / 1e9)


# ---- the table

COLUMNS: tuple[tuple[str, str, int], ...] = (
    ("tcp1", "1 TCP, Gb/s", 2),
    ("tcp4", "4 TCP, Gb/s", 2),
    ("udp64", "UDP 64, kpps", 0),
    ("udp1400", "UDP 1,400, Gb/s", 2),
    ("p50", "ping p50, ms", 3),
    ("p99", "ping p99, ms", 3),
    ("cpu", "CPU s/GB", 2),
)


def table(results: dict[str, Samples], title: str) -> str:
    some = next(iter(results.values()))
    columns = [column for column in COLUMNS if column[0] in some.values]
    names = ["path", "share of raw", *(name for _, name, _ in columns)]
    lines = [f"### {title}", "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    raw = results["raw"].median("tcp1") if "raw" in results else 0.0
    for row, samples in results.items():
        share = f"{samples.median('tcp1') / raw:.2f}" if raw else "–"
        cells = [row, share, *(samples.show(key, digits) for key, _, digits in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    if "relayed" in results and "sleeve" in results:
        part = results["relayed"].median("tcp1") / results["sleeve"].median("tcp1")
        lines += ["", f"A relayed stream reaches {part:.2f} of a direct one."]
    return "\n".join(lines)


def collect(
    rows: list[str], rounds: int, seconds: float, *, offloads: bool, quick: bool,
    progress: Callable[[str], None],
) -> dict[str, Samples]:  # fmt: skip
    results = {row: Samples() for row in rows}
    with hosts(offloads=offloads) as (world, ends):
        for turn in range(1, rounds + 1):
            for row in rows:
                progress(f"offloads {'on' if offloads else 'off'}, round {turn}/{rounds}: {row}")
                configure(world, encrypted=row != "plain")
                measure(ends[row], results[row], seconds, quick=quick)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.datapath")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one TCP run")
    parser.add_argument("--rows", default=",".join(ROWS), help="which paths, comma-separated")
    parser.add_argument("--quick", action="store_true", help="TCP and ping only")
    parser.add_argument("--json", action="store_true", help="every value of every round")
    args = parser.parse_args()
    leave_nothing()
    rows = args.rows.split(",")
    if os.geteuid() != 0 or not set(rows) <= set(ROWS) or args.rounds < 1:
        print(f"needs root, at least one round, and rows of {','.join(ROWS)}", file=sys.stderr)
        return 2
    print("Nothing else may run on this machine meanwhile.", file=sys.stderr)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"The load is {load:.1f}: these figures will not be worth much.", file=sys.stderr)
    everything: dict[str, dict[str, dict[str, list[float]]]] = {}
    for offloads in (False, True):
        results = collect(
            rows, args.rounds, args.seconds, offloads=offloads, quick=args.quick,
            progress=lambda line: print(line, file=sys.stderr),
        )  # fmt: skip
        title = f"Offloads {'on' if offloads else 'off'}"
        if args.json:
            everything[title] = {row: samples.values for row, samples in results.items()}
        else:
            print(table(results, title), end="\n\n", flush=True)
    if args.json:
        print(json.dumps(everything, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

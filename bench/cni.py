"""``make bench-cni``: attaching a pod, beside Debian's Go ``bridge`` with ``host-local``.

All are executed as a runtime does, taking turns, against namespaces of the same kind on one host of
a lab with a real daemon: ours of Python, ours of C (``setup-cni --native``), Debian's. Prints
Markdown tables and what of the reach was reached, by each of ours.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mesh.drivers.netlink import enter_namespace
from weaver.cni.install import install
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Order
from weaver.lab.processes import resident, with_children

SAMPLES = 100
WARM_UP = 5
PARALLEL = 30
PODS = 500
EDGE = 50
"""Of many pods, how many at either end are compared."""

DEBIAN = "/usr/lib/cni"
OURS, THEIRS = "weaver-net", "bridge"
NAME = "benchcni"


@dataclass
class Plugin:
    """An executable and its configuration."""

    path: str
    config: dict[str, object]
    search: str
    took: dict[str, list[float]] = field(default_factory=dict)

    def call(self, command: str, netns: str, previous: object = None) -> tuple[float, bytes]:
        """Execute it; seconds, and its answer. Raises RuntimeError when it refuses."""
        config = self.config if previous is None else {**self.config, "prevResult": previous}
        environ = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": netns,
            "CNI_NETNS": f"/run/netns/{netns}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self.search,
            "PATH": os.environ["PATH"],
        }
        stdin = json.dumps(config).encode()
        began = time.perf_counter()
        done = subprocess.run(
            [self.path], input=stdin, env=environ, capture_output=True, check=False
        )
        took = time.perf_counter() - began
        if done.returncode != 0:
            raise RuntimeError(f"{self.path} {command}: {done.stdout.decode()}")
        return took, done.stdout

    def sample(self, netns: str) -> None:
        """One pod's life; how long each part of it took."""
        took, out = self.call("ADD", netns)
        self.took.setdefault("ADD", []).append(took)
        result = json.loads(out)
        for command in ("CHECK", "DEL", "VERSION"):
            took, _ = self.call(command, netns, result)
            self.took.setdefault(command, []).append(took)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """In a host's network, as its container runtime would be; what is executed inherits it."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter_namespace(there)
        yield
    finally:
        enter_namespace(home)
        os.close(there)
        os.close(home)


@contextmanager
def pods(count: int) -> Iterator[list[str]]:
    """Namespaces, gone at the end."""
    names = [f"{NAME}-p{number}" for number in range(count)]
    try:
        for name in names:
            kernel.run("ip", "netns", "add", name)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def steps(ours: Plugin, samples: int) -> list[tuple[str, list[float]]]:
    """What an ADD's time is made of: the executable alone; what it asks, said by a client that is
    there already; and of that the helper's part, by one of our own."""
    server = str(Path(ours.path).parent.parent / "run" / "cni.sock")
    bounds = ("ingress_rate", "ingress_burst", "egress_rate", "egress_burst")
    wiring = {
        "host": "vwbenchsteps",
        "names": ["vwbenchsteps"],
        "ifname": "eth0",
        "mtu": 1400,
        "bridge": "weave",
        "mac": None,
        "addresses": ["10.99.0.9/16"],
        "routes": [],
        "hairpin": False,
        "shape": dict.fromkeys(bounds, 0),
    }
    whole: list[float] = []
    helped: list[float] = []
    command = [sys.executable, "-m", "weaver.daemon.nethelper"]
    with (
        pods(1) as (netns,),
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as helper,
    ):
        assert helper.stdin is not None
        assert helper.stdout is not None
        for _ in range(samples + WARM_UP):
            whole.append(said(server, ours, "ADD", netns))
            said(server, ours, "DEL", netns)
            for do in ("attach", "delete"):
                request = {"do": do, "netns": f"/run/netns/{netns}", **wiring}
                began = time.perf_counter()
                helper.stdin.write(json.dumps(request).encode() + b"\n")
                helper.stdin.flush()
                helper.stdout.readline()
                if do == "attach":
                    helped.append(time.perf_counter() - began)
        helper.stdin.close()
    return [
        ("the executable: start of the interpreter, nothing asked", ours.took["VERSION"]),
        ("the daemon: parsing, address, durable records, the helper", whole[WARM_UP:]),
        ("of that the helper: namespace, veth pair, bridge, address", helped[WARM_UP:]),
    ]


def said(server: str, plugin: Plugin, command: str, netns: str) -> float:
    """Seconds of a call without an executable."""
    environ = {
        "PLUGIN": OURS,
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": netns,
        "CNI_NETNS": f"/run/netns/{netns}",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": plugin.search,
    }
    head = "\n".join(f"{key}={value}" for key, value in environ.items()).encode()
    stdin = json.dumps(plugin.config).encode()
    began = time.perf_counter()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(server)
        sock.sendall(struct.pack("!II", len(head), len(stdin)) + head + stdin)
        status = sock.recv(1)
        while sock.recv(65536):
            pass
    if status != b"\0":
        raise RuntimeError(f"{command} was refused")
    return time.perf_counter() - began


def quantile(values: list[float], q: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * q))]


def one_by_one(plugins: Sequence[Plugin], samples: int) -> None:
    with pods(len(plugins)) as names:
        for turn in range(samples + WARM_UP):
            for plugin, netns in zip(plugins, names, strict=True):
                if turn == WARM_UP:
                    plugin.took.clear()
                plugin.sample(netns)


def all_at_once(plugin: Plugin, count: int) -> float:
    """Seconds until so many ADDs, begun together, are all answered."""
    with pods(count) as names, ThreadPoolExecutor(count) as pool:
        began = time.perf_counter()
        list(pool.map(lambda name: plugin.call("ADD", name), names))
        took = time.perf_counter() - began
        list(pool.map(lambda name: plugin.call("DEL", name), names))
    return took


def many(plugin: Plugin, count: int, memory: Callable[[], int]) -> tuple[float, float, float]:
    """(ADD p50 of the first pods, of the last, octets of memory a pod)."""
    edge = min(EDGE, count // 2)
    with pods(count) as names:
        before = memory()
        took = [plugin.call("ADD", name)[0] for name in names]
        grown = memory() - before
        for name in names:
            plugin.call("DEL", name)
    return median(took[:edge]), median(took[-edge:]), grown / count


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.cni", description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    parser.add_argument("--pods", type=int, default=PODS)
    args = parser.parse_args()
    lab = Lab(NAME, quiet=True)
    lab.down()
    lab.up(Order(name=NAME, hosts=1, pods=0), "a password")
    try:
        return measure(lab, args.samples, args.pods)
    finally:
        lab.down()
        subprocess.run(["rm", "-rf", f"/var/lib/cni/networks/{NAME}"], check=False)


def measure(lab: Lab, samples: int, count: int) -> int:
    """Print everything; 1 if something that was to be reached was not."""
    (host,) = lab.plan().hosts
    site = lab.site(host)
    own, native = str(site.directory / "cni-bin"), str(site.directory / "cni-native")
    install(Path(native), None, site.directory / "run" / "cni.sock", native=True)
    base = {"cniVersion": "1.0.0", "name": NAME}
    local = {"type": "host-local", "subnet": "10.99.0.0/16"}
    ours = Plugin(f"{own}/{OURS}", {**base, "type": OURS}, own)
    of_c = Plugin(f"{native}/{OURS}", {**base, "type": OURS}, native)
    theirs = Plugin(
        f"{DEBIAN}/{THEIRS}",
        {**base, "type": THEIRS, "bridge": "bench0", "isGateway": True, "ipam": local},
        DEBIAN,
    )
    plugins = (ours, of_c, theirs)
    family = with_children(lab.book().daemons[host.name])
    with inside(host.namespace):
        one_by_one(plugins, samples)
        rounds = [[all_at_once(plugin, PARALLEL) for plugin in plugins] for _ in range(3)]
        together = [median(took) for took in zip(*rounds, strict=True)]
        profile = steps(ours, samples)
        first, last, each = many(ours, count, lambda: sum(map(resident, family)))
        before, after, _ = many(theirs, count, lambda: 0)
    print(
        f"| {samples} pods one after the other, ms | of Python | of C | bridge + host-local | | |"
    )
    print("|---|---|---|---|---|---|")
    for command in ("ADD", "CHECK", "DEL", "VERSION"):
        for q in (0.5, 0.99):
            row(f"{command} p{q * 100:.0f}", [quantile(p.took[command], q) for p in plugins])
    row(f"{PARALLEL} ADDs at once, until all are answered", together)
    alone = ("the executable of C, nothing asked", of_c.took["VERSION"])
    print("\n| where an ADD's time goes, ms | least | p50 |\n|---|---|---|")
    for what, took in (profile[0], alone, *profile[1:]):
        print(f"| {what} | {1000 * min(took):.1f} | {1000 * median(took):.1f} |")
    print(f"\n{count} pods on one host, ADD p50 in ms of the first {EDGE} and the last:", end=" ")
    print(f"weaver-net {1000 * first:.1f} and {1000 * last:.1f}", end=", ")
    print(f"bridge {1000 * before:.1f} and {1000 * after:.1f};", end=" ")
    print(f"{each / 1000:.1f} kB of memory a pod.\n")
    shared = (("ADD p50, last of first, ×", last / first, 1.2), ("kB a pod", each / 1000, 20.0))
    missed = [
        judged(f"of {name}", plugin, theirs, took / together[2])
        for name, plugin, took in (("Python", ours, together[0]), ("C", of_c, together[1]))
    ]
    return int(any([*missed, told("either", shared)]))


def row(what: str, values: Sequence[float]) -> None:
    """One of each of ours, of theirs, and what ours are of theirs."""
    shown = [f"{1000 * value:.1f}" for value in values]
    shown += [f"{value / values[-1]:.2f}×" for value in values[:-1]]
    print(f"| {what} | {' | '.join(shown)} |")


def judged(name: str, ours: Plugin, theirs: Plugin, together: float) -> bool:
    def ratio(command: str, q: float) -> float:
        return quantile(ours.took[command], q) / quantile(theirs.took[command], q)

    return told(
        name,
        (
            ("ADD p50, ×", ratio("ADD", 0.5), 1.0),
            ("ADD p99, ×", ratio("ADD", 0.99), 1.2),
            ("DEL p50, ×", ratio("DEL", 0.5), 0.5),
            ("CHECK p50, ×", ratio("CHECK", 0.5), 1.0),
            ("parallel ADDs, ×", together, 1.0),
            ("the executable alone, ms", 1000 * quantile(ours.took["VERSION"], 0.5), 12.0),
        ),
    )


def told(name: str, reach: Sequence[tuple[str, float, float]]) -> bool:
    """Print what was reached; whether anything was not."""
    for what, value, limit in reach:
        verdict = "reached" if value <= limit else "NOT reached"
        print(f"{verdict}, {name}: {what} {value:.2f}, at most {limit}")
    return any(value > limit for _, value, limit in reach)


if __name__ == "__main__":
    sys.exit(main())

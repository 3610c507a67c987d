"""The kernel's fast path beside a VXLAN set up by hand: ``python -m bench.fastdp [--rounds N]``.

Three hosts in a row, a pod behind the bridge of each, no daemon and no worker. Rounds are
interleaved; what is printed are medians with quartiles, and medians of each round's ratios. The
static path is what an operator would make with ``bridge fdb append``, on the same hosts:

    static    pod to pod by a VXLAN device with a static forwarding table
    fastdp    pod to pod by the fast path
    two hops  pod to pod through the fast path of a third host

Processor time is the steadier figure where a machine is shared; it is of both ends together.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

from bench.figures import Column, Samples, table
from bench.kernelnodes import KernelNode, KernelRow, mac, row
from bench.load import Ends, Lengths, Path, shake_hands
from bench.nodes import inside, ip, leave_nothing, run_in
from mesh.link.datapath import Tree
from mesh.names import ShortID

MTU = 1450
STATIC_PORT = 4789
EXCHANGES = 3000
DESTINATIONS = 1000
HEARTBEATS = 2000
BROADCASTS = 300
PEERS, TREE_CHILDREN = 64, 8
"""Peers that a broadcast is for, and how many of them are its origin's children in a tree."""

COLUMNS = (
    Column("tcp1", "1 TCP, Gb/s", 2),
    Column("cpu", "CPU s/GB", 3),
    Column("udp64", "UDP 64, kpps", 0),
    Column("udp64_cpu", "CPU s/million of 64", 2),
    Column("latency", "request and answer, µs", 1),
    Column("exchange", "without wake-ups", 2),
)
PARTS = frozenset({"udp"})


@dataclass(frozen=True)
class Goal:
    what: str
    key: str
    above: str
    below: str
    wanted: float
    at_least: bool

    def found(self, samples: dict[str, Samples]) -> tuple[float, bool]:
        """The median of the rounds' ratios: what both paths met in one round they share."""
        ups, downs = (samples[name].values.get(self.key, []) for name in (self.above, self.below))
        ratios = [u / d for u, d in zip(ups, downs, strict=False) if d and u]
        value = median(ratios) if ratios else math.nan
        return value, value >= self.wanted if self.at_least else value <= self.wanted


GOALS = (
    Goal("TCP", "tcp1", "fastdp", "static", 1.0, True),
    Goal("CPU per GB", "cpu", "fastdp", "static", 1.05, False),
    Goal("CPU per datagram of 64 octets", "udp64_cpu", "fastdp", "static", 1.15, False),
    Goal("request and answer", "latency", "fastdp", "static", 1.05, False),
    Goal("TCP over two hops beside one", "tcp1", "two hops", "fastdp", 0.75, True),
)


@contextmanager
def hosts(offloads: bool) -> Iterator[tuple[KernelRow, dict[str, Ends]]]:
    world = row(f"bf{os.getpid() % 1000}", 3, pod_mtu=MTU)
    try:
        a, b, c = world.nodes
        for node in world.nodes:  # as a daemon knows all pods
            for other in world.nodes:
                node.kernel.attach(mac(other.number), ShortID(other.number))
        if not offloads:
            for node in world.nodes:
                for neighbour in node.outer:
                    run_in(node.namespace, "ethtool", "-K", f"u{neighbour}", "tso", "off", "gso",
                           "off", "gro", "on", "tx-udp_tnl-segmentation", "off")  # fmt: skip
        yield (
            world,
            {
                "static": join_statically(a, b),
                "fastdp": Ends(a.pod, b.pod, b.address),
                "two hops": Ends(a.pod, c.pod, c.address),
            },
        )
    finally:
        world.close()


def join_statically(a: KernelNode, b: KernelNode) -> Ends:
    """A bridge, a VXLAN device that learns nothing and another leg into the pod, at both hosts."""
    for node, other in ((a, b), (b, a)):
        here, far = ("-n", node.namespace, "link"), other.outer[node.number]
        ip(*here, "add", "static", "type", "bridge", "mcast_snooping", "0")
        ip(*here, "set", "static", "addrgenmode", "none")
        ip(*here, "add", "vx", "type", "vxlan", "id", "42", "dstport", str(STATIC_PORT),
           "nolearning")  # fmt: skip
        ip(*here, "add", "leg", "type", "veth", "peer", "name", "eth1", "netns", node.pod)
        for device in ("vx", "leg"):
            ip(*here, "set", device, "addrgenmode", "none")
            ip(*here, "set", device, "mtu", str(MTU), "master", "static", "up")
        ip(*here, "set", "static", "up")
        for target in ("00:00:00:00:00:00", f"02:00:00:00:01:0{other.number}"):
            run_in(node.namespace, "bridge", "fdb", "append", target, "dev", "vx", "dst", far)
        eth1 = ("-n", node.pod, "link", "set", "eth1")
        ip(*eth1, "address", f"02:00:00:00:01:0{node.number}", "mtu", str(MTU))
        ip(*eth1, "addrgenmode", "none")
        ip(*eth1, "up")
        ip("-n", node.pod, "addr", "add", f"10.97.0.{node.number}/24", "dev", "eth1")
    return Ends(a.pod, b.pod, f"10.97.0.{b.number}")


def open_udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(5)
    return sock


def exchange(ends: Ends) -> float:
    """Microseconds of a request and its answer, 32 octets each way: the median of many.

    One thread is at both ends, so no wake-up is in it: the path alone.
    """
    with inside(ends.source, open_udp) as asker, inside(ends.target, open_udp) as answerer:
        answerer.bind((ends.address, 0))
        asker.connect(answerer.getsockname())
        times, clock, body = [], time.perf_counter_ns, b"q" * 32
        for _ in range(EXCHANGES):
            began = clock()
            asker.send(body)
            _, sender = answerer.recvfrom(64)
            answerer.sendto(body, sender)
            asker.recv(64)
            times.append(clock() - began)
    return median(times) / 1000


def latency(ends: Ends) -> float:
    """The same between two processes that wait for each other: what a pod sees. Each on its own
    processor, as on two hosts; left to the scheduler, half of the rounds would be on one."""
    allowed = sorted(os.sched_getaffinity(0))
    with inside(ends.source, open_udp) as asker, inside(ends.target, open_udp) as answerer:
        answerer.bind((ends.address, 0))
        asker.connect(answerer.getsockname())
        child = os.fork()
        if child == 0:
            try:
                os.sched_setaffinity(0, {allowed[-1]})
                answerer.setblocking(True)
                while True:
                    body, sender = answerer.recvfrom(64)
                    answerer.sendto(body, sender)
            finally:
                os._exit(0)
        try:
            os.sched_setaffinity(0, {allowed[0]})
            times, clock, body = [], time.perf_counter_ns, b"q" * 32
            for _ in range(EXCHANGES):
                began = clock()
                asker.send(body)
                asker.recv(64)
                times.append(clock() - began)
        finally:
            os.sched_setaffinity(0, allowed)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return median(times) / 1000


def topology_change(world: KernelRow) -> float:
    """Milliseconds until so many destinations go another way."""
    kernel = world.nodes[0].kernel
    took = []
    for via in (1001, 1002) * 10:
        routes = {ShortID(n): ShortID(via) for n in range(2000, 2000 + DESTINATIONS)}
        began = time.perf_counter()
        kernel.set_routes(routes)
        took.append(time.perf_counter() - began)
    return median(took) * 1e3


def heartbeats(world: KernelRow) -> float:
    """Microseconds of processor time of a full-size control frame sent, carried and received, at
    both ends together: a question and its answer are two."""
    a, b = (node.kernel for node in world.nodes[:2])
    payload = bytes(MTU - 14)
    heard, began = 0, time.process_time()
    for n in range(HEARTBEATS):
        a.send_control(ShortID(2), payload)
        if n % 16 == 15:
            heard += len(b.receive(64))
    heard += len(b.receive(64))
    spent = time.process_time() - began
    if heard < HEARTBEATS:
        raise RuntimeError(f"{HEARTBEATS - heard} of {HEARTBEATS} control frames were lost")
    return spent / HEARTBEATS * 1e6


def broadcasts(world: KernelRow, children: int) -> tuple[float, float]:
    """Sends for one broadcast of the first host's pod, and microseconds of it."""
    a, us = world.nodes[0], ShortID(1)
    ids = tuple(ShortID(n) for n in range(3000, 3000 + children))
    for child in ids:
        a.kernel.set_neighbour(child, world.address(1, 2), world.address(2, 1))
    a.kernel.set_tree(us, Tree(None, ids))

    def speak() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        return sock

    before = sum(p.tx_frames for p in a.kernel.counters().peers.values())
    with inside(a.pod, speak) as speaker:
        began = time.perf_counter()
        for _ in range(BROADCASTS):
            speaker.sendto(b"x" * 64, ("10.98.0.255", 9))
        took = time.perf_counter() - began
    sent = sum(p.tx_frames for p in a.kernel.counters().peers.values()) - before
    for child in ids:
        a.kernel.drop_neighbour(child)
    a.kernel.set_tree(us, world.tables(1).trees[us])
    return sent / BROADCASTS, took / BROADCASTS * 1e6


def collect(rounds: int, seconds: float, offloads: bool) -> tuple[dict[str, Samples], Samples]:
    single = Samples()
    with hosts(offloads) as (world, ends):
        paths = [Path(name, where, list, parts=PARTS) for name, where in ends.items()]
        shake_hands(paths)
        for turn in range(rounds):
            start = turn % len(paths)
            for path in paths[start:] + paths[:start]:
                print(f"offloads {'on' if offloads else 'off'}, round {turn + 1}/{rounds}:"
                      f" {path.name}", file=sys.stderr)  # fmt: skip
                path.measure(Lengths(tcp1=seconds))
                path.samples.add("exchange", exchange(path.ends))
                path.samples.add("latency", latency(path.ends))
            single.add("topology", topology_change(world))
            single.add("heartbeat", heartbeats(world))
            for name, children in (("tree", TREE_CHILDREN), ("head-end", PEERS)):
                sends, took = broadcasts(world, children)
                single.add(f"{name} sends", sends)
                single.add(f"{name} time", took)
        drops = {node.number: node.kernel.counters().drops for node in world.nodes}
    if any(drops.values()):
        print(f"dropped meanwhile: {drops}", file=sys.stderr)
    return {path.name: path.samples for path in paths}, single


def report(title: str, results: dict[str, Samples], single: Samples) -> str:
    lines = [f"### {title}", "", table(results, COLUMNS), ""]
    for goal in GOALS:
        value, met = goal.found(results)
        sign = "≥" if goal.at_least else "≤"
        lines.append(
            f"* {goal.what}: {value:.2f} ({sign} {goal.wanted:g}): {'met' if met else 'not met'}"
        )
    change, beat = single.median("topology"), single.median("heartbeat")
    # A peer costs each second a question and an answer sent, and one of each received.
    load = 100 * 2 * beat / 1e6 * 100
    ratio = single.median("tree sends") / single.median("head-end sends")
    lines += [
        f"* {DESTINATIONS} destinations go another way: {single.show('topology', 2)} ms (≤ 20):"
        f" {'met' if change <= 20 else 'not met'}",
        f"* a full-size control frame there: {single.show('heartbeat', 1)} µs of processor time;"
        f" 100 peers asked once a second: {load:.2f} % of a core (≤ 1):"
        f" {'met' if load <= 1 else 'not met'}",
        f"* sends at the origin of a broadcast to {PEERS} peers, by a tree of {TREE_CHILDREN}"
        f" children beside all: {ratio:.3f} (≤ 0.125): {'met' if ratio <= 0.125 else 'not met'};"
        f" {single.show('tree time', 0)} µs beside {single.show('head-end time', 0)} µs",
        "",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.fastdp")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one TCP stream")
    parser.add_argument("--offloads", choices=("on", "off", "both"), default="both")
    parser.add_argument("--json", metavar="FILE", help="every value of every round, into a file")
    args = parser.parse_args()
    leave_nothing()
    if os.geteuid() != 0 or args.rounds < 1:
        print("needs root, and at least one round", file=sys.stderr)
        return 2
    print("Nothing else may run on this machine meanwhile.", file=sys.stderr)
    everything = {}
    for offloads in {"on": (True,), "off": (False,), "both": (True, False)}[args.offloads]:
        title = f"Offloads {'on' if offloads else 'off'}"
        results, single = collect(args.rounds, args.seconds, offloads)
        everything[title] = {name: s.values for name, s in (*results.items(), ("single", single))}
        print(report(title, results, single), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(everything, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())

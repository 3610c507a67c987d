"""Real daemons under traffic: ``python -m bench.soak_daemons [--rounds N] [--gigabytes N]``.

A chain of hosts without a password, a flood of pings and a TCP stream between the pods at its ends.
First what passes at rest: so many gigabytes, while devices that lead to processes, octets that
daemons and workers read, and their processor time are watched. Then rounds: a host's daemon and all
its processes are killed with SIGKILL, and after a while started again; the hosts take turns. What
the flood lost is counted each round, with all that daemons and kernels say of it.
Exits 1 when a frame was read by a process, a ping was lost, or the stream stood still.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

from bench.load import Ends, Stream, stream
from bench.resting import during
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

NAME = "soakdaemons"
SO_FAR = re.compile(r"(\d+)/(\d+) packets")
DEADLINE = 120.0

QUICK = 0.05
"""Seconds between questions."""


class Flood:
    """``ping -f`` that says how it stands when it is asked."""

    def __init__(self, pod: str, address: str, log: Path) -> None:
        self._log = log
        argv = ["ip", "netns", "exec", pod, "ping", "-f", "-q", "-s", "64", address]
        with log.open("wb") as out:
            self._process = subprocess.Popen(argv, stdout=out, stderr=out)

    def lost(self) -> tuple[int, int]:
        """Sent and lost so far; what is under way counts as neither."""
        before = len(SO_FAR.findall(self._log.read_text()))
        self._process.send_signal(signal.SIGQUIT)
        until(lambda: len(SO_FAR.findall(self._log.read_text())) > before)
        received, sent = map(int, SO_FAR.findall(self._log.read_text())[-1])
        return sent, sent - received

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait()


def until(so: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not so():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not become so")
        time.sleep(QUICK)


def links(lab: Lab, name: str) -> dict[str, dict[str, Any]]:
    rows = lab.site(lab.plan().host(name)).get("/v1/links") or ()
    return {row["nickname"]: row for row in rows}


def all_by_kernel(lab: Lab) -> bool:
    names = [host.name for host in lab.plan().hosts]
    seen = {name: links(lab, name) for name in names}
    rows = [seen[a].get(b) for a, b in permutations(names, 2)]
    return all(r is not None and r["overlay"] == "fastdp" and r["reason"] != "held" for r in rows)


def drops(lab: Lab) -> dict[str, dict[str, int]]:
    found = {}
    for host in lab.plan().hosts:
        status = lab.site(host).get("/v1/status") or {}
        found[host.name] = dict(status.get("fastdp", {}).get("drops", {}))
    return found


def tell(lab: Lab, before: dict[str, dict[str, int]]) -> None:
    """All that is known of what was lost."""
    for name, counted in drops(lab).items():
        more = {k: n - before[name].get(k, 0) for k, n in counted.items()}
        print(f"  {name} dropped {json.dumps({k: n for k, n in more.items() if n})}")
        for peer, row in links(lab, name).items():
            history = [
                f"{c['overlay']}/{c['path']} {c['reason']} {c['ago']:.1f} s ago"
                for c in row["history"][:3]
            ]
            print(f"    {name} to {peer}: {'; '.join(history)}")


def at_rest(lab: Lab, running: Stream, gigabytes: float) -> bool:
    """Whether no process read a frame while so much passed."""
    began = running.octets()
    wanted = began + int(gigabytes * 1e9)
    started = time.monotonic()
    done = during(lab, lambda: until_passed(running, wanted))
    took, passed = time.monotonic() - started, running.octets() - began
    idle = during(lab, lambda: time.sleep(min(took, 20.0)))
    print(
        f"{passed / 1e9:.1f} GB through {len(lab.plan().hosts) - 2} relays in {took:.0f} s:"
        f" {done.frames} frames by the sleeve's devices, {done.upcalls} by the upcalls',"
        f" {done.octets_read / 1e3:.0f} kB read and {done.seconds:.2f} s used by"
        f" all daemons and workers"
        f" ({idle.octets_read / 1e3:.0f} kB and {idle.seconds:.2f} s in"
        f" {min(took, 20.0):.0f} s of the same flood)"
    )
    return done.frames == 0 and done.octets_read < passed / 100


def until_passed(running: Stream, octets: int) -> None:
    before, stood = running.octets(), time.monotonic()
    while running.octets() < octets:
        if running.octets() > before:
            before, stood = running.octets(), time.monotonic()
        if time.monotonic() - stood > DEADLINE:
            raise TimeoutError("the stream stands still")
        time.sleep(QUICK)


def soak(lab: Lab, flood: Flood, running: Stream, rounds: int) -> bool:
    rng = random.Random(rounds)
    names = [host.name for host in lab.plan().hosts]
    sent, lost = flood.lost()
    began, bad, stood = lost, 0, 0
    for number in range(rounds):
        victim, away = names[number % len(names)], rng.choice((0.0, 0.3, 1.0, 4.0))
        before, octets = drops(lab), running.octets()
        lab.kill([victim])
        time.sleep(away)
        lab.start([victim])
        until(lambda: all_by_kernel(lab))
        sent, now = flood.lost()
        stood += running.octets() == octets
        if now - lost > 0:
            bad += 1
            print(f"round {number + 1}: {victim} killed, away {away} s: {now - lost} pings lost")
            tell(lab, before)
        lost = now
        if (number + 1) % 10 == 0:
            print(f"{number + 1} rounds, {sent} pings, {lost - began} lost", file=sys.stderr)
    print(
        f"{rounds} rounds of kill -9 of {len(names)} hosts' daemons in turn: pings {sent},"
        f" lost {lost - began} in {bad} rounds; the stream stood still in {stood}"
    )
    return lost == began and not stood


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.soak_daemons")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--hosts", type=int, default=5)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    args = parser.parse_args()
    if os.geteuid() != 0 or args.rounds < 0 or args.hosts < 2 or args.gigabytes < 0:
        print("needs root, two hosts or more, and no negative numbers", file=sys.stderr)
        return 2
    lab = Lab(NAME, quiet=True)
    lab.down()
    lab.up(Order(name=NAME, hosts=args.hosts, shape=Shape.CHAIN, pods=1))
    flood: Flood | None = None
    try:
        until(lambda: all_by_kernel(lab))
        plan = lab.plan()
        near, far = plan.hosts[0].pods[0], plan.hosts[-1].pods[0]
        known = {p["name"]: p["address"] for h in lab.status()["hosts"] for p in h["pods"]}
        site = lab.site(plan.hosts[0])
        with stream(Ends(near.namespace, far.namespace, known[far.name])) as running:
            flood = Flood(near.namespace, known[far.name], site.directory / "flood")
            good = not args.gigabytes or at_rest(lab, running, args.gigabytes)
            return 0 if soak(lab, flood, running, args.rounds) and good else 1
    finally:
        if flood is not None:
            flood.stop()
        lab.down()
        assert not [n for n in kernel.namespaces() if n.startswith(NAME)]


if __name__ == "__main__":
    sys.exit(main())

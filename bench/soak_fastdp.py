"""Kill and replace the fast path under traffic: ``python -m bench.soak_fastdp [--rounds N]``.

Two hosts, a flood of pings and a TCP stream between their pods. Each round kills -9 the process
that holds each host's fast path and starts another, which takes the tables over; then its programs
are put into force anew. What is lost of the flood is counted, and rounds in which the stream did
not move.
Exits 1 when a ping was lost, a take-over flushed, or the stream broke.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys

from bench.kernelnodes import KernelNode, row
from bench.load import Ends, stream
from bench.nodes import leave_nothing

SENT = re.compile(r"(\d+) packets transmitted, (\d+) received")
HOLDER = """
import sys, time
from mesh.drivers.fastdp.datapath import FastDatapath
datapath = FastDatapath()
found = datapath.takeover
for _ in range(3):
    datapath.start()
print(found, flush=True)
while True:
    datapath.check()
    time.sleep(0.05)
"""


def in_pod(node: KernelNode, *command: str) -> subprocess.Popen[str]:
    argv = ["ip", "netns", "exec", node.pod, *command]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def hold_and_kill(node: KernelNode) -> str:
    """What the next daemon found. It is killed as soon as its programs are in force."""
    argv = ["ip", "netns", "exec", node.namespace, sys.executable, "-c", HOLDER]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        return holder.stdout.readline().strip()
    finally:
        holder.kill()
        holder.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.soak_fastdp")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    leave_nothing()
    if os.geteuid() != 0 or args.rounds < 1:
        print("needs root, and at least one round", file=sys.stderr)
        return 2
    world = row(f"sf{os.getpid() % 1000}", 2)
    flood: subprocess.Popen[str] | None = None
    try:
        a, b = world.nodes
        for node in world.nodes:
            node.let_go()
        flood = in_pod(a, "ping", "-f", "-q", "-s", "64", b.address)
        flushed, stood, octets = 0, 0, 0
        with stream(Ends(a.pod, b.pod, b.address)) as running:
            for number in range(args.rounds):
                for node in world.nodes:
                    found = hold_and_kill(node)
                    flushed += found != "taken-over"
                    before, octets = octets, running.octets()
                    stood += octets == before
                if (number + 1) % 10 == 0:
                    print(f"{number + 1} rounds, {octets / 1e9:.1f} GB", file=sys.stderr)
        flood.send_signal(2)
        said = flood.communicate(timeout=10)[0]
        found_counts = SENT.search(said)
        if found_counts is None:
            print(said, file=sys.stderr)
            return 1
        sent, received = map(int, found_counts.groups())
        print(f"{args.rounds} rounds on each of 2 hosts: killed and taken over, programs replaced"
              f" three times. Pings {sent}, lost {sent - received}; tables flushed {flushed};"
              f" TCP {octets / 1e9:.1f} GB, which stood still in {stood} rounds.")  # fmt: skip
        return 0 if sent == received and not flushed and not stood else 1
    finally:
        if flood is not None and flood.poll() is None:
            flood.kill()
        world.close()


if __name__ == "__main__":
    sys.exit(main())

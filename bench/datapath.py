"""The data path alone: ``python -m bench.datapath [--rounds N] [--seconds S] [--json]``.

Three hosts in a row, a pod behind the bridge of each; nothing but the sleeve workers runs, told
what to do by the worker protocol. Rounds are interleaved, and what is printed is the median with
its quartiles. Nothing else may run on the machine: all of it shares the same processors. How each
figure is taken: docs/benchmarks.md.

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
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figures import ratio, table
from bench.hosts import join_by_vxlan, pod_to_pod, raw, usual_lanes, workers
from bench.load import EVERYTHING, Lengths, Path, shake_hands
from bench.nodes import Cable, World, leave_nothing
from mesh.wire import worker as w

ROWS = ("raw", "vxlan", "sleeve", "plain", "relayed")
QUICK = frozenset({"loaded"})


@contextmanager
def hosts(*, offloads: bool, quick: bool) -> Iterator[tuple[World, list[Path]]]:
    """The three hosts, and the paths between them."""
    tag = f"bd{os.getpid() % 1000}"
    with World(
        tag, 3, [Cable(1, 2), Cable(2, 3)], via={(1, 3): 2}, offloads=offloads, lanes=usual_lanes()
    ) as world:
        a, b, c = world.nodes
        ends = {
            "raw": raw(world, a, b),
            "vxlan": join_by_vxlan(world, a, b, 1),
            "sleeve": pod_to_pod(a, b),
            "plain": pod_to_pod(a, b),
            "relayed": pod_to_pod(a, c),
        }
        parts = QUICK if quick else EVERYTHING
        paths = [Path(row, ends[row], workers(world), parts=parts) for row in ROWS]
        shake_hands(paths)
        yield world, paths


def configure(world: World, *, encrypted: bool) -> None:
    for node in world.nodes:
        node.say(w.Configure(node.short_id, node.name, 1400, encrypted))
        node.counters()


def collect(
    rows: list[str], rounds: int, lengths: Lengths, *, offloads: bool, quick: bool
) -> list[Path]:
    with hosts(offloads=offloads, quick=quick) as (world, everything):
        paths = [path for path in everything if path.name in rows]
        for turn in range(rounds):
            start = turn % len(paths)
            for path in paths[start:] + paths[:start]:
                print(f"offloads {'on' if offloads else 'off'}, round {turn + 1}/{rounds}:"
                      f" {path.name}", file=sys.stderr)  # fmt: skip
                configure(world, encrypted=path.name != "plain")
                path.measure(lengths)
    return paths


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.datapath")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=Lengths().tcp1, help="of one TCP stream")
    parser.add_argument("--rows", default=",".join(ROWS), help="which paths, comma-separated")
    parser.add_argument("--quick", action="store_true", help="one TCP stream and pings alone")
    parser.add_argument("--json", action="store_true", help="every value of every round")
    args = parser.parse_args()
    leave_nothing()
    rows = args.rows.split(",")
    if os.geteuid() != 0 or not set(rows) <= set(ROWS) or args.rounds < 1:
        print(f"needs root, at least one round, and rows of {','.join(ROWS)}", file=sys.stderr)
        return 2
    print("Nothing else may run on this machine meanwhile.", file=sys.stderr)
    everything: dict[str, dict[str, dict[str, list[float]]]] = {}
    for offloads in (False, True):
        lengths = Lengths(tcp1=args.seconds)
        paths = collect(rows, args.rounds, lengths, offloads=offloads, quick=args.quick)
        results = {path.name: path.samples for path in paths}
        title = f"Offloads {'on' if offloads else 'off'}"
        if args.json:
            everything[title] = {name: samples.values for name, samples in results.items()}
            continue
        print(f"### {title}\n\n{table(results)}\n")
        shares = [f"{row} {ratio(results, 'tcp1', row, 'raw'):.2f}" for row in rows if row != "raw"]
        print(f"One TCP stream as a share of raw: {', '.join(shares)}; a relayed one reaches"
              f" {ratio(results, 'tcp1', 'relayed', 'sleeve'):.2f} of a direct one.\n",
              flush=True)  # fmt: skip
    if args.json:
        print(json.dumps(everything, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

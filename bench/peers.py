"""Weaver's sleeve beside the kernel and other encrypted overlays: ``make bench-peers``.

Four hosts in a row, veth pairs between them. Every program runs there at once, idle while another
is measured; rounds are interleaved and begin with another path each time. The sleeve and VXLAN
carry pods' traffic (veth and bridge at both ends); the programs carry their hosts' own, which is
less work. Then the same in bad weather, and beside a forger's flood.

    raw                 veth between the hosts, no overlay
    vxlan               the kernel's VXLAN between the pods, not encrypted
    sleeve              pod to pod, AES-256-GCM
    sleeve, 1 relay     the same over one host, or two, that has no cable past its neighbour
    vxlan, 1 router     kernel VXLAN between the same hosts, IP routed by those between
    wireguard …         see bench/programs.py

Docs: docs/benchmarks.md says how each figure is taken.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory
from time import monotonic as clock

from bench import storms
from bench.forger import Forger, Siege
from bench.hosts import join_by_vxlan, pod_to_pod, raw, route_underlay, usual_lanes, workers
from bench.load import EVERYTHING, Lengths, Path, Pids, shake_hands
from bench.nodes import Cable, World, leave_nothing, run
from bench.plot import svg
from bench.processors import machine_seconds
from bench.programs import PROGRAMS, missing, running, versions
from bench.report import Mode, Report, load, markdown, published, to_json

ROOT = FilePath(__file__).parent.parent
DIRECT = ("raw", "vxlan", "sleeve", *PROGRAMS)
RELAYED = {
    "sleeve1": "sleeve, 1 relay",
    "sleeve2": "sleeve, 2 relays",
    "vxlan1": "vxlan, 1 router",
    "vxlan2": "vxlan, 2 routers",
}
WEATHER, FORGER = "weather", "forger"
ROWS = (*DIRECT, *RELAYED, WEATHER, FORGER)
CHAIN = [Cable(1, 2), Cable(2, 3), Cable(3, 4)]
VIA = {(1, 3): 2, (2, 4): 3, (1, 4): 2, (4, 1): 3}
QUICK = frozenset({"loaded"})


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def noting(failures: list[str], step: str) -> Iterator[None]:
    """A step that fails is noted and does not take the quarter of an hour with it."""
    try:
        yield
    except (RuntimeError, OSError) as err:  # TimeoutError is of the latter
        failures.append(f"{step}: {err}")
        say(failures[-1])


def nobody() -> list[int]:
    return []


@contextmanager
def row_of_hosts(
    tag: str, rows: Sequence[str], *, offloads: bool, quick: bool
) -> Iterator[tuple[World, list[Path]]]:
    """The hosts, their programs running, and the paths between them that were asked for."""
    with ExitStack() as stack:
        folder = FilePath(stack.enter_context(TemporaryDirectory(prefix="bench-peers")))
        world = stack.enter_context(
            World(tag, 4, CHAIN, via=VIA, offloads=offloads, lanes=usual_lanes())
        )
        route_underlay(world)
        a, b, c, d = world.nodes
        sleeves = workers(world)
        paths: dict[str, Path] = {}

        def add(name: str, path: Path) -> None:
            if name in rows:
                paths[name] = path

        everything = QUICK if quick else EVERYTHING
        add("raw", Path("raw", raw(world, a, b), nobody, parts=everything))
        add("vxlan", Path("vxlan", join_by_vxlan(world, a, b, 1), nobody, parts=everything))
        add("sleeve", Path("sleeve", pod_to_pod(a, b), sleeves, parts=everything))
        for name in PROGRAMS:
            if name in rows:
                ends, pids = stack.enter_context(running(name, a, b, folder))
                add(name, Path(name, ends, held(pids), parts=everything))
        for name, far in (("sleeve1", c), ("sleeve2", d)):
            parts = everything - {"loaded"}
            add(name, Path(RELAYED[name], pod_to_pod(a, far), sleeves, parts=parts))
        for name, far in (("vxlan1", c), ("vxlan2", d)):
            if name in rows:
                ends = join_by_vxlan(world, a, far, far.number)
                add(name, Path(RELAYED[name], ends, nobody, parts=frozenset()))
        in_order = [paths[name] for name in rows if name in paths]
        shake_hands(in_order)
        yield world, in_order


def held(pids: list[int]) -> Pids:
    return lambda: pids


def side_by_side(
    tag: str,
    rows: Sequence[str],
    rounds: int,
    lengths: Lengths,
    rates: dict[str, dict[int, float]],
    *,
    offloads: bool,
    quick: bool,
) -> Mode:
    """Every path and the forger, in one set of hosts.

    ``rates``: where searches begin, by path; and, after it, where the next ones may.
    """
    word = "on" if offloads else "off"
    mode = Mode()
    with row_of_hosts(tag, rows, offloads=offloads, quick=quick) as (world, paths):
        for path in paths:
            path.found = rates.setdefault(path.name, {})
        for turn in range(rounds):
            start = turn % len(paths) if paths else 0
            for path in paths[start:] + paths[:start]:
                step, began = f"offloads {word}, round {turn + 1}/{rounds}: {path.name}", clock()
                with noting(mode.failures, step):
                    path.measure(lengths)
                say(f"{step} ({clock() - began:.1f} s)")
        mode.paths = {path.name: path.samples for path in paths}
        if FORGER in rows:
            with TemporaryDirectory(prefix="bench-forger") as folder, Forger(
                world, tag, world.node(2), world.node(1)
            ) as forger:  # fmt: skip
                siege = Siege(world, forger, FilePath(folder))
                for turn in range(rounds):
                    step = f"offloads {word}, round {turn + 1}/{rounds}: forger"
                    with noting(mode.failures, step):
                        siege.measure(turn)
                    say(step)
                mode.forged = siege.results
    return mode


def measure(
    rows: Sequence[str], rounds: int, lengths: Lengths, modes: Sequence[str], *, quick: bool
) -> dict[str, Mode]:
    found: dict[str, Mode] = {}
    rates: dict[str, dict[int, float]] = {}
    for word in modes:
        tag = f"bp{os.getpid() % 1000}"
        offloads = word == "on"
        mode = (
            side_by_side(tag, rows, rounds, lengths, rates, offloads=offloads, quick=quick)
            if set(rows) - {WEATHER}
            else Mode()
        )
        if WEATHER in rows:
            paths = tuple(row for row in storms.ROWS if row in rows) or storms.ROWS
            step = f"offloads {word}, weather, round"
            with storms.places(f"{tag}w", paths, coalesce=offloads) as weather:
                for turn in range(rounds):
                    with noting(mode.failures, f"{step} {turn + 1}/{rounds}"):
                        weather.measure(turn)
                    say(f"{step} {turn + 1}/{rounds}")
                weather.count_overflow()
            mode.weather, mode.capacity = weather.results, weather.capacity
            mode.overflow = weather.overflow
        found[word] = mode
    return found


def commit() -> str:
    """What is checked out now."""
    changed = run("git", "-C", str(ROOT), "status", "--porcelain", check=False).strip()
    name = run("git", "-C", str(ROOT), "rev-parse", "HEAD", check=False).strip() or "unknown"
    return name[:12] + (", with changes" if changed else "")


def about(rows: Sequence[str], of: str, took: float, others: float) -> dict[str, str]:
    """Where and of what this was measured."""
    cpu = re.search(r"^model name\s*: (.*)$", FilePath("/proc/cpuinfo").read_text(), re.MULTILINE)
    programs = ", ".join(f"{name} {version}" for name, version in versions(rows).items())
    control = FilePath("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "Machine": f"{os.cpu_count()} × {cpu[1] if cpu else platform.machine()}",
        "Kernel": f"{platform.system()} {platform.release()}; TCP {control} outside the weather",
        "Commit": of,
        "Command": shlex.join(["python", "-m", "bench.peers", *sys.argv[1:]]),
        "Sleeve": f"{usual_lanes()[0]} process a host, as a daemon chooses here",
        "Programs": programs or "none",
        "Took": f"{took / 60:.1f} minutes; other work took {others:.0%} of the processors' time",
    }


def publish(report: Report, folder: FilePath) -> None:
    """Results, plot, and the text between the marks of the page about benchmarks."""
    page = folder / "benchmarks.md"
    text = f"![The figures below as bars](benchmarks.svg)\n\n{markdown(report)}"
    new = published(page.read_text(), text)  # before anything is written: it may have no marks
    (folder / "benchmarks.json").write_text(dumped(report))
    (folder / "benchmarks.svg").write_text(svg(report))
    page.write_text(new)


def dumped(report: Report) -> str:
    return json.dumps(to_json(report), indent=1, allow_nan=False) + "\n"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.peers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=Lengths().tcp1, help="of one TCP stream")
    parser.add_argument("--rows", default=",".join(ROWS), help="which, comma-separated")
    parser.add_argument("--offloads", choices=("on", "off", "both"), default="both")
    parser.add_argument("--quick", action="store_true",
                        help="3 rounds at most of one TCP stream and pings alone")  # fmt: skip
    parser.add_argument("--json", type=FilePath, metavar="FILE", help="keep every value there")
    parser.add_argument("--from", type=FilePath, metavar="FILE", dest="earlier",
                        help="measure nothing: print the results kept there")  # fmt: skip
    parser.add_argument("--publish", type=FilePath, metavar="FOLDER",
                        help="write results, plot and tables into this folder of docs")  # fmt: skip
    return parser.parse_args(arguments)


def refusal(args: argparse.Namespace, rows: Sequence[str]) -> str | None:
    """Why this cannot be measured."""
    unknown = sorted(set(rows) - set(ROWS))
    if unknown:
        return f"no row {', '.join(unknown)}; there are {','.join(ROWS)}"
    if args.rounds < 1 or not 0.1 <= args.seconds <= 60:
        return "needs at least one round, of 0.1 to 60 seconds a stream"
    if os.geteuid() != 0:
        return "needs root"
    lacking = missing(rows)
    if lacking:
        return f"needs {', '.join(lacking)}: make bench-peers installs them"
    return None


def main() -> int:
    args = parse()
    leave_nothing()
    if args.earlier is not None:
        try:
            report = load(args.earlier)
        except ValueError as err:
            say(str(err))
            return 2
    else:
        rows = args.rows.split(",")
        if args.quick:
            rows = [row for row in rows if row not in (WEATHER, FORGER)]
        why = refusal(args, rows)
        if why is not None:
            say(why)
            return 2
        say("Nothing else may run on this machine meanwhile.")
        began, machine, of = clock(), machine_seconds(), commit()
        rounds = min(args.rounds, 3) if args.quick else args.rounds
        modes = ("off", "on") if args.offloads == "both" else (args.offloads,)
        found = measure(rows, rounds, Lengths(tcp1=args.seconds), modes, quick=args.quick)
        took = clock() - began
        others = machine_seconds() - machine - sum(os.times()[:4])
        share = max(0.0, others) / took / (os.cpu_count() or 1)
        report = Report(about(rows, of, took, share), found)
    if args.json is not None:
        args.json.write_text(dumped(report))
    if args.publish is not None:
        publish(report, args.publish)
    print(markdown(report), flush=True)
    return 1 if any(mode.failures for mode in report.modes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.sim --seeds 1-200``: many meshes, one closing line, exit 1 on any failure.

A seed runs the story of a whole mesh with addresses; with ``--paths`` instead that of data paths,
with a spell of loss under a stream at its end.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
import traceback
from collections.abc import Iterable
from typing import NamedTuple

from tests.sim import paths
from tests.sim.mesh import story
from tests.sim.sharing import share
from tests.sim.spells import spell


class Outcome(NamedTuple):
    """What became of one seed; ``failure`` is empty when all was well."""

    seed: int
    operations: int
    digest: str
    failure: str


class Job(NamedTuple):
    """``paths``: the story of data paths, which has its own number of peers."""

    seed: int
    peers: int
    paths: bool = False


def seeds_of(text: str) -> list[int]:
    """``1-200``, ``3,5,9`` or both mixed. Raises ValueError."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        some = range(int(low), int(high if dash else low) + 1)
        if not some:
            raise ValueError(f"no seeds in {part}")
        seeds += some
    return seeds


def one(job: Job) -> Outcome:
    seed, peers, of_paths = job
    try:
        if of_paths:
            ways = paths.story(seed)
            spell(ways)
            return Outcome(seed, len(ways.troubles), ways.network.transcript.hexdigest(), "")
        mesh = story(seed, peers)
        return Outcome(seed, mesh.operations, mesh.digest(), "")
    except Exception:
        return Outcome(seed, 0, "", traceback.format_exc(limit=-6))
    finally:
        gc.collect()


def report(outcomes: Iterable[Outcome], seeds: int, what: str) -> int:
    """Print what went wrong as it comes, then one line; the exit code."""
    began = time.monotonic()
    operations, failed = 0, []
    for outcome in outcomes:
        operations += outcome.operations
        if outcome.failure:
            failed.append(outcome.seed)
            print(f"seed {outcome.seed} FAILED\n{outcome.failure}", flush=True)
        elif seeds <= 8:
            done = f"seed {outcome.seed}: {outcome.operations} operations"
            print(f"{done}, underlay {outcome.digest[:16]}", flush=True)
    elapsed = time.monotonic() - began
    print(
        f"{seeds} seeds of {what}, {operations} operations,"
        f" {len(failed)} failures{f' {sorted(failed)}' if failed else ''}, {elapsed:.0f} s"
    )
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=[1])
    parser.add_argument("--peers", type=int, default=12)
    parser.add_argument("--paths", action="store_true", help="stories of data paths")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    jobs = [Job(seed, args.peers, args.paths) for seed in args.seeds]
    what = "data paths" if args.paths else f"{args.peers} peers"
    with multiprocessing.Pool(args.jobs, share) as pool:
        return report(pool.imap_unordered(one, jobs), len(jobs), what)


if __name__ == "__main__":
    sys.exit(main())

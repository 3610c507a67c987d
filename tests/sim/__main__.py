"""``python -m tests.sim --seeds 1-200``: many meshes, one closing line, exit 1 on any failure.

Every seed runs the story of a whole mesh with addresses, every second one that of data paths too,
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


def one(job: tuple[int, int]) -> Outcome:
    seed, peers = job
    try:
        mesh = story(seed, peers)
        if seed % 2 == 0:
            spell(paths.story(seed))
    except Exception:
        return Outcome(seed, 0, "", traceback.format_exc(limit=-6))
    finally:
        gc.collect()
    return Outcome(seed, mesh.operations, mesh.digest(), "")


def report(outcomes: Iterable[Outcome], seeds: int, peers: int) -> int:
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
        f"{seeds} seeds of {peers} peers, {operations} operations,"
        f" {len(failed)} failures{f' {sorted(failed)}' if failed else ''}, {elapsed:.0f} s"
    )
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=[1])
    parser.add_argument("--peers", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    jobs = [(seed, args.peers) for seed in args.seeds]
    with multiprocessing.Pool(args.jobs, share) as pool:
        return report(pool.imap_unordered(one, jobs), len(jobs), args.peers)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.sim --seeds 1-200``: many meshes, one closing line, exit 1 on any failure.

Every seed runs two stories: that of a whole mesh with addresses, and that of data paths.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import sys
import time
import traceback

import mesh.connection.handshake
import mesh.router.unicast
import mesh.topology.record
from mesh.crypto.identity import verify
from tests.sim import paths
from tests.sim.mesh import story


def seeds_of(text: str) -> list[int]:
    """``1-200``, ``3,5,9`` or both mixed. Raises ValueError."""
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.partition("-")
        seeds += range(int(low), int(high if dash else low) + 1)
    return seeds


def one(job: tuple[int, int]) -> tuple[int, int, str, str]:
    """(seed, operations, digest, failure)."""
    seed, peers = job
    try:
        mesh = story(seed, peers)
        paths.story(seed)
    except Exception:
        return seed, 0, "", traceback.format_exc(limit=-6)
    return seed, mesh.operations, mesh.digest(), ""


def share_verification() -> None:
    """A signature that one peer of a mesh found genuine is genuine for the others too.

    Checking is a function of its arguments alone; done once, a sixth of a run's time is saved.
    """
    once = functools.lru_cache(1 << 12)(verify)
    for module in (mesh.connection.handshake, mesh.router.unicast, mesh.topology.record):
        vars(module)["verify"] = once


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=[1])
    parser.add_argument("--peers", type=int, default=12)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    began = time.monotonic()
    operations, failed = 0, []
    jobs = [(seed, args.peers) for seed in args.seeds]
    with multiprocessing.Pool(args.jobs, share_verification) as pool:
        for seed, count, digest, failure in pool.imap_unordered(one, jobs):
            operations += count
            if failure:
                failed.append(seed)
                print(f"seed {seed} FAILED\n{failure}", flush=True)
            elif len(jobs) <= 8:
                print(f"seed {seed}: {count} operations, underlay {digest[:16]}", flush=True)
    elapsed = time.monotonic() - began
    print(
        f"{len(jobs)} seeds of {args.peers} peers, {operations} operations,"
        f" {len(failed)} failures{f' {sorted(failed)}' if failed else ''}, {elapsed:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m tests.ipam --seeds 1-500 --steps 200``: many stories of addresses, one closing line.

A failure prints its seed, what it was, and the shortest story found that fails in the same way;
exit 1 then. An input is an order, a message, gossip or a timer that an allocator was given.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.ipam.fakes import install
from tests.ipam.story import Step, story, written
from tests.sim.__main__ import seeds_of


class Outcome(NamedTuple):
    seed: int
    steps: int
    inputs: int
    failure: str
    shortest: tuple[str, ...] = ()


def failure_of(seed: int, steps: Sequence[Step]) -> str:
    """What went wrong, in a line; empty when nothing did."""
    try:
        story(seed, len(steps), steps)
    except Exception as err:  # a crash of a core is a failure like any other
        return f"{type(err).__name__}: {err}"
    return ""


def one(job: tuple[int, int]) -> Outcome:
    seed, steps = job
    script = written(seed, steps)
    try:
        told = story(seed, steps, script)
    except Exception as err:
        failure = f"{type(err).__name__}: {err}"
    else:
        return Outcome(seed, steps, told.world.inputs, "")
    from tests.ipam.shrink import shrunk

    kind = failure[:20]
    shortest = shrunk(script, lambda some: failure_of(seed, some).startswith(kind))
    return Outcome(seed, steps, 0, failure, tuple(map(str, shortest)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.ipam", description=__doc__)
    parser.add_argument("--seeds", type=seeds_of, default=list(range(1, 501)))
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    began, steps, inputs, failed = time.monotonic(), 0, 0, []
    with multiprocessing.Pool(args.jobs, install) as pool:
        jobs = [(seed, args.steps) for seed in args.seeds]
        for outcome in pool.imap_unordered(one, jobs, chunksize=4):
            steps, inputs = steps + outcome.steps, inputs + outcome.inputs
            if outcome.failure:
                failed.append(outcome.seed)
                print(f"seed {outcome.seed} FAILED {outcome.failure}", flush=True)
                print("".join(f"  {line}\n" for line in outcome.shortest), end="", flush=True)
    elapsed = time.monotonic() - began
    print(
        f"{len(args.seeds)} seeds, {steps} operations, {inputs} inputs to allocators,"
        f" {len(failed)} failures{f' {sorted(failed)}' if failed else ''}, {elapsed:.0f} s,"
        f" {steps / elapsed:.0f} operations and {inputs / elapsed:.0f} inputs a second"
        f" on {args.jobs} cores"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

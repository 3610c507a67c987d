"""Where a sleeve worker's time goes: ``python -m bench.stages [--seconds S]``, a Markdown table.

The worker runs as it is but for a stopwatch around its system calls and its AEAD; what is left of
its processor time is Python's. One TCP stream between two hosts, offloads on and off.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.hosts import pod_to_pod
from bench.load import stream
from bench.nodes import Cable, World
from mesh.crypto.aead import AEADS, Aead
from mesh.drivers.sleeve import __main__ as worker_main
from mesh.drivers.sleeve import abi, intake, sender, uplink
from mesh.link import peers

spent: dict[str, list[float]] = {}
"""Stage -> [calls, seconds]."""


def watched(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
    entry = spent.setdefault(stage, [0, 0.0])
    clock = time.thread_time

    def timed(*args: Any) -> Any:  # noqa: ANN401  # of whatever it watches
        began = clock()
        try:
            return call(*args)
        finally:
            entry[1] += clock() - began
            entry[0] += 1

    return timed


class _Aead:
    """A cipher with a stopwatch."""

    def __init__(self, make: type[Aead], key: bytes) -> None:
        aead = make(key)
        self.encrypt_into = watched("seal", aead.encrypt_into)
        self.decrypt_into = watched("open", aead.decrypt_into)
        self.encrypt = aead.encrypt


class _Os:
    """The module ``os`` with a stopwatch around what the TAP is read and written by."""

    readv = staticmethod(watched("TAP read", os.readv))
    write = staticmethod(watched("TAP write", os.write))


def run_worker() -> int:
    """The worker itself, its times written to the file that STAGES names when it ends."""
    setattr(sender, "sendmsg", watched("sendmsg", abi.sendmsg))  # noqa: B010
    for name in ("recvmsg", "recvmmsg"):
        setattr(intake, name, watched(name, getattr(abi, name)))
    setattr(uplink, "os", _Os)  # noqa: B010
    watched_aeads = {cipher: partial(_Aead, make) for cipher, make in AEADS.items()}
    setattr(peers, "AEADS", watched_aeads)  # noqa: B010

    began = time.process_time()
    try:
        return worker_main.main()
    finally:
        spent["all"] = [1, time.process_time() - began]
        Path(f"{os.environ['STAGES']}.{os.getpid()}").write_text(json.dumps(spent))


def report(files: dict[str, Path], gigabytes: float) -> list[str]:
    lines = []
    for side, path in files.items():
        times: dict[str, list[float]] = json.loads(path.read_text())
        total = times.pop("all")[1]
        stages = {name: entry for name, entry in times.items() if entry[0]}
        rest = total - sum(entry[1] for entry in stages.values())
        rows = sorted(stages.items(), key=lambda item: -item[1][1])
        for name, (calls, seconds) in [*rows, ("Python", [0, rest])]:
            lines.append(
                f"| {side} | {name} | {seconds / total:.0%} | {seconds / gigabytes:.2f} |"
                f" {calls / gigabytes:,.0f} |"
            )
    return lines


def main() -> int:
    if "STAGES" in os.environ:
        return run_worker()
    parser = argparse.ArgumentParser(prog="bench.stages")
    parser.add_argument("--seconds", type=float, default=4)
    args = parser.parse_args()
    for offloads in (False, True):
        with TemporaryDirectory() as folder:
            os.environ["STAGES"] = f"{folder}/times"
            try:
                world = World(f"bs{os.getpid() % 1000}", 2, [Cable(1, 2)], offloads=offloads,
                              module="bench.stages")  # fmt: skip
                with world:
                    a, b = world.nodes
                    files = {
                        side: Path(f"{folder}/times.{node.pid}")
                        for side, node in (("sender", a), ("receiver", b))
                    }
                    with stream(pod_to_pod(a, b)):
                        time.sleep(args.seconds)
                    gigabytes = a.counters().tx_octets / 1e9
                    for node in world.nodes:
                        node.stop()
                    print(f"### Offloads {'on' if offloads else 'off'}\n")
                    print("| side | stage | share | s/GB | calls/GB |\n|---|---|---|---|---|")
                    print("\n".join(report(files, gigabytes)), end="\n\n")
            finally:
                del os.environ["STAGES"]
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Records that follow the path beside records of one size: ``python -m bench.loss``.

Two hosts and a pod behind the bridge of each, three times: once with the worker as it is, once
with records of one datagram, once with the largest. One stream of TCP through each in turn, rounds
interleaved, at each rate of loss; median goodput in Mb/s with quartiles. Loss is dice in the
receiving host (nftables), on a cable without offloads, so that a datagram is lost by itself; with
``--delay`` it is weather on the cable (``bench.weather``), which loses both ways.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from bench.figures import Samples
from bench.nodes import PORT, Cable, Node, World, leave_nothing, run_in
from bench.weather import Weather

KINDS = {"adaptive": None, "one datagram": "1", "largest": "1000"}
WITHIN = 5.0
"""Seconds until a listener must be there."""

SETTLE = 2
"""Seconds of each stream that do not count: the rate of loss has just become another."""

POD_MTU = 1400
"""So that a full segment of TCP fits one datagram of Ethernet."""


@contextlib.contextmanager
def worlds(delay: float) -> Iterator[dict[str, World]]:
    """``delay``: ms one way."""
    with contextlib.ExitStack() as stack:
        made = {}
        for n, (kind, pin) in enumerate(KINDS.items()):
            module = "mesh.drivers.sleeve" if pin is None else "bench.pinned"
            os.environ["PIN"] = pin or ""
            tag = f"bl{os.getpid() % 1000}{'abc'[n]}"
            cable = Cable(1, 2, weather=Weather(delay=delay / 1e3) if delay else None)
            made[kind] = stack.enter_context(
                World(tag, 2, [cable], offloads=False, module=module,
                      pod_mtu=POD_MTU, mtu=POD_MTU)
            )  # fmt: skip
            there = made[kind].nodes[1].namespace
            run_in(there, "nft", "add table inet loss")
            hook = "{ type filter hook input priority 0; }"
            run_in(there, "nft", f"add chain inet loss dice {hook}")
        yield made


def lose(world: World, percent: float) -> None:
    """What goes from the first host to the second is lost to that share from now on."""
    weather, there = world.cables[0].weather, world.nodes[1].namespace
    if weather is not None:
        weather.set(loss=percent / 100)
        return
    run_in(there, "nft", "flush chain inet loss dice")
    if percent:
        dice = f"udp dport {PORT} numgen random mod 10000 < {round(percent * 100)} drop"
        run_in(there, "nft", f"add rule inet loss dice {dice}")


def stream(a: Node, b: Node, congestion: str, seconds: int) -> float:
    """Mb/s of one stream between two pods; 0 when it did not get through."""
    server = subprocess.Popen(
        ["ip", "netns", "exec", b.pod, "iperf3", "-s", "-1", "-B", b.address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_listener(b.pod, 5201, "t")
        said = run_in(a.pod, "iperf3", "-J", "-c", b.address, "-t", str(seconds), "-O", str(SETTLE),
                      "-C", congestion, check=False, within=seconds + 30)  # fmt: skip
        return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e6
    except (ValueError, KeyError):
        return 0.0
    finally:
        server.terminate()
        server.wait()


def wait_for_listener(namespace: str, port: int, kind: str) -> None:
    """``kind`` is ss's letter for the protocol."""
    deadline = time.monotonic() + WITHIN
    while f":{port} " not in run_in(namespace, "ss", f"-Hln{kind}"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no listener on {port} in {namespace}")
        time.sleep(0.02)


def measure(
    losses: list[float], delay: float, rounds: int, seconds: int, congestion: str
) -> dict[tuple[float, str], Samples]:
    samples: dict[tuple[float, str], Samples] = {}
    with worlds(delay) as made:
        for number in range(rounds):
            for percent in losses:
                kinds = list(made)
                for kind in kinds[number % 3 :] + kinds[: number % 3]:
                    world = made[kind]
                    a, b = world.nodes
                    lose(world, percent)
                    rate = stream(a, b, congestion, seconds)
                    samples.setdefault((percent, kind), Samples()).add("rate", rate)
                    print(f"{number} {percent} % {kind}: {rate:.0f}", file=sys.stderr, flush=True)
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.loss", description=__doc__)
    parser.add_argument("--losses", default="0,0.1,1,5", help="per cent, with commas between")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of one stream")
    parser.add_argument("--delay", type=float, default=0.0, help="ms one way")
    parser.add_argument("--congestion", default="cubic", help="TCP's congestion control (cubic)")
    args = parser.parse_args()
    leave_nothing()
    losses = [float(text) for text in args.losses.split(",")]
    samples = measure(losses, args.delay, args.rounds, args.seconds, args.congestion)
    print(f"| loss | {' | '.join(KINDS)} | adaptive / one | adaptive / largest |")
    print("|---|" + "---|" * (len(KINDS) + 2))
    for percent in losses:
        of = {kind: samples[percent, kind] for kind in KINDS}
        pairs = {
            kind: median(
                a / b if b else float("inf")
                for a, b in zip(of["adaptive"].values["rate"], of[kind].values["rate"], strict=True)
            )
            for kind in ("one datagram", "largest")
        }
        shown = " | ".join(samples.show("rate", 0) for samples in of.values())
        ratios = " | ".join(f"{ratio:.2f}" for ratio in pairs.values())
        print(f"| {percent:g} % | {shown} | {ratios} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

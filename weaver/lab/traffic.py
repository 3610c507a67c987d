"""What people send through a mesh to see that it works: pings, a TCP stream, a marked payload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path

from mesh.errors import WeaverError
from weaver.lab import kernel
from weaver.lab.plan import Plan, Pod
from weaver.lab.processes import Process, kill, spawn
from weaver.lab.waiting import wait_until

LISTEN_TIMEOUT = 5.0

AT_ONCE = 16
"""Pings under way together: a pair that does not answer costs a second of one place."""


class TrafficError(WeaverError):
    """A transfer did not happen; the message is the tool's."""

    reason = "lab-traffic"


def ping(pod: Pod, address: str, seconds: int = 1, pattern: str = "") -> bool:
    """One echo; ``pattern`` is up to 16 octets in hex that fill the payload."""
    options = ["-p", pattern] if pattern else []
    command = ["ping", "-n", "-c", "1", "-W", str(seconds), *options, address]
    inside = kernel.inside(pod.namespace, command)
    return subprocess.run(inside, capture_output=True, check=False).returncode == 0


def unreachable_pairs(plan: Plan, addresses: Mapping[str, str], seconds: int = 1) -> list[str]:
    """The ordered pairs of pods of which the first cannot ping the second."""
    pairs = list(permutations(plan.pods, 2))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(
            pool.map(lambda pair: ping(pair[0], addresses[pair[1].name], seconds), pairs)
        )
    return [
        f"{a.name} to {b.name}" for (a, b), fine in zip(pairs, answers, strict=True) if not fine
    ]


def tcp_rate(source: Pod, target: Pod, address: str, log: Path, seconds: int = 3) -> float:
    """Bits a second that one TCP stream carries, as the receiver counts them."""
    server = ["iperf3", "--server", "--one-off", "--json"]
    with _background(target, server, log):
        _wait_for_listener(target, 5201)
        client = ["iperf3", "--client", address, "--time", str(seconds), "--json"]
        report = json.loads(kernel.run(*kernel.inside(source.namespace, client)))
    return float(report["end"]["sum_received"]["bits_per_second"])


def send_marked(source: Pod, target: Pod, address: str, marker: bytes, directory: Path) -> int:
    """Send the marker over and over by TCP; the octets that arrived, which must be all."""
    sent, received = directory / "marked", directory / "received"
    sent.write_bytes(marker * (256 * 1024 // len(marker)))
    with received.open("wb") as sink:
        server = subprocess.Popen(
            kernel.inside(target.namespace, _python(_RECEIVE)),
            stdout=sink,
            stdin=subprocess.DEVNULL,
        )
        try:
            _wait_for_listener(target, _PORT)
            client = kernel.inside(source.namespace, _python(_SEND, address, str(sent)))
            subprocess.run(client, check=True, capture_output=True, timeout=30)
            server.wait(timeout=30)
        except (subprocess.SubprocessError, OSError) as err:
            raise TrafficError(f"the marked transfer failed: {err}") from err
        finally:
            server.kill()
            server.wait()
    if received.read_bytes() != sent.read_bytes():
        raise TrafficError(f"{received.stat().st_size} octets arrived, not the same ones")
    return sent.stat().st_size


_PORT = 5301
_RECEIVE = f"""
import socket, sys
with socket.create_server(("", {_PORT}), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    server.settimeout(30)
    stream, _ = server.accept()
    while data := stream.recv(65536):
        sys.stdout.buffer.write(data)
"""
_SEND = f"""
import socket, sys
with socket.create_connection((sys.argv[1], {_PORT}), 10) as stream:
    stream.sendall(open(sys.argv[2], "rb").read())
"""


def _python(code: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", code, *arguments]


def _wait_for_listener(pod: Pod, port: int) -> None:
    def missing() -> list[str]:
        shown = kernel.run("ip", "netns", "exec", pod.namespace, "ss", "-Hltn", f"sport = :{port}")
        return [] if shown.strip() else [f"{pod.name} port {port}"]

    wait_until("a listener", missing, time.monotonic() + LISTEN_TIMEOUT)


@contextmanager
def _background(pod: Pod, command: list[str], log: Path) -> Iterator[Process]:
    process = spawn(kernel.inside(pod.namespace, command), os.environ, log)
    try:
        yield process
    finally:
        kill([process])

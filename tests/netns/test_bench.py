"""What the benches are made of: weather on a cable, the forger; and nothing stays behind."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.forger import Forger, forgeries
from bench.hosts import pod_to_pod
from bench.load import ping, stream
from bench.nodes import Cable, Node, World, inside, ip, run
from bench.weather import Weather
from tests.netns.traffic import eventually

pytestmark = pytest.mark.netns

TAG = f"be{os.getpid() % 1000}"
SOL_UDP, UDP_SEGMENT = 17, 103


class Pair:
    """Two bare namespaces on one cable, and a UDP socket in each."""

    def __init__(self, weather: Weather) -> None:
        self.names = (f"{TAG}a", f"{TAG}b")
        self.weather = weather
        for name in self.names:
            ip("netns", "add", name)
        weather.lay(*self.names, "u1", 1500)
        macs = [run(*f"ip netns exec {n} cat /sys/class/net/u1/address".split()).strip()
                for n in self.names]  # fmt: skip
        for n, name in enumerate(self.names):
            # Nothing but the test's own datagrams: neither neighbour discovery nor IPv6.
            run(*f"ip netns exec {name} sysctl -qw net.ipv6.conf.all.disable_ipv6=1".split())
            ip(*f"-n {name} addr add 10.1.0.{n + 1}/24 dev u1".split())
            ip(*f"-n {name} link set u1 up".split())
            other = f"10.1.0.{2 - n}"
            ip(*f"-n {name} neigh add {other} lladdr {macs[1 - n]} dev u1 nud permanent".split())
        self.sender, self.receiver = (
            inside(name, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for name in self.names
        )
        self.receiver.bind(("10.1.0.2", 7))
        self.receiver.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
        self.receiver.setblocking(False)
        self.sender.connect(("10.1.0.2", 7))

    def send(self, count: int) -> None:
        for number in range(count):
            self.sender.send(struct.pack("!I", number))

    def decided(self) -> int:
        """Datagrams from first to second whose fate is known."""
        there, _ = self.weather.counts()
        return there.passed + there.lost

    def received(self) -> list[int]:
        numbers = []
        while True:
            try:
                numbers.append(struct.unpack("!I", self.receiver.recv(2048)[:4])[0])
            except BlockingIOError:
                return numbers

    def close(self) -> None:
        self.sender.close()
        self.receiver.close()


@contextmanager
def pair(weather: Weather) -> Iterator[Pair]:
    try:
        two = Pair(weather)
        yield two
        two.close()
    finally:
        weather.remove()
        for end in "ab":
            ip("netns", "del", f"{TAG}{end}", check=False)


def test_fair_weather_passes_everything_in_order() -> None:
    with pair(Weather()) as two:
        two.send(2000)
        eventually(lambda: two.decided() >= 2000)
        assert two.received() == list(range(2000))


def fate(seed: int) -> list[int]:
    with pair(Weather(loss=0.3, seed=seed)) as two:
        two.send(2000)
        eventually(lambda: two.decided() >= 2000)
        return two.received()


def test_a_seed_decides_who_is_lost() -> None:
    first = fate(1)
    assert 1200 < len(first) < 1600, "seven in ten"
    assert fate(1) == first
    assert fate(2) != first


def test_what_is_delayed_is_under_way() -> None:
    with pair(Weather(delay=10.0)) as two:
        two.send(50)
        eventually(lambda: two.weather.counts()[0].waiting >= 50)
        assert two.received() == []


def test_weather_changes_while_traffic_flows() -> None:
    with pair(Weather(loss=1.0)) as two:
        two.send(50)
        eventually(lambda: two.weather.counts()[0].lost >= 50)
        two.weather.set(loss=0.0)
        two.send(50)
        eventually(lambda: two.weather.counts()[0].passed >= 50)
        assert two.received() == list(range(50))


def test_a_super_packet_is_as_many_as_it_has_segments() -> None:
    with pair(Weather()) as two:
        two.sender.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
        two.sender.send(bytes(20_000))
        eventually(lambda: two.decided() >= 20)
        assert len(two.received()) == 20
        assert two.weather.counts()[0].oversize == 0


@pytest.mark.parametrize("wrong", [{"loss": 1.5}, {"loss": -0.1}, {"delay": -1.0}])
def test_impossible_weather_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of"):
        Weather(**wrong)  # type: ignore[arg-type]  # all of them are numbers


def refuses(node: Node, reason: str, count: int) -> None:
    before = node.drops().get(reason, 0)
    eventually(lambda: node.drops().get(reason, 0) >= before + count)


def test_each_forgery_is_refused_for_its_own_reason(tmp_path: Path) -> None:
    """docs/protocol.md 10.3: the flood is what it says it is, and pods go on talking."""
    with World(TAG, 2, [Cable(1, 2)]) as world, Forger(
        world, TAG, world.node(2), world.node(1)
    ) as forger:  # fmt: skip
        a, b = world.nodes
        ping(pod_to_pod(a, b), 3)
        for forgery in forgeries(b, a).values():
            with forger.flood(forgery, tmp_path):
                refuses(b, forgery.reason, 200)
        assert ping(pod_to_pod(a, b), 3)


def test_a_stream_is_counted_where_it_arrives() -> None:
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        with stream(pod_to_pod(a, b), 4) as running:
            eventually(lambda: running.octets() > 10_000_000)
        assert b.counters().rx_octets > 10_000_000


@pytest.mark.parametrize(
    ("row", "told"),
    [("raw", signal.SIGTERM), ("weather", signal.SIGINT), ("forger", signal.SIGTERM)],
)
def test_a_bench_that_is_told_to_end_leaves_nothing(row: str, told: signal.Signals) -> None:
    command = [sys.executable, "-m", "bench.peers", "--rows", row, "--rounds", "99"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True) as bench:  # fmt: skip
        tag = f"bp{bench.pid % 1000}"
        assert bench.stderr is not None
        for line in bench.stderr:
            if "round 1/99" in line:
                break
        assert tag in run("ip", "netns")
        bench.send_signal(told)
        bench.stderr.read()
    assert bench.returncode != 0
    assert tag not in run("ip", "netns")
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if f"/{tag}".encode() in _words(p)]
    assert left == []


def _words(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""

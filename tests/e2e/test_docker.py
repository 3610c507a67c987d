"""Two dockerds on two hosts of a mesh, without Kubernetes: networks and addresses of weaver."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.e2e.daemons import weaver
from tests.e2e.image import REFERENCE, busybox_image
from tests.e2e.runtimes import attached, demand, directory, on, wait_for
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import Process, kill, spawn, with_children

pytestmark = pytest.mark.e2e

NETWORK = "mesh"

# Docker looks for plugins in one place of the machine. Each host sees its own there.
ENTER = """
set -e
mkdir -p /run/docker
mount -t tmpfs none /run/docker
mkdir /run/docker/plugins
ln -s "$1" /run/docker/plugins/weaver.sock
shift
exec "$@"
"""


class Docker:
    """A host of the lab with a dockerd of its own."""

    def __init__(self, site: Site, place: Path) -> None:
        self.site, self.place = site, place
        self._plugin = site.directory / "run" / "docker.sock"
        place.mkdir()
        self._process: Process | None = None
        config = {
            "data-root": f"{place}/data",
            "exec-root": f"{place}/exec",
            "pidfile": f"{place}/pid",
            "hosts": [f"unix://{place}/sock"],
            "bridge": "none",
            "userland-proxy": False,
            "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1024, "Hard": 4096}},
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
        }
        (place / "daemon.json").write_text(json.dumps(config))

    def start(self) -> None:
        network = f"--net=/run/netns/{self.site.host.namespace}"
        dockerd = ["dockerd", "--config-file", f"{self.place}/daemon.json"]
        enter = ["unshare", "-m", "sh", "-c", ENTER, "sh", str(self._plugin)]
        self._process = spawn(
            ["nsenter", network, *enter, *dockerd], self.site.environment, self.place / "log"
        )
        wait_for(lambda: self("version").returncode == 0, self.last_words)

    def kill(self) -> None:
        """dockerd, and its containerd with it; containers, each below a shim, live on."""
        if self._process is not None:
            kill([self._process])
            self._process = None
            # Dead ones that nobody has buried yet would be taken for living.
            for left in ("pid", "exec/containerd/containerd.pid"):
                (self.place / left).unlink(missing_ok=True)

    def close(self) -> None:
        if self._process is None:
            return
        self("rm", "-f", *self("ps", "-aq").stdout.split())
        self("network", "rm", NETWORK)
        kill(with_children(self._process))

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "-H", f"unix://{self.place}/sock", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def run(self, name: str, *options: str) -> None:
        networks = () if "--network" in options else ("--network", NETWORK)
        options = ("-d", "--name", name, *networks, *options)
        done = self("run", *options, REFERENCE, "/bin/sleep", "600")
        assert done.returncode == 0, done.stderr + self.last_words()

    def execute(self, name: str, *command: str) -> str:
        done = self("exec", name, *command)
        return done.stdout + done.stderr

    def address(self, name: str) -> str:
        form = '{{(index .NetworkSettings.Networks "' + NETWORK + '").IPAddress}}'
        return self("inspect", "-f", form, name).stdout.strip()

    def reaches(self, name: str, address: str) -> bool:
        return "1 packets received" in self.execute(name, "ping", "-c1", "-W2", address)

    def last_words(self) -> str:
        return "\n".join((self.place / "log").read_text().splitlines()[-20:])


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab("dktest", quiet=True)
    made.down()
    order = Order(name="dktest", hosts=2, shape=Shape.MESH, pods=0)
    made.up(order, "secret", options=("--docker=docker.sock",))
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def dockers(lab: Lab) -> Iterator[tuple[Docker, Docker]]:
    demand("dockerd", "docker", "runc", "busybox")
    with ExitStack() as stack:
        place = stack.enter_context(directory("docker"))
        image = busybox_image(place / "image.tar")
        made = []
        for host in lab.plan().hosts:
            docker = Docker(lab.site(host), place / host.name)
            docker.start()
            stack.callback(docker.close)
            assert docker("load", "-q", "-i", str(image)).returncode == 0
            ours = ("-d", "weaver", "--ipam-driver", "weaver", "--subnet", "10.32.0.0/12")
            done = docker("network", "create", *ours, NETWORK)
            assert done.returncode == 0, done.stderr + docker.last_words()
            made.append(docker)
        near, far = made
        yield near, far


@pytest.fixture(autouse=True)
def nothing_stays(dockers: tuple[Docker, Docker]) -> Iterator[None]:
    yield
    for docker in dockers:
        docker("rm", "-f", *docker("ps", "-aq").stdout.split())
        assert attached(docker.site) == {}
        assert len(leases(docker.site)) == 1  # the gateway that Docker asks a network for


def leases(site: Site) -> list[str]:
    rows = json.loads(weaver(site, "ipam", "list", "--json").stdout)
    return [row["address"] for row in rows if row["container"].startswith("docker-")]


def test_containers_of_two_hosts_reach_each_other(dockers: tuple[Docker, Docker]) -> None:
    near, far = dockers
    near.run("near")
    far.run("far")
    assert list(attached(near.site).values()) == [near.address("near")]
    # Docker has just told the kernel to drop what is forwarded, also between ports of a bridge.
    wait_for(lambda: near.reaches("near", far.address("far")), near.last_words)
    wait_for(lambda: far.reaches("far", near.address("near")), far.last_words)
    for docker in dockers:
        assert "-P FORWARD DROP" in on(docker.site, "iptables", "-S", "FORWARD").stdout
    assert "mtu 1400" in near.execute("near", "ip", "link", "show", "eth0")
    near.run("beside")
    assert near.reaches("near", "beside")  # by name, of Docker's own


def test_an_address_asked_for(dockers: tuple[Docker, Docker]) -> None:
    near, far = dockers
    wanted = str(ip_address(leases(near.site)[0]) + 100)  # of the space that this host owns
    near.run("own", "--ip", wanted)
    assert near.address("own") == wanted
    far.run("asks")
    assert far.reaches("asks", wanted)
    done = near("run", "--rm", "--network", NETWORK, "--ip", wanted, REFERENCE, "/bin/true")
    assert done.returncode != 0
    assert "address-in-use" in done.stderr
    assert near.address("own") == wanted


def test_stop_start_disconnect_connect(dockers: tuple[Docker, Docker]) -> None:
    near, far = dockers
    near.run("moves")
    far.run("stays")
    there = far.address("stays")
    assert near("stop", "-t", "0", "moves").returncode == 0
    assert attached(near.site) == {}
    assert near("start", "moves").returncode == 0
    assert near.reaches("moves", there)
    assert near("network", "disconnect", NETWORK, "moves").returncode == 0
    assert attached(near.site) == {}
    assert near("network", "connect", NETWORK, "moves").returncode == 0
    assert near.reaches("moves", there)


def test_a_published_port(dockers: tuple[Docker, Docker]) -> None:
    near, far = dockers
    near.run("web", "-p", "18200:80")
    near("exec", "-d", "web", "/bin/sh", "-c", "while true; do echo hello | nc -l -p 80; done")
    fetch = ("busybox", "nc", "-w", "2", near.site.host.underlay, "18200")
    wait_for(lambda: "hello" in on(far.site, *fetch).stdout, near.last_words)


def test_containers_outlive_the_daemon(lab: Lab, dockers: tuple[Docker, Docker]) -> None:
    near, far = dockers
    near.run("lives")
    far.run("asks")
    there = near.address("lives")
    lab.kill([near.site.host.name])
    lab.start([near.site.host.name])
    wait_for(lambda: far.reaches("asks", there), near.last_words)
    assert list(attached(near.site).values()) == [there]


def test_dockerd_is_killed(dockers: tuple[Docker, Docker]) -> None:
    """What its containers had is given back when it comes again, and they start anew."""
    near, far = dockers
    near.run("before")
    far.run("asks")
    near.kill()
    near.start()
    assert near("start", "before").returncode == 0, near.last_words()
    assert far.reaches("asks", near.address("before"))
    assert len(attached(near.site)) == 1


def test_networks_that_cannot_be(dockers: tuple[Docker, Docker]) -> None:
    near, _ = dockers
    create = ("network", "create", "-d", "weaver")
    for options in (
        (),
        ("--subnet", "10.95.0.0/24"),
        ("--ipam-driver", "weaver", "--subnet", "10.95.0.0/24"),
        ("--ipam-driver", "weaver", "--ip-range", "10.33.0.0/24", "--subnet", "10.32.0.0/12"),
    ):
        done = near(*create, *options, "wrong")
        assert done.returncode != 0, done.stdout
        assert "foreign-addresses" in done.stderr

"""Podman's containers on two hosts of a mesh, by its CNI backend."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.e2e.daemons import weaver
from tests.e2e.image import REFERENCE, busybox_image
from tests.e2e.runtimes import attached, demand, directory, laboratory, on, wait_for
from weaver.lab.host import Site

pytestmark = pytest.mark.e2e

# crun does not know both generations of cgroups at once; ulimits above the machine's are refused.
CONFIG = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}", "/usr/lib/cni"]
network_config_dir = "{networks}"
default_network = "weaver"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
"""


class Podman:
    """One host's podman, with storage of its own."""

    def __init__(self, site: Site, place: Path) -> None:
        self.site, self._place = site, place
        place.mkdir()
        self._config = place / "containers.conf"
        networks = site.directory / "cni-conf"
        plugins = site.directory / "cni-bin"
        self._config.write_text(CONFIG.format(plugins=plugins, networks=networks))

    def load(self, image: Path) -> None:
        done = self("load", "-q", "-i", str(image))
        assert done.returncode == 0, done.stderr

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        store = ["--root", f"{self._place}/root", "--runroot", f"{self._place}/run"]
        # Not a pipe: what podman leaves behind for a container would hold it open.
        with (self._place / "out").open("w+") as out, (self._place / "err").open("w+") as err:
            network = f"--net=/run/netns/{self.site.host.namespace}"
            done = subprocess.run(
                ["nsenter", network, "podman", *store, "--storage-driver", "overlay", *args],
                env={**os.environ, "CONTAINERS_CONF": str(self._config)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=60,
                check=False,
            )
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(args, done.returncode, out.read(), err.read())

    def run(self, name: str, *options: str) -> str:
        """Start a container that stays; its whole id."""
        done = self("run", "-d", "--name", name, *options, REFERENCE, "/bin/sleep", "600")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def execute(self, name: str, *command: str) -> str:
        done = self("exec", name, *command)
        return done.stdout + done.stderr

    def pings(self, name: str, address: str) -> bool:
        return "1 packets received" in self.execute(name, "ping", "-c1", "-W2", address)

    def remove(self) -> None:
        self("rm", "-f", "-t", "0", "--all")


@pytest.fixture(scope="module")
def podmen() -> Iterator[tuple[Podman, Podman]]:
    demand("podman", "runc", "busybox")
    with ExitStack() as stack:
        place = stack.enter_context(directory("podman"))
        lab = stack.enter_context(laboratory("podtest"))
        image = busybox_image(place / "image.tar")
        made = []
        for host in lab.plan().hosts:
            podman = Podman(lab.site(host), place / host.name)
            stack.callback(podman.remove)
            podman.load(image)
            made.append(podman)
        near, far = made
        yield near, far


@pytest.fixture(autouse=True)
def nothing_stays(podmen: tuple[Podman, Podman]) -> Iterator[None]:
    yield
    for podman in podmen:
        podman.remove()
        assert attached(podman.site) == {}


def test_containers_of_two_hosts_reach_each_other(podmen: tuple[Podman, Podman]) -> None:
    near, far = podmen
    here, there = near.run("near"), far.run("far")
    assert near.pings("near", attached(far.site)[there])
    assert far.pings("far", attached(near.site)[here])
    assert "default via 10." in near.execute("near", "ip", "route")
    assert near("stop", "-t", "0", "near").returncode == 0
    assert attached(near.site) == {}
    assert near("start", "near").returncode == 0
    assert near.pings("near", attached(far.site)[there])


def test_run_once(podmen: tuple[Podman, Podman]) -> None:
    near, _ = podmen
    done = near("run", "--rm", REFERENCE, "/bin/ip", "-4", "-o", "addr", "show", "eth0")
    assert "inet 10." in done.stdout, done.stderr
    assert attached(near.site) == {}


def test_an_address_and_a_mac_of_ones_own(podmen: tuple[Podman, Podman]) -> None:
    near, far = podmen
    wanted = address_of_ours(near.site)
    asked = ("--ip", wanted, "--mac-address", "02:00:00:00:00:99")
    container = near.run("own", *asked)
    assert attached(near.site) == {container: wanted}
    assert "02:00:00:00:00:99" in near.execute("own", "ip", "link", "show", "eth0")
    far.run("asks")
    assert far.pings("asks", wanted)
    done = near("run", "--rm", "--ip", wanted, REFERENCE, "/bin/true")
    assert done.returncode != 0
    assert "address-in-use" in done.stderr  # and who has it keeps it
    assert attached(near.site) == {container: wanted}
    assert near("network", "reload", "own").returncode == 0
    assert attached(near.site) == {container: wanted}
    assert "02:00:00:00:00:99" in near.execute("own", "ip", "link", "show", "eth0")
    assert far.pings("asks", wanted)


def address_of_ours(site: Site) -> str:
    """One that nobody else gives out: of the slices of the range that this host owns."""
    slices = json.loads(weaver(site, "ipam", "ring", "--json").stdout)
    first = next(row for row in slices if row["nickname"] == site.host.name)
    return str(ip_address(first["start"]) + 100)


def test_off_the_network_and_on_it_again(podmen: tuple[Podman, Podman]) -> None:
    near, far = podmen
    container = near.run("moves")
    stays = far.run("stays")
    there = attached(far.site)[stays]
    assert near.pings("moves", there)
    assert near("network", "disconnect", "weaver", "moves").returncode == 0
    assert attached(near.site) == {}
    assert not near.pings("moves", there)
    assert near("network", "connect", "weaver", "moves").returncode == 0
    assert container in attached(near.site)
    wait_for(lambda: near.pings("moves", there), near.site.last_words)


def test_a_published_port(podmen: tuple[Podman, Podman]) -> None:
    near, far = podmen
    near.run("web", "-p", "18090:80")
    greets = "while true; do echo hello | nc -l -p 80; done"
    near("exec", "-d", "web", "/bin/sh", "-c", greets)
    underlay = near.site.host.underlay
    fetch = ("nc", "-w", "2", underlay, "18090")
    wait_for(lambda: "hello" in on(far.site, "busybox", *fetch).stdout, near.site.last_words)
    rules = json.dumps(on(near.site, "iptables-save").stdout)
    assert "18090" in rules
    near("rm", "-f", "-t", "0", "web")
    assert "18090" not in on(near.site, "iptables-save").stdout

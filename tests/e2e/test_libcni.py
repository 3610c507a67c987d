"""The library that container runtimes are built on, from Debian's source: lists, caches, chains."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.runtimes import demand, directory
from tests.netns.census import assert_settles, settled
from tests.netns.cni_host import DEBIAN_PLUGINS, CniHost, Json, Pod, address, host

pytestmark = pytest.mark.e2e

SOURCE = Path(__file__).parent / "libcni" / "main.go"
LIBRARY = Path("/usr/share/gocode")
WEAVER: Json = {"type": "weaver-net", "isDefaultGateway": True}
OF_OURS: Json = {"bandwidth": True, "ips": True, "mac": True}


class LibCni:
    """The client, built once, with its cache, against one CNI host."""

    def __init__(self, place: Path, on: CniHost) -> None:
        self._place, self._host = place, on

    def list(self, version: str, *plugins: Json) -> Path:
        file = self._place / "list.conflist"
        content = {"cniVersion": version, "name": "libcni", "plugins": plugins}
        file.write_text(json.dumps(content))
        return file

    def __call__(
        self, verb: str, conflist: Path, pod: Pod, caps: Json | None = None, *args: str
    ) -> subprocess.CompletedProcess[str]:
        interface = [str(conflist), pod.netns, pod.container, "eth0"]
        return subprocess.run(
            [*self._host.within(), str(self._place / "libcni"), verb, *interface,
             json.dumps(caps or {}), *args],
            capture_output=True,
            text=True,
            env={
                "PATH": os.environ["PATH"],
                "CNI_PATH": f"{self._host.bin}:{DEBIAN_PLUGINS}",
                "CACHE_DIR": str(self._place / "cache"),
            },
            timeout=60,
            check=False,
        )  # fmt: skip

    def result(self, *asked: Any) -> Json:
        done = self(*asked)
        assert done.returncode == 0, done.stderr
        said: Json = json.loads(done.stdout)
        return said

    def fine(self, *asked: Any) -> None:
        done = self(*asked)
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.fixture(scope="module")
def built() -> Iterator[Path]:
    demand("go")
    assert LIBRARY.is_dir()
    with directory("libcni") as place:
        package = place / "go" / "src" / "libcni"
        package.mkdir(parents=True)
        (package / "main.go").write_text(SOURCE.read_text())
        environ = {
            "GO111MODULE": "off",
            "GOPATH": f"{place}/go:{LIBRARY}",
            "GOCACHE": f"{place}/build",
            "CGO_ENABLED": "0",
            "HOME": str(place),
            "PATH": os.environ["PATH"],
        }
        build = ["go", "build", "-p", "1", "-o", str(place / "libcni"), "libcni"]
        done = subprocess.run(build, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        yield place


@pytest.fixture
def made() -> Iterator[CniHost]:
    with host() as one:
        yield one


@pytest.fixture
def libcni(built: Path, made: CniHost) -> LibCni:
    return LibCni(built, made)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_add_check_del_in_each_version(made: CniHost, libcni: LibCni, version: str) -> None:
    pod = made.pod("versions")
    conflist = libcni.list(version, {**WEAVER, "isDefaultGateway": False})
    before = settled(made)
    result = libcni.result("add", conflist, pod)
    assert result["cniVersion"] == version
    assert libcni.result("cached", conflist, pod) == result
    assert pod.link() is not None
    checked = libcni("check", conflist, pod)
    assert (checked.returncode == 0) == (version != "0.3.1"), checked.stderr
    libcni.fine("del", conflist, pod)
    assert libcni("cached", conflist, pod).stdout == ""
    libcni.fine("del", conflist, pod)
    assert_settles(made, before, "files")


def test_what_the_runtime_asks_for(made: CniHost, libcni: LibCni) -> None:
    """Capabilities reach the plugin that declares them, arguments all."""
    pod, other = made.pod("caps"), made.pod("args")
    conflist = libcni.list("1.0.0", {**WEAVER, "capabilities": OF_OURS})
    caps = {
        "ips": ["10.33.0.9/12"],
        "mac": "02:11:22:33:44:55",
        "bandwidth": {"egressRate": 8_000_000, "egressBurst": 8_000_000},
    }
    result = libcni.result("add", conflist, pod, caps)
    assert address(result) == "10.33.0.9"
    assert result["interfaces"][1]["mac"] == "02:11:22:33:44:55"
    shown = pod.run("tc", "qdisc", "show", "dev", "eth0").stdout
    assert "tbf" in shown
    args = ("IgnoreUnknown=1", "K8S_POD_NAME=x", "IP=10.33.0.10", "MAC=02:11:22:33:44:56")
    assert address(libcni.result("add", conflist, other, {}, *args)) == "10.33.0.10"
    for one in (pod, other):
        libcni.fine("check", conflist, one)
        libcni.fine("del", conflist, one)


def test_a_chain_of_all_there_are(made: CniHost, libcni: LibCni) -> None:
    """portmap, tuning, firewall and Debian's bandwidth behind ours: added, and taken down."""
    pod = made.pod("chain")
    chain = (
        {**WEAVER},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "tuning", "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}},
        {"type": "firewall", "backend": "iptables"},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
    )
    conflist = libcni.list("0.4.0", *chain)
    mapped = {"hostPort": 18080, "containerPort": 80, "protocol": "tcp"}
    bound = {"ingressRate": 1_000_000, "ingressBurst": 1_000_000}
    caps = {"portMappings": [mapped], "bandwidth": bound}
    result = libcni.result("add", conflist, pod, caps)
    rules = subprocess.run([*made.within(), "iptables-save"], capture_output=True, check=True)
    assert b"18080" in rules.stdout
    assert address(result).encode() in rules.stdout
    libcni.fine("del", conflist, pod, caps)
    rules = subprocess.run([*made.within(), "iptables-save"], capture_output=True, check=True)
    assert b"18080" not in rules.stdout
    assert set(made.leases()) == {"weave:expose,weave"}


def test_a_chain_that_fails_behind_ours_is_taken_down(made: CniHost, libcni: LibCni) -> None:
    """Its runtime asks for the DEL; nothing of ours is left then."""
    pod = made.pod("fails")
    before = settled(made)
    ours = {**WEAVER, "isDefaultGateway": False}
    conflist = libcni.list("1.0.0", ours, {"type": "tuning", "sysctl": {"no.such": "1"}})
    assert "tuning" in libcni("add", conflist, pod).stderr
    assert pod.link() is not None
    libcni("del", conflist, pod)
    libcni.fine("del", libcni.list("1.0.0", ours), pod)
    assert_settles(made, before, "files")


def test_errors_arrive_as_they_were_said(made: CniHost, libcni: LibCni) -> None:
    pod = made.pod("errors")
    done = libcni("add", libcni.list("1.0.0", {**WEAVER, "mtu": 1}), pod)
    assert (done.returncode, "mtu 1 is not 576" in done.stderr) == (1, True), done.stderr
    made.stop()
    done = libcni("add", libcni.list("1.0.0", WEAVER), pod)
    assert "weaver is not running" in done.stderr
    made.start()

"""Containers of Debian's containerd on two hosts of a mesh: ``ctr run --cni``, nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.image import REFERENCE, busybox_image
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

pytestmark = pytest.mark.e2e

LAB = "ctrtest"
TOOLS = ("containerd", "ctr", "runc", "busybox", "nsenter", "unshare")
DEADLINE = 30.0

# ctr looks for its configuration and its plugins in fixed places. Each host sees its own there, in
# a mount namespace nobody else has: over the machine's directories lies a file system of memory.
ENTER = """
set -e
mount -t tmpfs none /opt
mkdir -p /opt/cni
ln -s "$1" /opt/cni/bin
mkdir -p /opt/upper /opt/work
mount -t overlay -o lowerdir=/etc,upperdir=/opt/upper,workdir=/opt/work none /etc
mkdir -p /etc/cni
rm -rf /etc/cni/net.d
ln -s "$2" /etc/cni/net.d
shift 2
exec "$@"
"""

CONFIG = """
version = 2
root = "{0}/root"
state = "{0}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{0}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{0}/opt"
"""


class Containerd:
    """One containerd with one image, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        config = self.directory / "config.toml"
        config.write_text(CONFIG.format(self.directory))
        with (self.directory / "log").open("wb") as log:
            command = ["containerd", "-c", str(config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(lambda: self._ctr("version").returncode == 0, "containerd does not answer")
        image = busybox_image(self.directory / "image.tar")
        done = self._ctr("images", "import", str(image))
        assert done.returncode == 0, done.stderr

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(DEADLINE)

    @contextmanager
    def running(self, site: Site, name: str) -> Iterator[None]:
        """A container on a host of the lab; gone, with its network, at the end."""
        command = self._command(
            "run", "--rm", "--cni", REFERENCE, name, "/bin/sleep", "600", site=site
        )
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as ctr:
            try:
                wait_for(
                    lambda: ctr.poll() is not None or self.started(name),
                    f"{name} does not run",
                )
                assert ctr.poll() is None, ctr.communicate()[0]
                yield
            finally:
                self._ctr("tasks", "kill", "-s", "KILL", name)
                out, _ = ctr.communicate(timeout=DEADLINE)
        assert b"CNI" not in out, out

    def started(self, name: str) -> bool:
        """Whether a container's own process runs.

        A command can be executed in it before: in a task created but not started, which the
        network is still being made for.
        """
        tasks = (line.split() for line in self._ctr("tasks", "list").stdout.splitlines())
        return any(task[0] == name and task[-1] == "RUNNING" for task in tasks if task)

    def execute(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container."""
        return self._ctr("tasks", "exec", "--exec-id", f"x{time.monotonic_ns()}", name, *command)

    def address(self, name: str) -> str:
        shown = self.execute(name, "ip", "-4", "addr", "show", "eth0")
        found = re.search(r"inet (\S+)/12", shown.stdout)
        assert found is not None, shown.stdout + shown.stderr
        return found[1]

    def _ctr(self, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(*args), capture_output=True, text=True, timeout=60, check=False
        )

    def _command(self, *args: str, site: Site | None = None) -> list[str]:
        ctr = ["ctr", "-a", str(self.directory / "containerd.sock"), *args]
        if site is None:
            return ctr
        own = [str(site.directory / "cni-bin"), str(site.directory / "cni-conf")]
        network = f"--net=/run/netns/{site.host.namespace}"
        return ["nsenter", network, "unshare", "-m", "sh", "-c", ENTER, "sh", *own, *ctr]


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and "e2e" not in os.environ.get("WEAVER_REQUIRE", "").split(","):
        pytest.skip(f"e2e: needs {', '.join(missing)}")
    assert not missing
    directory = Path(tempfile.mkdtemp(prefix="weaver-ctr-", dir="/var/tmp"))
    made = Containerd(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(LAB, quiet=True)
    made.down()
    made.up(Order(name=LAB, hosts=2, shape=Shape.MESH, pods=0), "secret")
    yield made
    made.down()


def test_containers_on_two_hosts_reach_each_other(containerd: Containerd, lab: Lab) -> None:
    near, far = (lab.site(host) for host in lab.plan().hosts)
    with containerd.running(near, "ctr-near"), containerd.running(far, "ctr-far"):
        here, there = containerd.address("ctr-near"), containerd.address("ctr-far")
        assert attached(near) == {"default-ctr-near": here}
        assert attached(far) == {"default-ctr-far": there}
        for name, to in (("ctr-near", there), ("ctr-far", here)):
            done = containerd.execute(name, "ping", "-c", "3", "-W", "2", to)
            assert re.search(r"3 (packets )?received", done.stdout), done.stdout + done.stderr
        route = containerd.execute("ctr-near", "ip", "route").stdout
        assert route.startswith("default via 10."), route
    assert (attached(near), attached(far)) == ({}, {})


def test_containers_outlive_their_daemon(containerd: Containerd, lab: Lab) -> None:
    near, far = (lab.site(host) for host in lab.plan().hosts)
    with ExitStack() as stack:
        stack.enter_context(containerd.running(near, "ctr-stays"))
        stack.enter_context(containerd.running(far, "ctr-asks"))
        there = containerd.address("ctr-stays")
        lab.kill(["h1"])
        lab.start(["h1"])
        wait_for(
            lambda: (
                containerd.execute("ctr-asks", "ping", "-c", "1", "-W", "1", there).returncode == 0
            ),
            "no traffic after the restart",
        )
        assert attached(near) == {"default-ctr-stays": there}


def attached(site: Site) -> dict[str, str]:
    """Containers that a host's daemon has attached, with their addresses."""
    command = [sys.executable, "-m", "weaver", "--socket", str(site.socket), "ps", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    rows = json.loads(done.stdout)
    return {row["container"]: row["addresses"][0].partition("/")[0] for row in rows}


def wait_for(happened: Callable[[], bool], complaint: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.05)

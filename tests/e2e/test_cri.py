"""Pods as kubelet makes them: CRI over gRPC to Debian's containerd on two hosts of a mesh."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from tests.e2e.cri import Cri, Sandbox, decode
from tests.e2e.image import REFERENCE, busybox_image
from tests.e2e.runtimes import attached, demand, directory, laboratory, on, wait_for
from weaver.lab.host import Site
from weaver.lab.processes import Process, kill, spawn, with_children

pytestmark = pytest.mark.e2e

PAUSE = "docker.io/library/weaver-pause:local"

CONFIG = """
version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
  address = "{place}/sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{place}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{place}/cni"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


class Node:
    """A host of the lab with a containerd of its own, that runs in the host's network."""

    def __init__(self, site: Site, place: Path, images: Sequence[Path]) -> None:
        self.site, self.place, self._images = site, place, images
        self._process: Process | None = None
        (place / "cni").mkdir(parents=True)
        for plugins in (Path("/usr/lib/cni"), site.directory / "cni-bin"):
            for plugin in plugins.iterdir():
                (place / "cni" / plugin.name).symlink_to(plugin)
        networks = site.directory / "cni-conf"
        text = CONFIG.format(place=place, networks=networks, image=PAUSE)
        (place / "config.toml").write_text(text)
        self.start()

    def start(self) -> None:
        network = f"--net=/run/netns/{self.site.host.namespace}"
        command = ["nsenter", network, "containerd", "-c", str(self.place / "config.toml")]
        self._process = spawn(command, self.site.environment, self.place / "log")
        wait_for(lambda: self._ctr("version").returncode == 0, self.last_words)
        for image in self._images:
            done = self._ctr("images", "import", str(image))
            assert done.returncode == 0, done.stderr
        self.cri = Cri(self.place / "sock", self.place / "logs")
        wait_for(self._has_network, self.last_words)

    def kill(self) -> None:
        """containerd alone: its pods live on, each below a shim of its own."""
        self.cri.close()
        if self._process is not None:
            kill([self._process])
            self._process = None

    def close(self) -> None:
        """Everything that is still there, then containerd."""
        if self._process is not None:
            for row in self.cri.call("ListPodSandbox", {}).get(1, []):
                number = _first_text(row)
                for method in ("StopPodSandbox", "RemovePodSandbox"):
                    self.cri.call(method, {1: number})
            self.cri.close()
            kill(with_children(self._process))

    def last_words(self) -> str:
        return "\n".join((self.place / "log").read_text().splitlines()[-20:])

    def _has_network(self) -> bool:
        try:
            conditions = self.cri.call("Status", {})[1][0]
        except grpc.RpcError:
            return False
        return b"NetworkPluginNotReady" not in conditions

    def _ctr(self, *args: str) -> subprocess.CompletedProcess[str]:
        command = ["ctr", "-a", str(self.place / "sock"), "-n", "k8s.io", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    demand("containerd", "ctr", "runc", "busybox")
    with ExitStack() as stack:
        place = stack.enter_context(directory("cri"))
        lab = stack.enter_context(laboratory("critest"))
        images = [
            busybox_image(place / "image.tar"),
            busybox_image(place / "pause.tar", PAUSE, "/bin/sleep", "100000"),
        ]
        made = []
        for host in lab.plan().hosts:
            made.append(Node(lab.site(host), place / host.name, images))
            stack.callback(made[-1].close)
        near, far = made
        yield near, far


def test_a_pod_from_its_sandbox_to_its_end(nodes: tuple[Node, Node]) -> None:
    near, far = nodes
    one, other = near.cri.sandbox("one"), far.cri.sandbox("other")
    assert attached(near.site) == {one.number: one.address()}
    one.start(REFERENCE, "/bin/sleep", "600")
    pinged = one.execute("ping", "-c2", "-W2", other.address())
    assert "2 packets received" in pinged
    for node, sandbox in ((near, one), (far, other)):
        sandbox.stop()  # a DEL
        sandbox.stop()
        sandbox.remove()  # and another, without the namespace and the former result
        assert attached(node.site) == {}


def test_a_port_of_the_host(nodes: tuple[Node, Node]) -> None:
    near, far = nodes
    web = near.cri.sandbox("web", {18100: 80})
    web.start(REFERENCE, "/bin/sh", "-c", "while true; do echo hello | nc -l -p 80; done")
    fetch = ("busybox", "nc", "-w", "2", near.site.host.underlay, "18100")
    wait_for(lambda: "hello" in on(far.site, *fetch).stdout, near.last_words)
    web.stop()
    web.remove()
    assert "18100" not in on(near.site, "iptables-save").stdout


def test_ten_pods_at_once(nodes: tuple[Node, Node]) -> None:
    near, _ = nodes
    with ThreadPoolExecutor(10) as pool:
        pods = list(pool.map(near.cri.sandbox, [f"many-{n}" for n in range(10)]))
        addresses = {pod.number: pod.address() for pod in pods}
        assert len({*addresses.values()}) == 10
        assert attached(near.site) == addresses
        list(pool.map(Sandbox.stop, pods))
        list(pool.map(Sandbox.remove, pods))
    assert attached(near.site) == {}


def test_containerd_dies_between_stop_and_remove(nodes: tuple[Node, Node]) -> None:
    near, _ = nodes
    stopped, runs = near.cri.sandbox("stopped"), near.cri.sandbox("runs")
    stopped.stop()
    near.kill()
    assert list(attached(near.site)) == [runs.number]
    near.start()
    for pod in (stopped, runs):
        near.cri.call("StopPodSandbox", {1: pod.number})
        near.cri.call("RemovePodSandbox", {1: pod.number})
    assert attached(near.site) == {}


def _first_text(row: bytes) -> str:
    return str(decode(row)[1][0].decode())

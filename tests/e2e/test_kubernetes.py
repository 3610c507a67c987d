"""Real daemons that are pods of nodes: who they connect to, and whose space becomes whose. The API
server is one of our own (tests/fake_api.py)."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.daemons import weaver
from tests.e2e.runtimes import laboratory, wait_for
from weaver.lab import kernel
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.processes import Process, kill, spawn, with_children

pytestmark = pytest.mark.e2e

PORT = 8080


class Cluster:
    """Three nodes, an API server on the first."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.sites = [lab.site(host) for host in lab.plan().hosts]
        self.daemons: dict[str, Process] = {}
        first = self.sites[0]
        self._api = spawn(
            kernel.inside(
                first.host.namespace,
                [sys.executable, "-m", "tests.fake_api", "0.0.0.0", str(PORT)],
            ),
            first.environment,
            first.directory / "api-log",
        )
        self.url = f"http://{first.host.underlay}:{PORT}/api/v1/nodes"

    def close(self) -> None:
        for process in (self._api, *self.daemons.values()):
            kill(with_children(process))

    def ask(self, method: str, name: str = "", data: str = "") -> Any:
        """Of the API server, from its own host."""
        program = (
            "import sys, urllib.request as r\n"
            "method, url, data = sys.argv[1:]\n"
            "q = r.Request(url, method=method, data=data.encode() or None)\n"
            "print(r.urlopen(q, timeout=5).read().decode())\n"
        )
        url = f"{self.url}/{name}" if name else f"{self.url}?limit=9"
        command = [sys.executable, "-c", program, method, url, data]
        text = kernel.run(*kernel.inside(self.sites[0].host.namespace, command))
        return json.loads(text) if text.strip() else None

    def start(self, site: Site) -> None:
        shutil.rmtree(site.directory / "state", ignore_errors=True)
        url = self.url.removesuffix("/api/v1/nodes")
        self.daemons[site.host.name] = site.launch((), 3, [f"--kubernetes={url}"])

    def node(self, site: Site) -> Any:
        (found,) = [
            item for item in self.ask("GET")["items"] if item["metadata"]["name"] == site.host.name
        ]
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with laboratory("k8stest", hosts=3) as lab:
        lab.kill([host.name for host in lab.plan().hosts])
        made = Cluster(lab)
        try:
            wait_for(lambda: _answers(made), lambda: "the API server does not listen")
            for site in made.sites:
                made.ask("PUT", site.host.name, site.host.underlay)
            for site in made.sites:
                made.start(site)
            yield made
        finally:
            made.close()


def test_nodes_become_peers_and_are_told_so(cluster: Cluster) -> None:
    for site in cluster.sites:
        joined(cluster, site)
        node = cluster.node(site)
        (condition,) = node["status"]["conditions"]
        assert (condition["type"], condition["status"]) == ("NetworkUnavailable", "False")
        assert (
            node["metadata"]["annotations"]["weaver/peer"] == site.get("/v1/status")["us"]["name"]
        )
    given = {weaver(site, "ipam", "allocate", "x").stdout for site in cluster.sites}
    assert len(given) == 3
    assert "" not in given


def test_the_space_of_a_deleted_node_is_used_again(cluster: Cluster) -> None:
    first, second, last = cluster.sites
    wait_for(lambda: owner_of(first, last), first.last_words)
    kill(with_children(cluster.daemons.pop(last.host.name)))
    cluster.ask("DELETE", last.host.name)
    wait_for(lambda: not owner_of(first, last), first.last_words)
    wait_for(lambda: not owner_of(second, last), second.last_words)
    assert first.get("/v1/ipam")["gaps"] == []
    targets = json.loads(weaver(first, "status", "targets", "--json").stdout)
    assert all(last.host.underlay not in row["target"] for row in targets)


def test_a_daemon_whose_api_server_is_gone_goes_on(cluster: Cluster) -> None:
    first, second, _ = cluster.sites
    kill(with_children(cluster._api))
    assert first.not_ready() is None
    assert weaver(second, "ipam", "allocate", "y").stdout.startswith("10.")
    assert not first.strangers([second.host])


def joined(cluster: Cluster, site: Site) -> None:
    """Wait until a daemon knows all others, and its node is told."""
    others = [other.host for other in cluster.sites if other != site]
    wait_for(lambda: not site.strangers(others), site.last_words)
    wait_for(lambda: site.not_ready() is None, site.last_words)
    wait_for(lambda: "conditions" in cluster.node(site)["status"], site.last_words)


def owner_of(site: Site, other: Site) -> bool:
    """Whether a host believes that some slice of the range is another's."""
    shares = site.get("/v1/ipam")["shares"]
    return any(s["nickname"] == other.host.name and s["addresses"] for s in shares) or any(
        not s["reachable"] and s["addresses"] for s in shares
    )


def _answers(cluster: Cluster) -> bool:
    try:
        cluster.ask("GET")
    except kernel.KernelError:
        return False
    return True

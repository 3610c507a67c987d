"""kill -9 at random moments while containers come and go: no address twice, and nothing left over.

Real daemons, the installed CNI executables, real namespaces. Every outcome that a runtime can see
is noted: what an ADD answered is held until its DEL is begun.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

import pytest

from tests.e2e.daemons import until, weaver
from weaver.lab import kernel
from weaver.lab.host import PLUGIN_PATH, Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import kill, with_children

pytestmark = pytest.mark.e2e

LAB = "crash"
CONTAINERS = 5
"""Of each host, all busy at once."""

SECONDS = float(os.environ.get("WEAVER_SOAK", "20"))
"""How long there is trouble; ``make soak-ipam`` has five minutes of it."""


class Notebook:
    """Who holds which address, as far as any runtime was ever told."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.holders: dict[str, str] = {}
        self.twice: list[str] = []
        self.added = self.refused = 0

    def given(self, address: str, container: str) -> None:
        with self._lock:
            self.added += 1
            if (other := self.holders.setdefault(address, container)) != container:
                self.twice.append(f"{address}: {other} and {container}")

    def returned(self, address: str) -> None:
        with self._lock:
            self.holders.pop(address, None)


class Container:
    """A namespace whose runtime adds and deletes its interface again and again."""

    def __init__(self, site: Site, number: int) -> None:
        self.site = site
        self.name = f"{LAB}-c{site.host.name}-{number}"
        self.address: str | None = None

    def call(self, command: str) -> subprocess.CompletedProcess[str]:
        plugins = self.site.directory / "cni-bin"
        environment = {
            **self.site.environment,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": self.name,
            "CNI_NETNS": f"/run/netns/{self.name}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{plugins}:{PLUGIN_PATH}",
        }
        return subprocess.run(
            kernel.inside(self.site.host.namespace, [str(plugins / "weaver-net")]),
            input=json.dumps({"cniVersion": "1.0.0", "name": "weaver", "type": "weaver-net"}),
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def live(self, notebook: Notebook, rng: Random, until: float) -> None:
        while time.monotonic() < until:
            done = self.call("ADD")
            if done.returncode == 0:
                self.address = str(json.loads(done.stdout)["ips"][0]["address"])
                notebook.given(self.address, self.name)
                if rng.random() < 0.2:
                    continue  # a runtime that asks twice: refused, and changes nothing
            else:
                assert json.loads(done.stdout)["code"] in (11, 104), done.stdout
                notebook.refused += 1
                if self.address is not None and json.loads(done.stdout)["code"] == 11:
                    continue
            self.delete(notebook)

    def delete(self, notebook: Notebook) -> None:
        if self.address is not None:
            notebook.returned(self.address)
            self.address = None
        done = self.call("DEL")
        assert (done.returncode, done.stdout) == (0, ""), done


@contextmanager
def containers(sites: list[Site]) -> Iterator[list[Container]]:
    made = [Container(site, n) for site in sites for n in range(CONTAINERS)]
    try:
        for container in made:
            kernel.run("ip", "netns", "add", container.name)
        yield made
    finally:
        for container in made:
            subprocess.run(["ip", "netns", "del", container.name], capture_output=True, check=False)


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab(LAB, quiet=True)
    lab.down()
    try:
        # 62 addresses, so that none is long out of use and each half is asked for by the other.
        order = Order(name=LAB, hosts=2, shape=Shape.MESH, pods=0)
        lab.up(order, "x", ["--range=10.32.0.0/22"])
        yield lab
    finally:
        lab.down()


def test_daemons_killed_while_containers_come_and_go(lab: Lab) -> None:
    seed = time.time_ns() % 100_000
    rng, notebook = Random(seed), Notebook()
    sites = [lab.site(host) for host in lab.plan().hosts]
    kills, deadline = 0, time.monotonic() + SECONDS
    with containers(sites) as all_of_them, ThreadPoolExecutor(len(all_of_them)) as pool:
        lives = [
            pool.submit(c.live, notebook, Random(rng.getrandbits(32)), deadline)
            for c in all_of_them
        ]
        while time.monotonic() < deadline:
            time.sleep(rng.uniform(0.0, 1.5))  # the moment is what is drawn
            host = rng.choice(["h1", "h2"])
            lab.kill([host])
            kills += 1
            if rng.random() < 0.5:
                killed_while_it_starts(lab, host, rng.uniform(0.0, 1.0))
            lab.start([host])
        for life in lives:
            life.result()
        assert kills > 3
        assert notebook.added > 20
        assert notebook.twice == [], f"seed {seed}"
        for site in sites:
            until(lambda s=site: clean(s), lambda s=site: weaver(s, "ipam", "check").stdout)  # type: ignore[misc]
        held = {c.name: c.address for c in all_of_them if c.address is not None}
        assert {n: a for s in sites for n, a in attached(s).items() if n in held} == held
        for container in all_of_them:
            container.delete(notebook)
        for site in sites:
            until(lambda s=site: not leftovers(s), lambda s=site: leftovers(s))  # type: ignore[misc]


def killed_while_it_starts(lab: Lab, name: str, after: float) -> None:
    plan = lab.plan()
    book, host = lab.book(), plan.host(name)
    options = [*book.options, f"--password-file={book.password_file}"]
    process = lab.site(host).launch(plan.targets(host), len(plan.hosts), options)
    time.sleep(after)  # drawn as well
    kill(with_children(process))


def clean(site: Site) -> bool:
    """Whether the ledger finds nothing wrong."""
    return weaver(site, "ipam", "check").returncode == 0


def attached(site: Site) -> dict[str, str]:
    rows = json.loads(weaver(site, "ps", "--json").stdout)
    return {row["container"]: row["addresses"][0] for row in rows}


def leftovers(site: Site) -> list[str]:
    """Whatever is still there of containers that are all deleted."""
    links = json.loads(kernel.run("ip", "-n", site.host.namespace, "-j", "link", "show"))
    return [
        *(link["ifname"] for link in links if link["ifname"].startswith("vw")),
        *attached(site),
        *(row["container"] for row in json.loads(weaver(site, "ipam", "list", "--json").stdout)),
        *(str(path) for path in (site.directory / "run" / "cni-del").iterdir()),
    ]

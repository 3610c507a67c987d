"""Peers by name: resolved at each attempt, so that a name that moves is followed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemons import established, started, until
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

pytestmark = pytest.mark.e2e
NAME = "alpha.example"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """h1 and h3 run; h2 is what the tests start."""
    lab = Lab("nametest", quiet=True)
    lab.down()
    lab.up(Order(name="nametest", hosts=3, shape=Shape.MESH, pods=0))
    lab.kill(["h2"])
    yield lab
    lab.down()


@pytest.fixture
def hosts_file(lab: Lab) -> Iterator[Path]:
    """What h2 sees as /etc/hosts (ip-netns(8))."""
    directory = Path("/etc/netns") / lab.plan().host("h2").namespace
    made = not directory.parent.exists()
    directory.mkdir(parents=True)
    yield directory / "hosts"
    shutil.rmtree(directory)
    if made:
        directory.parent.rmdir()


def target(site: Site) -> dict[str, Any]:
    (row,) = [t for t in site.get("/v1/targets") if t["target"].startswith(NAME)]
    return dict(row)


def test_a_name_that_moves_is_followed(lab: Lab, hosts_file: Path) -> None:
    h1 = lab.plan().host("h1")
    hosts_file.write_text(f"172.31.0.99 {NAME}\n")
    with started(lab, "--no-discovery", targets=(NAME,)) as site:
        until(lambda: target(site)["last_error"] == "unreachable", lambda: target(site))
        hosts_file.write_text(f"{h1.underlay} {NAME}\n")
        until(lambda: target(site)["state"] == "connected", lambda: target(site))
        assert "h1" in [c["nickname"] for c in established(site)]


def test_a_name_that_nobody_knows(lab: Lab, hosts_file: Path) -> None:
    hosts_file.write_text("127.0.0.1 localhost\n")
    with started(lab, targets=(NAME,)) as site:
        until(lambda: target(site)["last_error"] == "name-not-found", lambda: target(site))
        assert target(site)["state"] == "waiting"
        hosts_file.write_text(f"{lab.plan().host('h3').underlay} {NAME}\n")
        until(lambda: target(site)["state"] == "connected", lambda: target(site))

"""What tests of container runtimes share: tools that must be there, a lab, what is attached."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.daemons import weaver
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

DEADLINE = 30.0
BUSYBOX = "busybox"


def demand(*tools: str) -> None:
    """Skip, saying why, where one of them is not installed; fail where none may be skipped."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing and "e2e" not in os.environ.get("WEAVER_REQUIRE", "").split(","):
        pytest.skip(f"e2e: needs {', '.join(missing)}")
    assert not missing


@contextmanager
def laboratory(name: str, hosts: int = 2) -> Iterator[Lab]:
    made = Lab(name, quiet=True)
    made.down()
    made.up(Order(name=name, hosts=hosts, shape=Shape.MESH, pods=0), "secret")
    try:
        yield made
    finally:
        made.down()


@contextmanager
def directory(name: str) -> Iterator[Path]:
    """A place on a real file system, as overlay mounts need it."""
    made = Path(tempfile.mkdtemp(prefix=f"weaver-{name}-", dir="/var/tmp"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def attached(site: Site) -> dict[str, str]:
    """Containers that a host's daemon has attached, with their addresses."""
    done = weaver(site, "ps", "--json")
    assert done.returncode == 0, done.stderr
    return {
        row["container"]: row["addresses"][0].partition("/")[0] for row in json.loads(done.stdout)
    }


def on(site: Site, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """A command in a host's network, and nothing else of it."""
    return subprocess.run(
        ["nsenter", f"--net=/run/netns/{site.host.namespace}", *command],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def wait_for(happened: Callable[[], object], explain: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)

"""What tests of real daemons share: starting one with other flags, asking it, waiting for it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.processes import kill, with_children
from weaver.lab.traffic import unreachable_pairs

BACK_WITHIN = 10.0
"""Seconds in which traffic must flow again after whatever befell the mesh."""

WITHIN = 15.0
"""Seconds until both ends must say why: an attempt, and one more after its back-off."""


def site_of(lab: Lab, name: str) -> Site:
    return lab.site(lab.plan().host(name))


def weaver(site: Site, *args: str) -> subprocess.CompletedProcess[str]:
    """A command against this host's daemon."""
    command = [sys.executable, "-m", "weaver", "--socket", str(site.socket), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def addresses(lab: Lab) -> dict[str, str]:
    return {p["name"]: p["address"] for h in lab.status()["hosts"] for p in h["pods"]}


def until_all_pairs(lab: Lab, known: dict[str, str], within: float) -> float:
    """Seconds until every pod pings every other; fails when that takes too long."""
    began = time.monotonic()
    while True:
        lost = unreachable_pairs(lab.plan(), known)
        took = time.monotonic() - began
        if not lost:
            return took
        assert took < within, f"after {took:.0f} s still lost: {lost}"


def until(happened: Callable[[], object], explain: Callable[[], object]) -> None:
    """Wait for a condition, WITHIN seconds."""
    deadline = time.monotonic() + WITHIN
    while not happened():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)


@contextmanager
def started(
    lab: Lab, *options: str, targets: tuple[str, ...] | None = None, host: str = "h2"
) -> Iterator[Site]:
    """A host that does not run, with other options than the lab's."""
    h1, *_ = lab.plan().hosts
    site = site_of(lab, host)
    process = site.launch([h1.underlay] if targets is None else targets, 2, options)
    try:
        until(lambda: site.get("/v1/status") is not None, site.last_words)
        yield site
    finally:
        kill(with_children(process))


def established(site: Site) -> list[dict[str, Any]]:
    return [c for c in site.get("/v1/connections") or () if c["state"] == "established"]

"""Hosts that leave for good, real daemons: their space is another's first, come what may."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.daemons import addresses, site_of, until, until_all_pairs, weaver
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import with_children

pytestmark = pytest.mark.e2e


@contextmanager
def lab_of(name: str, hosts: int, shape: Shape = Shape.MESH) -> Iterator[Lab]:
    lab = Lab(name, quiet=True)
    lab.down()
    try:
        lab.up(Order(name=name, hosts=hosts, shape=shape, pods=1), "x")
        yield lab
    finally:
        lab.down()


@contextmanager
def stopped(lab: Lab, name: str) -> Iterator[None]:
    """A daemon that neither answers nor goes away."""
    pids = [process.pid for process in with_children(lab.book().daemons[name])]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def owners(site: Site) -> dict[str, bool]:
    """Whose the range is, and whether each can be reached."""
    shown = json.loads(weaver(site, "status", "ipam", "--json").stdout)
    assert shown["gaps"] == []
    return {share["nickname"]: share["reachable"] for share in shown["shares"]}


def test_space_goes_to_who_answers_while_another_does_not() -> None:
    with lab_of("leave", 3) as lab:
        with stopped(lab, "h1"):
            done = weaver(site_of(lab, "h2"), "reset")
            assert done.returncode == 0, done.stderr
            assert "handed over" in done.stdout
        until(lambda: set(owners(site_of(lab, "h1"))) == {"h1", "h3"},
              lambda: owners(site_of(lab, "h1")))  # fmt: skip
        assert set(owners(site_of(lab, "h3"))) == {"h1", "h3"}


def test_a_reset_that_nobody_answers_keeps_the_state_and_can_be_asked_again() -> None:
    with lab_of("leave", 2) as lab:
        site = site_of(lab, "h2")
        name = site.get("/v1/status")["us"]["name"]
        with stopped(lab, "h1"):
            done = weaver(site, "reset")
            assert done.returncode == 1
            assert "handover-failed" in done.stderr, done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
            assert site.get("/v1/status")["us"]["name"] == name
            assert (site.directory / "state" / "ipam.db").exists()
        until(lambda: owners(site).get("h1"), lambda: owners(site))
        assert weaver(site, "ipam", "allocate", "still-here").returncode == 0
        done = weaver(site, "reset")
        assert done.returncode == 0, done.stderr
        assert owners(site_of(lab, "h1")) == {"h1": True}
        assert not (site.directory / "state").exists()


def test_reclaim_is_for_the_dead_only() -> None:
    """Refused for whoever lives, under any of its names, also behind a relay; not for the dead."""
    with lab_of("leave", 3, Shape.CHAIN) as lab:
        known, h1 = addresses(lab), site_of(lab, "h1")
        names = {n: str(site_of(lab, n).get("/v1/status")["us"]["name"]) for n in ("h1", "h3")}

        def reclaim(peer: str, *flags: str) -> str:
            done = weaver(h1, "ipam", "reclaim", peer, *flags)
            lines = done.stderr.strip().splitlines()
            assert (done.returncode, len(lines)) in ((0, 0), (1, 1)), done
            return lines[0] if lines else "done"

        for alive in ("h2", "h3", names["h3"], "h1", names["h1"]):
            assert "peer-alive" in reclaim(alive), alive
        assert "owns-nothing" in reclaim("01:02:03:04:05:06:07:08")
        for nobody in ("h9", "01:02", "h3 "):
            assert "unknown-peer" in reclaim(nobody), nobody
        lab.kill(["h2"])  # h3 lives on, out of sight
        until(lambda: not owners(h1).get("h3", False), lambda: owners(h1))
        assert owners(h1) == {"h1": True, "h2": False, "h3": False}
        # Of three hosts one has half of the range, whichever has that name (docs/ipam.md R15).
        held = {share["nickname"]: share["addresses"] for share in h1.get("/v1/ipam")["shares"]}
        if held["h1"] <= held["h2"]:
            assert "no-majority" in reclaim("h3"), "most of the ring is out of reach"
            assert reclaim("h3", "--force") == "done"
        else:
            assert reclaim("h3") == "done"
        lab.start(["h2"])
        h3 = site_of(lab, "h3")
        (pod,) = lab.plan().host("h3").pods
        until(lambda: h3.get("/v1/ipam")["owned"] == 1, h3.last_words)
        who = h3.get(f"/v1/ipam/addresses/{known[pod.name]}")
        assert (who["state"], who["container"]) == ("used", pod.namespace), "it has it back"
        assert h3.get("/v1/ipam")["lost"] == []
        until_all_pairs(lab, known, 15.0)

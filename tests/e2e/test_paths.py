"""Data paths that break, narrow and heal under real daemons (docs/protocol.md 8.6, 10.6).

Bounds are read from the history that the daemons keep, in their own time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemons import addresses, site_of, weaver
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Host, Order, Shape
from weaver.lab.traffic import ping, tcp_rate

pytestmark = pytest.mark.e2e
FALL_BACK, RETURN = 3.0, 60.0
PATIENCE = 120.0
"""Seconds that a test waits for what must be so sooner, on a machine that others use too."""


@pytest.fixture(scope="module")
def mesh() -> Iterator[Lab]:
    """Three hosts that all see each other: h3 is the way round between h1 and h2."""
    lab = Lab("pathtest", quiet=True)
    lab.down()
    lab.up(Order(name="pathtest", hosts=3, shape=Shape.MESH, pods=1), "x")
    yield lab
    lab.down()


@pytest.fixture(autouse=True)
def _straight(mesh: Lab) -> None:
    """Every test begins with proven direct paths of full size."""
    for name in ("h1", "h2"):
        until(mesh, name, is_whole)


def is_whole(row: dict[str, Any]) -> bool:
    return (row["state"], row["steady"], row["segment"]) == ("direct", True, 1472)


def until(mesh: Lab, name: str, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What this host shows of its path to the other as soon as it is so."""
    deadline = time.monotonic() + PATIENCE
    while not so(found := link(mesh, name)):
        assert time.monotonic() < deadline, json.dumps(found)
        time.sleep(0.2)
    return found


def link(mesh: Lab, here: str, there: str = "") -> dict[str, Any]:
    """What one of h1 and h2 shows of its path to the other."""
    there = there or {"h1": "h2", "h2": "h1"}[here]
    rows = site_of(mesh, here).get("/v1/links") or ()
    return next(dict(row) for row in rows if row["nickname"] == there)


def host(mesh: Lab, name: str) -> Host:
    return mesh.plan().host(name)


@contextmanager
def dropped(at: Host, rule: str) -> Iterator[None]:
    """Datagrams that arrive at a host and match are gone without a word."""
    chain = f"type filter hook prerouting priority 0; {rule} drop;"
    table = f"table inet paths {{\n chain in {{ {chain} }}\n}}\n"
    kernel.run(*kernel.inside(at.namespace, ["nft", "-f", "-"]), stdin=table)
    try:
        yield
    finally:
        kernel.run(*kernel.inside(at.namespace, ["nft", "delete", "table", "inet", "paths"]))


def pods_ping(mesh: Lab) -> bool:
    known = addresses(mesh)
    near, far = host(mesh, "h1").pods[0], host(mesh, "h2").pods[0]
    return ping(near, known[far.name], 3)


def test_data_blocked_one_way_goes_round_and_returns(mesh: Lab) -> None:
    """UDP 6783 from h1 to h2 is dropped; connections and liveness probes pass."""
    rule = f"ip saddr {host(mesh, 'h1').underlay} udp dport 6783"
    with dropped(host(mesh, "h2"), rule):
        for name in ("h1", "h2"):
            found = until(mesh, name, lambda row: row["state"] == "relayed")
            left, *_ = found["history"]
            assert (left["path"], left["overlay"]) == ("relayed", "sleeve")
            assert left["next_hop"] == link(mesh, name, "h3")["peer"]
            assert left["reason"] == "probes-unanswered"
            assert left["after"] is None or left["after"] <= FALL_BACK
        assert pods_ping(mesh)
        shown = weaver(site_of(mesh, "h1"), "status", "links").stdout
        assert "CHANGED" in shown
        assert "relayed" in shown
    for name in ("h1", "h2"):
        found = until(mesh, name, lambda row: row["state"] == "direct")
        back, left, *_ = found["history"]
        assert (back["path"], back["reason"]) == ("direct", "proven")
        assert back["after"] <= RETURN
        assert left["path"] == "relayed"
    assert pods_ping(mesh)


def test_an_mtu_that_is_lowered_and_raised_on_a_live_path(mesh: Lab) -> None:
    """h1's kernel says so, h2 finds out by silence; both stay on the direct path."""
    set_mtu = ["ip", "-n", host(mesh, "h1").namespace, "link", "set", "to-h2", "mtu"]
    made = [link(mesh, name)["history"][0] for name in ("h1", "h2")]
    kernel.run(*set_mtu, "1300")
    try:
        for name in ("h1", "h2"):
            found = until(mesh, name, lambda row: 1264 < row["segment"] <= 1272)
            assert found["mtu"] in range(1293, 1301)
        assert pods_ping(mesh)
    finally:
        kernel.run(*set_mtu, "1500")
    after = [until(mesh, name, is_whole)["history"][0] for name in ("h1", "h2")]
    assert [entry["path"] for entry in made + after] == ["direct"] * 4
    assert all(now["ago"] > before["ago"] for before, now in zip(made, after, strict=True))


def test_big_datagrams_that_are_eaten_one_way_are_no_break(mesh: Lab) -> None:
    """A black hole: that direction gets a smaller segment, the other keeps its own."""
    rule = f"ip saddr {host(mesh, 'h1').underlay} udp dport 6783 ip length > 1350"
    with dropped(host(mesh, "h2"), rule):
        until(mesh, "h1", lambda row: 1314 < row["segment"] <= 1322 and row["state"] == "direct")
        other = until(mesh, "h2", lambda row: row["state"] == "direct")
        assert other["segment"] == 1472
        reasons = {e["reason"] for name in ("h1", "h2") for e in link(mesh, name)["history"]}
        assert "big-datagrams-lost" not in reasons
        assert pods_ping(mesh)


def test_the_loss_of_a_relayed_pair_is_that_of_the_whole_way(mesh: Lab, tmp_path: Path) -> None:
    """h1 and h2 reach each other through h3, behind which a tenth is lost: both ends count it."""
    near, far = host(mesh, "h1"), host(mesh, "h2")
    direct = f"ip saddr {{ {near.underlay}, {far.underlay} }} udp dport 6783"
    lossy = f"ip saddr {host(mesh, 'h3').underlay} udp dport 6783 numgen random mod 10 < 1"
    with dropped(near, direct), dropped(far, f"{direct} drop; {lossy}"):
        until(mesh, "h1", lambda row: row["state"] == "relayed")
        source, target = near.pods[0], far.pods[0]
        assert tcp_rate(source, target, addresses(mesh)[target.name], tmp_path / "log") > 0
        sent = until(mesh, "h1", lambda row: 0.02 < row["traffic"]["tx_loss"] < 0.3)
        come = until(mesh, "h2", lambda row: row["traffic"]["rx_missing"] > 0)
        assert sent["traffic"]["tx_loss"] != sent["loss"], "which is the direct path's"
        assert come["traffic"]["rx_lost"] > 0
        assert come["traffic"]["drops"]["record-incomplete"] > 0
        shown = weaver(site_of(mesh, "h1"), "status", "links").stdout.splitlines()
        assert any(row.startswith("h2 ") and "%" in row for row in shown)
    for name in ("h1", "h2"):
        until(mesh, name, is_whole)

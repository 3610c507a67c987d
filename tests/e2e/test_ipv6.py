"""The mesh over IPv6 alone, and pods with IPv6 addresses: real daemons, a relay between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemons import BACK_WITHIN, addresses, site_of, until_all_pairs, weaver
from weaver.lab import kernel
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape
from weaver.lab.traffic import send_marked

pytestmark = pytest.mark.e2e
RANGE = "fd00:10:32::/112"


@pytest.fixture(scope="module", params=["10.32.0.0/12", RANGE], ids=["IPv4 pods", "IPv6 pods"])
def chain(request: pytest.FixtureRequest) -> Iterator[Lab]:
    lab = Lab("sixtest", quiet=True)
    lab.down()
    order = Order(name="sixtest", hosts=3, shape=Shape.CHAIN, pods=1, ipv6=True)
    lab.up(order, "x", [f"--range={request.param}"])
    yield lab
    lab.down()


def test_pods_talk_through_a_relay(chain: Lab, tmp_path: Path) -> None:
    known = addresses(chain)
    until_all_pairs(chain, known, BACK_WITHIN)
    near, *_, far = (host.pods[0] for host in chain.plan().hosts)
    send_marked(near, far, known[far.name], b"0123456789abcdef", tmp_path)
    whole = ["ping", "-n", "-c", "1", "-W", "3", "-s", "1372", known[far.name]]
    assert kernel.run(*kernel.inside(near.namespace, whole))


def test_every_connection_is_over_ipv6_and_every_path_carries_1452_octets(chain: Lab) -> None:
    """protocol.md 10.6: 1,500 less 40 of IPv6 and 8 of UDP."""
    for host in chain.plan().hosts:
        shown = json.loads(weaver(site_of(chain, host.name), "status", "--json").stdout)
        up = [c["remote"] for c in shown["connections"] if c["state"] == "established"]
        assert up
        assert all(remote.startswith("[fd00:6c61:62::") for remote in up)
        direct = [link for link in shown["links"] if link["state"] == "direct"]
        assert {link["segment"] for link in direct} == {1452}
        assert all(link["endpoint"].startswith("[fd00:6c61:62::") for link in direct)


def test_a_relay_killed_and_started_again(chain: Lab) -> None:
    known = addresses(chain)
    chain.kill(["h2"])
    chain.start(["h2"])
    until_all_pairs(chain, known, BACK_WITHIN)
    assert addresses(chain) == known


def test_a_host_is_exposed(chain: Lab) -> None:
    exposed = weaver(site_of(chain, "h2"), "expose").stdout.strip().partition("/")[0]
    pod = chain.plan().host("h1").pods[0]
    try:
        ping = ["ping", "-n", "-c", "1", "-W", "3", exposed]
        assert kernel.run(*kernel.inside(pod.namespace, ping))
    finally:
        assert weaver(site_of(chain, "h2"), "hide").returncode == 0

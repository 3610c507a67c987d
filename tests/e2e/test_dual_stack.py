"""docs/ipam.md R24 and R25: pods with addresses of both families, real daemons, a relay between.

Without a password, so frames go by the kernel; by the sleeve: ``test_ipv6.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.daemons import BACK_WITHIN, site_of, until, until_all_pairs, weaver
from weaver.lab import kernel
from weaver.lab.host import addresses_of
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

pytestmark = pytest.mark.e2e

FOUR, SIX, THIRD = "10.32.0.0/16", "fd00:10:32::/112", "10.96.0.0/16"
EXCLUDED = "10.32.0.1-10.32.0.9,fd00:10:32::1"
FAMILIES = (0, 1)


@pytest.fixture(scope="module")
def chain() -> Iterator[Lab]:
    lab = Lab("dualtest", quiet=True)
    lab.down()
    order = Order(name="dualtest", hosts=3, shape=Shape.CHAIN, pods=1)
    lab.up(order, None, [f"--range={FOUR},{SIX}", f"--ipam-exclude={EXCLUDED}"])
    yield lab
    lab.down()


def addresses(lab: Lab, family: int) -> dict[str, str]:
    pods = [pod for host in lab.plan().hosts for pod in host.pods]
    return {pod.name: addresses_of(pod)[family] for pod in pods}


def asked(lab: Lab, host: str, *args: str) -> Any:
    done = weaver(site_of(lab, host), *args, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def can_ping(lab: Lab, source: str, address: str) -> bool:
    pod = lab.plan().host(source).pods[0]
    command = kernel.inside(pod.namespace, ["ping", "-n", "-c", "1", "-W", "3", address])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_every_pod_has_both_and_reaches_all_by_both(chain: Lab) -> None:
    for family in FAMILIES:
        until_all_pairs(chain, addresses(chain, family), BACK_WITHIN)
    for host in ("h1", "h2", "h3"):
        check = asked(chain, host, "ipam", "check")
        assert [check["range"], *(one["range"] for one in check["others"])] == [FOUR, SIX]
        assert all(row["answered"] and row["same_ring"] for row in check["asked"])


def test_who_has_an_ipv6_address_is_answered_on_the_asker_s_own_host(chain: Lab) -> None:
    """As of an IPv4 address: no broadcast need cross the mesh."""
    site, pod = site_of(chain, "h1"), chain.plan().host("h1").pods[0]
    fast = site.get("/v1/status")["fastdp"]
    assert fast["problem"] is None, fast
    for family, flag in ((0, "-4"), (1, "-6")):
        far = addresses(chain, family)[chain.plan().host("h3").pods[0].name]
        before = site.get("/v1/status")["fastdp"]["answered"]
        kernel.run("ip", "-n", pod.namespace, flag, "neigh", "flush", "dev", "eth0")
        assert can_ping(chain, "h1", far)
        assert site.get("/v1/status")["fastdp"]["answered"] > before


def test_no_address_waits_for_duplicates_to_be_looked_for(chain: Lab) -> None:
    """It would be tentative, and of no use, for a second and more."""
    pod = chain.plan().host("h1").pods[0]
    shown = kernel.run("ip", "-n", pod.namespace, "-6", "-j", "addr", "show", "dev", "eth0")
    (entry,) = [
        entry
        for device in json.loads(shown)
        for entry in device["addr_info"]
        if entry["scope"] == "global"
    ]
    assert entry["nodad"]
    assert not entry.get("tentative")


def test_a_daemon_killed_and_started_again_knows_both(chain: Lab) -> None:
    known = [addresses(chain, family) for family in FAMILIES]
    chain.kill(["h2"])
    chain.start(["h2"])
    for family in FAMILIES:
        until_all_pairs(chain, known[family], BACK_WITHIN)
    assert [addresses(chain, family) for family in FAMILIES] == known


def test_a_host_is_exposed_under_both(chain: Lab) -> None:
    exposed = weaver(site_of(chain, "h2"), "expose").stdout.split()
    assert len(exposed) == 2
    try:
        for cidr in exposed:
            assert can_ping(chain, "h1", cidr.partition("/")[0])
    finally:
        assert weaver(site_of(chain, "h2"), "hide").returncode == 0


def test_a_range_is_added_while_everything_runs(chain: Lab) -> None:
    """Pods have an address of it that ask for one; it outlives a restart, and hosts that have it
    not say so."""
    first = asked(chain, "h1", "ipam", "add-range", THIRD)
    assert first["ranges"] == [FOUR, SIX, THIRD]
    again = weaver(site_of(chain, "h1"), "ipam", "add-range", "10.96.1.0/24")
    assert again.returncode == 1
    assert "(bad-range)" in again.stderr
    for host in ("h2", "h3"):
        asked(chain, host, "ipam", "add-range", THIRD)
    names = {host: f"dualtest-extra-{host}" for host in ("h1", "h3")}
    try:
        given = {}
        for host, name in names.items():
            kernel.run("ip", "netns", "add", name)
            row = asked(chain, host, "attach", name, f"/run/netns/{name}", f"--range={THIRD}")
            (given[host],) = (cidr.partition("/")[0] for cidr in row["addresses"])
            assert given[host].startswith("10.96.")
        assert given["h1"] != given["h3"]
        ping = ["ping", "-n", "-c", "1", "-W", "1", given["h3"]]
        inside = kernel.inside(names["h1"], ping)
        until(
            lambda: subprocess.run(inside, capture_output=True, check=False).returncode == 0,
            lambda: weaver(site_of(chain, "h1"), "status").stdout,
        )
        chain.kill(["h1"])
        chain.start(["h1"])
        until(
            lambda: weaver(site_of(chain, "h1"), "ipam", "check").returncode == 0,
            lambda: weaver(site_of(chain, "h1"), "ipam", "check").stdout,
        )
        held = asked(chain, "h1", "ipam", "list")
        assert (given["h1"], THIRD) in {(row["address"], row["range"]) for row in held}
        who = asked(chain, "h3", "ipam", "who", given["h3"])
        assert (who["state"], who["container"]) == ("used", names["h3"])
    finally:
        for host, name in names.items():
            weaver(site_of(chain, host), "detach", name)
            subprocess.run(["ip", "netns", "del", name], check=False)


def test_what_is_excluded_is_given_by_force_alone(chain: Lab) -> None:
    """R22; the first addresses that there are, so that somebody would have them."""
    site = site_of(chain, "h1")
    given = {a for family in FAMILIES for a in addresses(chain, family).values()}
    assert not given & {"fd00:10:32::1", *(f"10.32.0.{n}" for n in range(1, 10))}
    refused = weaver(site, "ipam", "claim", "dualtest-by-hand", "10.32.0.5")
    assert refused.returncode == 1
    assert "(address-excluded)" in refused.stderr
    forced = asked(chain, "h1", "ipam", "claim", "--force", "dualtest-by-hand", "10.32.0.5")
    assert forced["addresses"] == ["10.32.0.5/16"]
    status = asked(chain, "h1", "ipam", "status")
    assert status["excluded"] == ["10.32.0.1-10.32.0.9"]
    assert status["excluded_used"] == ["10.32.0.5"]
    assert status["others"][0]["excluded"] == ["fd00:10:32::1"]
    check = weaver(site, "ipam", "check")
    assert check.returncode == 1
    assert "excluded-in-use" in check.stdout
    assert asked(chain, "h1", "ipam", "free", "dualtest-by-hand")["addresses"] == ["10.32.0.5"]
    assert asked(chain, "h1", "ipam", "who", "10.32.0.5")["state"] == "excluded"
    assert weaver(site, "ipam", "check").returncode == 0


def test_a_check_ends_though_a_peer_hangs(chain: Lab) -> None:
    """Before anybody has noticed that it does, and so while it is thought to be in reach."""
    hangs = chain.book().daemons["h3"].pid
    os.kill(hangs, signal.SIGSTOP)
    try:
        check = weaver(site_of(chain, "h1"), "ipam", "check", "--json")
    finally:
        os.kill(hangs, signal.SIGCONT)
    assert check.returncode == 1
    said = json.loads(check.stdout)
    found = {(f["what"], f["where"]) for one in (said, *said["others"]) for f in one["findings"]}
    assert {("silent", "h3"), ("unreachable", "h3")} & found
    until(
        lambda: weaver(site_of(chain, "h1"), "ipam", "check").returncode == 0,
        lambda: weaver(site_of(chain, "h1"), "ipam", "check").stdout,
    )


def test_static_addresses_of_both_families(chain: Lab) -> None:
    """In a namespace where a runtime has switched IPv6 off, as Docker does."""
    name, site = "dualtest-static", site_of(chain, "h2")
    kernel.run("ip", "netns", "add", name)
    try:
        for which in ("all", "default"):
            off = ["sysctl", "-qw", f"net.ipv6.conf.{which}.disable_ipv6=1"]
            kernel.run(*kernel.inside(name, off))
        wanted = ["10.32.200.7", "fd00:10:32::7007"]
        flags = [f"--address={address}" for address in wanted]
        row = asked(chain, "h2", "attach", name, f"/run/netns/{name}", *flags)
        assert [cidr.partition("/")[0] for cidr in row["addresses"]] == wanted
        for address in wanted:
            assert can_ping(chain, "h1", address)
        assert weaver(site, "detach", name).returncode == 0
        assert not [r for r in asked(chain, "h2", "ipam", "list") if r["container"] == name]
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)

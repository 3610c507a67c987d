"""SIGKILL at every step of an ADD, of the daemon, its helper, both: then DEL leaves nothing."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.netns.census import Census, assert_settles, census, settled
from tests.netns.cni_host import CniHost, Outcome, Pod, conf, host, ip, wait_for

pytestmark = pytest.mark.netns

CONFIG = conf(
    mtu=1300,
    hairpinMode=True,
    ipMasq=False,
    isDefaultGateway=True,
    ipam={"type": "weaver-ipam", "routes": [{"dst": "192.0.2.0/24"}]},
    runtimeConfig={"bandwidth": {"ingressRate": 8_000_000, "egressRate": 8_000_000}},
)
DIES, HELPER_DIES = "dies-at", "helper-dies-at"


@pytest.fixture
def alone() -> Iterator[CniHost]:
    with host() as made:
        yield made


@pytest.fixture
def pod(alone: CniHost) -> Pod:
    return alone.pod("crashed")


@pytest.fixture
def before(alone: CniHost, pod: Pod) -> Census:
    pod.add(CONFIG)  # exposes the host, once and for all, for the route has no gateway
    pod.delete(CONFIG)
    return settled(alone)


def _recovers(alone: CniHost, pod: Pod, before: Census, step: int) -> None:
    """A daemon that died starts again; DEL comes while it is down at odd steps, later at even."""
    _died(alone)
    if step % 2:
        pod.delete(CONFIG)
    alone.start()
    if not step % 2:
        _is_all_or_nothing(alone, before)
        pod.delete(CONFIG)
    assert_settles(alone, before, "files")  # of processes that have only begun


def test_the_daemon_dies_at_every_step(alone: CniHost, pod: Pod, before: Census) -> None:
    """Between any two of: record, allocate, devices, record, answer."""
    for step in _until_it_survives(alone, pod, DIES):
        _recovers(alone, pod, before, step)


def test_the_helper_dies_at_every_step(alone: CniHost, pod: Pod, before: Census) -> None:
    """Another one does it all again, over whatever is there of it."""
    for _ in _until_it_survives(alone, pod, HELPER_DIES):
        pod.delete(CONFIG)
        assert_settles(alone, before)


def test_helper_and_daemon_die_at_every_step(alone: CniHost, pod: Pod, before: Census) -> None:
    """What the kernel was told, and nobody remembers but for the intent."""
    (alone.directory / "helper-takes-along").touch()
    for step in _until_it_survives(alone, pod, HELPER_DIES):
        _recovers(alone, pod, before, step)


def test_the_executable_dies_at_any_time(alone: CniHost, pod: Pod, before: Census) -> None:
    """After each octet that it could have said, and while it waits; the DEL follows at once."""
    whole = json.dumps(CONFIG).encode()
    for size in (*range(0, len(whole), 20), len(whole)):
        adding = pod.spawn("ADD")
        assert adding.stdin is not None
        adding.stdin.write(whole[:size])
        adding.stdin.flush()
        if size == len(whole):
            adding.stdin.close()
            adding.stdin = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                adding.wait(0.02)
        adding.kill()
        adding.communicate(timeout=20)
        pod.delete(CONFIG)
        assert_settles(alone, before)


def test_a_host_that_was_rebooted(alone: CniHost, pod: Pod) -> None:
    """Devices, rules, namespaces, and what was recorded in /run, are gone; the state is not."""
    others = [alone.pod(f"before-{number}") for number in range(3)]
    for one in others:
        one.add(CONFIG)
    alone.kill()
    others[0].delete(CONFIG)  # recorded in /run, and lost with it
    for one in others:
        alone.forget(one)
    wait_for(lambda: alone.veths() == set(), alone.veths)  # with their namespaces
    ip("-n", alone.namespace, "link", "del", "weave")
    subprocess.run([*alone.within(), "nft", "flush", "ruleset"], check=True)
    for left in (alone.directory / "run" / "cni-del").iterdir():
        left.unlink()
    alone.start()
    assert set(alone.leases()) == {"weave:expose,weave"}  # the exposure is the host's own
    clean = settled(alone)
    assert clean["rows"] == []
    assert "masquerade" in str(clean[alone.namespace])
    assert alone.leases()["weave:expose,weave"] in ip(
        "-n", alone.namespace, "addr", "show", "weave"
    )
    for one in others:
        one.delete(CONFIG)  # its runtime comes late
    assert_settles(alone, clean)
    pod.check(pod.add(CONFIG), CONFIG).nothing()
    pod.delete(CONFIG)
    assert_settles(alone, clean)


def _until_it_survives(host: CniHost, pod: Pod, kind: str) -> Iterator[int]:
    """ADDs, killed at the first step, the second and so on; until one has no more steps."""
    for step in range(1, 100):
        file = host.directory / kind
        file.write_text(str(step))
        said: Outcome = pod.call("ADD", CONFIG)
        survived = file.exists() and said.status == 0
        file.unlink(missing_ok=True)
        if survived:
            assert step > 5, "nobody died at all"
            pod.delete(CONFIG)
            return
        yield step
    raise AssertionError("an ADD has no end")


def _is_all_or_nothing(host: CniHost, before: Census) -> None:
    """After the return: what nobody was told of is whole, or nothing of it is there."""
    rows = census(host)["rows"]
    assert isinstance(rows, list)
    if rows:
        assert [json.loads(row)["ready"] for row in rows] == [True]
    else:
        assert_settles(host, before, "files")


def _died(host: CniHost) -> None:
    """The daemon has, by itself."""
    wait_for(host.has_ended, lambda: "the daemon lives")

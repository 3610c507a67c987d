"""docs/ipam.md R23: what nobody gives back is found by two looks, and nothing that lives is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from ipam.effects import AllocationKey
from mesh.clock import Instant
from mesh.errors import OperatorError
from tests.sim.clock import SimClock
from tests.unit.network_twin import RANGE, IpamTwin, NetworkTwin, pools
from weaver.daemon.attach import BY_HAND, Attacher, AttachRequest
from weaver.daemon.attach_store import AttachmentStore, Key
from weaver.daemon.leaks import APART, Leaks, Suspect, TwoLooks

WEB, DB = (AttachRequest(name, "eth0", f"/ns/{name}", network="net") for name in ("web", "db"))


class Host:
    def __init__(self, directory: Path) -> None:
        self.network, self.ipam, self.clock = NetworkTwin(), IpamTwin(), SimClock()
        self.network.namespaces = {"": set(), "/ns/web": set(), "/ns/db": set()}
        store = AttachmentStore(directory / "attachments.db")
        self.attacher = Attacher(pools(self.ipam), self.network, store, 1420)
        self.leaks = Leaks(self.attacher, self.network, self.addresses, self.clock, self._sleep)
        self.between: list[object] = []

    def addresses(self) -> Mapping[Key, tuple[str, ...]]:
        return {(k.container, k.interface): (RANGE.cidr(a),) for k, a in self.ipam.held.items()}

    async def _sleep(self, seconds: float) -> None:
        """What ``between`` holds happens between the two looks."""
        self.clock.run_until(Instant(self.clock.now() + seconds))
        for happens in self.between:
            await happens  # type: ignore[misc]

    async def collect(self, *, dry_run: bool = False) -> list[tuple[str, str]]:
        given, left = await self.leaks.collect(dry_run=dry_run)
        return [(s.key[0], s.why) for s in (left if dry_run else given)]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_a_pod_whose_namespace_died_is_found_and_given_up(host: Host) -> None:
    await host.attacher.attach(WEB)
    await host.attacher.attach(DB)
    assert await host.collect() == []
    host.network.kill("/ns/web")
    assert await host.collect(dry_run=True) == [("web", "pod-gone")]
    assert len(host.ipam.held) == 2, "a dry run frees nothing"
    assert await host.collect() == [("web", "pod-gone")]
    assert [row.container for row in host.attacher.list()] == ["db"]
    assert [key.container for key in host.ipam.held] == ["db"]
    assert await host.collect() == []


async def test_a_pod_that_comes_back_between_two_looks_keeps_its_address(host: Host) -> None:
    row = await host.attacher.attach(WEB)
    host.network.kill("/ns/web")
    host.network.namespaces["/ns/web"] = set()
    host.between = [host.attacher.attach(WEB)]
    assert await host.collect() == []
    assert host.attacher.list()[0].addresses == row.addresses


async def test_a_pod_made_anew_and_gone_again_is_seen_for_the_first_time(host: Host) -> None:
    """The same key, and another row: only what looked the same twice is given up."""
    await host.attacher.attach(WEB)
    host.network.kill("/ns/web")

    async def another() -> None:
        host.network.namespaces["/ns/again"] = set()
        await host.attacher.attach(AttachRequest("web", "eth0", "/ns/again", network="net"))
        host.network.kill("/ns/again")

    host.between = [another()]
    assert await host.collect() == []
    assert len(host.ipam.held) == 1
    host.between = []
    assert await host.collect() == [("web", "pod-gone")]


async def test_what_is_attached_at_the_very_end_is_looked_at_once_more(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the second look and the taking down a runtime may have been quicker."""
    await host.attacher.attach(WEB)
    host.network.kill("/ns/web")
    give_up = host.attacher.give_up

    async def after_the_runtime(key: Key, still: object) -> bool:
        host.network.namespaces["/ns/web"] = set()
        await host.attacher.attach(WEB)
        return await give_up(key, still)  # type: ignore[arg-type]

    monkeypatch.setattr(host.attacher, "give_up", after_the_runtime)
    assert await host.collect() == []
    assert len(host.attacher.list()) == len(host.ipam.held) == 1


async def test_addresses_that_somebody_else_has_are_nobodys_business(host: Host) -> None:
    """Another plugin's, an operator's, the bridge's, Docker's between two containers."""
    await host.attacher.allocate("leased", "eth0", (), "net")
    await host.attacher.allocate("hand", "eth0", (), BY_HAND)
    await host.attacher.expose()
    await host.attacher.attach(
        AttachRequest(
            "endpoint", "docker", "", mac="02:00:00:00:00:09", addresses=("10.32.0.9/24",)
        )
    )
    host.network.pairs.clear()
    assert await host.collect() == []
    assert len(host.ipam.held) == 3


async def test_an_address_whose_key_nobody_knows(host: Host) -> None:
    """Left by an operator's hand before hands were remembered, so only an operator frees it."""
    await host.ipam.allocate(AllocationKey("who", "eth0"))
    ripe = await host.leaks._look()
    assert ripe == []
    host.clock.run_until(Instant(APART))
    ripe = await host.leaks._look()
    assert [s.why for s in ripe] == ["nobodys"]
    assert await host.leaks._give_up(ripe, only_certain=True) == []
    assert await host.collect() == [("who", "nobodys")]
    assert not host.ipam.held


async def test_what_a_failed_attachment_left(host: Host) -> None:
    def fails(method: str) -> None:
        if method in ("attach", "delete"):
            raise OperatorError("no", "kernel-refused")

    host.network.before = fails
    with pytest.raises(OperatorError):
        await host.attacher.attach(WEB)
    assert len(host.ipam.held) == 1
    with pytest.raises(OperatorError):
        await host.collect()
    assert len(host.ipam.held) == 1, "what cannot be taken down keeps its address"
    host.network.before = lambda _method: None
    assert await host.collect() == [("web", "unfinished")]
    assert not host.ipam.held


async def test_a_look_that_fails_counts_for_nothing(host: Host) -> None:
    await host.attacher.attach(WEB)
    host.network.kill("/ns/web")
    await host.leaks._look()
    host.clock.run_until(Instant(APART))

    def fails(method: str) -> None:
        raise OperatorError("no", "helper-failed")

    host.network.before = fails
    with pytest.raises(OperatorError):
        await host.leaks._look()
    host.network.before = lambda _method: None
    assert await host.leaks._look() == []


async def test_a_lease_that_is_asked_for_twice_is_not_lost_by_a_refusal(host: Host) -> None:
    """GC could never free its address again."""
    await host.attacher.allocate("leased", "eth0", (), "net")
    host.ipam.before = lambda: (_ for _ in ()).throw(OperatorError("no", "key-in-use"))
    with pytest.raises(OperatorError):
        await host.attacher.allocate("leased", "eth0", ["10.32.0.77"], "net")
    assert host.attacher.leases() == {("leased", "eth0")}


@given(st.lists(st.tuples(st.sets(st.integers(0, 3)), st.floats(0, 2 * APART)), max_size=12))
def test_two_looks_against_a_slow_model(steps: list[tuple[set[int], float]]) -> None:
    looks, now, past = TwoLooks(), 0.0, list[tuple[float, set[int]]]()
    for seen, later in steps:
        now += later
        past.append((now, seen))
        ripe = looks.look([Suspect((str(n), "i"), "x", (), (str(n),)) for n in seen], Instant(now))
        for n in range(4):
            since = now
            for at, what in reversed(past):
                if n not in what:
                    break
                since = at
            assert ((str(n),) in {s.evidence for s in ripe}) == (n in seen and now >= since + APART)

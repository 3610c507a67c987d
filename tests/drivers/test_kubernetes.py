"""The agent before an API server of our own, on a real port: what a real one says, and what a
broken one does. Errors and events have the form that Kubernetes 1.20 gave them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from mesh.connection.maker import Target
from mesh.errors import OperatorError
from mesh.names import PeerName
from tests.drivers.test_mesh_driver import free_port
from tests.fake_api import FakeApi
from weaver.config import Config
from weaver.kubernetes import agent as agent_module
from weaver.kubernetes import client as client_module
from weaver.kubernetes import first as first_module
from weaver.kubernetes import follower as follower_module
from weaver.kubernetes.agent import Agent
from weaver.kubernetes.client import ApiServer
from weaver.kubernetes.first import with_nodes
from weaver.kubernetes.nodes import ANNOTATION

US, OTHER, LAST = (PeerName(bytes((n,)) * 8) for n in (1, 2, 3))
DEADLINE = 10.0


class FakeMesh:
    def __init__(self) -> None:
        self.us, self.port = US, 6783
        self.reason: str | None = None
        self.targets: set[str] = set()
        self.reclaimed: list[PeerName] = []
        self.asked: list[PeerName] = []
        self.rest = self.seen = self.gone_for = 0.0
        self.alive: set[PeerName] = set()
        self.known: dict[str, str] = {}

    def not_ready(self) -> str | None:
        return self.reason

    def connect(self, peers: frozenset[Target]) -> None:
        self.targets |= {peer.host for peer in peers}

    def forget(self, peers: frozenset[Target]) -> None:
        self.targets -= {peer.host for peer in peers}

    async def reclaim(self, peer: PeerName, rest: float) -> None:
        self.asked.append(peer)
        now = asyncio.get_running_loop().time()
        if peer in self.alive:
            self.seen = now
            raise OperatorError("it lives", "peer-alive")
        self.reclaimed.append(peer)
        self.rest, self.gone_for = rest, now - self.seen

    def load_nodes(self) -> dict[str, str]:
        return dict(self.known)

    def save_nodes(self, known: dict[str, str]) -> None:
        self.known = dict(known)


class World:
    def __init__(self, directory: Path) -> None:
        self.api, self.mesh, self.account = FakeApi(), FakeMesh(), directory
        self.port = free_port()
        (directory / "token").write_text("first\n")

    async def start(self) -> None:
        await self.api.start(self.port)
        await self.begin()

    async def begin(self) -> None:
        server = ApiServer(f"http://127.0.0.1:{self.port}", self.account)
        loop = asyncio.get_running_loop()
        self.agent = Agent(self.mesh, server, "us", Random(1), loop.time)
        self._task = asyncio.ensure_future(self.agent.run())

    async def end(self) -> None:
        assert not self._task.done(), self._task.exception()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, happened: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not happened():
                assert not self._task.done(), self._task.exception()
                await asyncio.sleep(0.01)

    def faults(self, reason: str) -> int:
        return self.agent.follower.faults.get(reason, 0)


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    for module, name, value in (
        (follower_module, "FIRST_BACKOFF", 0.02),
        (follower_module, "MAX_BACKOFF", 0.1),
        (follower_module, "SHORT_WATCH", 0.05),
        (agent_module, "LOOK_INTERVAL", 0.05),
        (agent_module, "GRACE", 0.1),
        (client_module, "ANSWER_TIMEOUT", 1.0),
        (client_module, "SILENCE", 0.5),
    ):
        monkeypatch.setattr(module, name, value)
    made = World(tmp_path)
    await made.api.put("us", "10.0.0.1")
    for n in range(2, 7):
        await made.api.put(f"n{n}", f"10.0.0.{n}")
    await made.start()
    await made.until(lambda: made.mesh.targets == {f"10.0.0.{n}" for n in range(2, 7)})
    yield made
    await made.end()
    await made.api.stop()


async def test_nodes_that_come_and_go(world: World) -> None:
    await world.api.put("new", "10.0.0.99")
    await world.until(lambda: "10.0.0.99" in world.mesh.targets)
    await world.api.put("new", "10.0.0.98")  # it has another address now
    await world.until(lambda: "10.0.0.98" in world.mesh.targets)
    await world.api.remove("new")
    await world.until(lambda: len(world.mesh.targets) == 5)


async def test_our_node_is_told_who_we_are_and_that_pods_can_start(world: World) -> None:
    own = world.api.nodes["us"]
    await world.until(lambda: own["metadata"]["annotations"].get(ANNOTATION) == str(US))
    await world.until(lambda: "conditions" in own["status"])
    (condition,) = own["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("NetworkUnavailable", "False")
    del own["status"]["conditions"]  # a cloud's controller says otherwise
    await world.api.put("us", "10.0.0.1", US)
    await world.until(lambda: "conditions" in world.api.nodes["us"]["status"])


async def test_a_node_is_not_called_ready_before_it_is(world: World) -> None:
    world.mesh.reason = "no-worker"
    await world.api.put("us", "10.0.0.1", US)
    await world.api.put("new", "10.0.0.99")
    await world.until(lambda: "10.0.0.99" in world.mesh.targets)
    assert "conditions" not in world.api.nodes["us"]["status"]
    world.mesh.reason = None
    await world.until(lambda: "conditions" in world.api.nodes["us"]["status"])


async def test_the_space_of_a_deleted_node_is_taken_over_once(world: World) -> None:
    await world.api.put("n2", "10.0.0.2", OTHER)
    await world.until(lambda: str(OTHER) in world.mesh.known)
    world.mesh.alive = {OTHER}
    await world.api.remove("n2")
    await world.until(lambda: "10.0.0.2" not in world.mesh.targets)
    await world.api.put("new", "10.0.0.99")
    await world.until(lambda: "10.0.0.99" in world.mesh.targets)
    assert world.mesh.reclaimed == []  # deleted from the list, and alive all the same
    world.mesh.alive = set()
    await world.until(lambda: world.mesh.reclaimed == [OTHER])
    await world.until(lambda: str(OTHER) not in world.mesh.known)


async def test_a_deleted_node_rests_since_it_was_heard_of_last(world: World) -> None:
    """Its addresses are free again within a minute; those of one that lives on, not before."""
    await world.api.put("n2", "10.0.0.2", OTHER)
    await world.until(lambda: str(OTHER) in world.mesh.known)
    world.mesh.alive = {OTHER}
    await world.api.remove("n2")
    await world.until(lambda: len(world.mesh.asked) == 5)
    world.mesh.alive = set()
    await world.until(lambda: world.mesh.reclaimed == [OTHER])
    rests = agent_module.REST - agent_module.GRACE  # counted from when it was alive last
    assert agent_module.REST - world.mesh.gone_for <= world.mesh.rest <= rests
    assert agent_module.REST + 10 <= 60


async def test_a_node_deleted_while_nobody_watched(world: World) -> None:
    await world.api.put("n2", "10.0.0.2", OTHER)
    await world.until(lambda: str(OTHER) in world.mesh.known)
    await world.end()
    await world.api.remove("n2")
    await world.begin()
    await world.until(lambda: world.mesh.reclaimed == [OTHER])


async def test_whoever_is_not_the_lowest_takes_nothing(world: World) -> None:
    world.mesh.us = LAST
    await world.api.put("n2", "10.0.0.2", US)
    await world.api.put("n3", "10.0.0.3", OTHER)
    await world.until(lambda: {str(US), str(OTHER), str(LAST)} <= world.mesh.known.keys())
    await world.api.remove("n3")
    await world.api.put("new", "10.0.0.99")
    await world.until(lambda: "10.0.0.99" in world.mesh.targets)
    assert world.mesh.reclaimed == []
    await world.api.remove("n2")  # and now it is the lowest
    await world.until(lambda: world.mesh.reclaimed == [US, OTHER])


@pytest.mark.parametrize(
    ("trouble", "fault"),
    [
        ("down", "api-error"),
        ("stall", "api-silent"),
        ("garbage", "garbage"),
        ("cut", "api-unreachable"),
        ("expired", "expired"),
        ("expired-event", "expired"),
        ("empty-watch", "watch-short"),
    ],
)
async def test_a_server_in_trouble_loses_nothing(world: World, trouble: str, fault: str) -> None:
    """What we know stays while it lasts; what happened meanwhile is known soon after."""
    await world.api.troubled(trouble)
    if trouble == "expired":  # of the next watch: this one is as it was
        await world.api.troubled("cut")
        await world.until(lambda: world.faults("api-unreachable") > 0)
        await world.api.troubled("expired")
    await world.until(lambda: world.faults(fault) > 1)
    assert len(world.mesh.targets) == 5
    await world.api.put("new", "10.0.0.99")
    await world.api.remove("n2")
    asked = len(world.api.asked)
    await world.until(lambda: world.faults(fault) > 4)
    assert len(world.api.asked) - asked < 60  # and it is not asked without pause
    await world.api.troubled("")
    await world.until(lambda: world.mesh.targets == {f"10.0.0.{n}" for n in (3, 4, 5, 6, 99)})


async def test_before_a_daemon_starts_it_knows_its_cluster(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()

    async def known(config: Config) -> Config:
        server = ApiServer(f"http://127.0.0.1:{world.port}", world.account)
        return await with_nodes(config, server, Random(1), loop.time)

    config = Config(node="us", kubernetes="", peers=(Target("10.0.0.2", 6783),))
    found = await known(config)
    assert [peer.host for peer in found.peers] == [f"10.0.0.{n}" for n in range(2, 7)]
    assert (found.init_peer_count, found.observer) == (6, False)
    assert (await known(replace(config, init_peer_count=3))).init_peer_count == 3
    with pytest.raises(OperatorError) as caught:
        await known(replace(config, node="nobody"))
    assert caught.value.reason == "unknown-node"
    monkeypatch.setattr(first_module, "PATIENCE", 0.3)
    await world.api.troubled("down")
    alone = await known(config)  # it divides nothing by itself
    assert (alone.observer, alone.peers) == (True, config.peers)


async def test_a_token_that_expires_is_read_anew(world: World) -> None:
    world.api.token = "second"
    await world.api.troubled("cut")
    await world.until(lambda: world.faults("unauthorized") > 0)
    await world.api.troubled("")
    (world.account / "token").write_text("second")
    await world.api.put("new", "10.0.0.99")
    await world.until(lambda: "10.0.0.99" in world.mesh.targets)


async def test_a_server_that_restarts(world: World) -> None:
    await world.api.stop()
    await world.until(lambda: world.faults("api-unreachable") > 0)
    await world.api.put("new", "10.0.0.99")
    await world.api.start(world.port)
    await world.until(lambda: "10.0.0.99" in world.mesh.targets)


async def test_a_server_that_forgot_all_nodes_takes_nobody_s_space(world: World) -> None:
    await world.api.put("n2", "10.0.0.2", OTHER)
    await world.until(lambda: str(OTHER) in world.mesh.known)
    world.api.nodes.clear()
    await world.api.troubled("expired-event")
    await world.until(lambda: world.faults("expired") > 0)
    await world.api.troubled("")
    await world.until(lambda: world.mesh.targets == set())
    await world.api.put("n9", "10.0.0.9")
    await world.until(lambda: world.mesh.targets == {"10.0.0.9"})
    assert world.mesh.reclaimed == []

"""The worker as a process: killed, told anew, ended, its device taken away.

docs/protocol.md 11.
"""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from bench.nodes import TAP, Cable, Node, World, run_in
from mesh.drivers.worker import WorkerProcess
from mesh.wire import worker as w
from tests.netns.traffic import eventually, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sp{os.getpid() % 1000}"


def test_a_killed_worker_is_replaced_with_new_epochs() -> None:
    """11.1: devices outlive the worker; the new one knows nothing until it is told."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        assert "3 received" in ping(a, b)
        os.kill(a.pid, signal.SIGKILL)
        assert a.stop() == -signal.SIGKILL
        a.start()
        # The old keys' counters died with the worker: both ends take new ones.
        for node in world.nodes:
            world.tell(node, epoch=2)
        for node, other in ((a, b), (b, a)):
            node.say(w.ActivateEpoch(other.short_id, 2))
            node.say(w.RetireEpoch(other.short_id, 1))
            node.counters()
        assert "3 received" in ping(a, b)
        transfer(a, b, 2_000_000)
        assert "unauthentic" not in b.drops()


def test_epochs_rotate_without_a_lost_frame() -> None:
    """11.2: installed on both before either sends under it, retired after."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        for epoch in range(2, 12):
            for node, other in ((a, b), (b, a)):
                node.say(keys_for(node, other, epoch))
                assert node.wait_for(w.EpochInstalled) == w.EpochInstalled(other.short_id, epoch)
            for node, other in ((a, b), (b, a)):
                node.say(w.ActivateEpoch(other.short_id, epoch))
                transfer(a, b, 200_000)
            for node, other in ((a, b), (b, a)):
                node.say(w.RetireEpoch(other.short_id, epoch - 1))
        for node in (a, b):
            assert not node.drops().keys() & {"unknown-epoch", "wrong-tag", "no-key", "unauthentic"}


def keys_for(node: Node, other: Node, epoch: int) -> w.InstallEpoch:
    from bench.nodes import keys

    return keys(node.number, other.number, epoch)


def test_a_worker_ends_with_its_daemon() -> None:
    """11.1: it has nobody to work for when the control socket closes, or on Shutdown."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        assert a.stop() == 0
        b.say(w.Shutdown())
        assert b.stop() == 0


def test_a_worker_says_that_its_tap_is_gone() -> None:
    """11.4: a deleted TAP ends the worker with its own exit code, not in a busy loop."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        run_in(a.namespace, "ip", "link", "del", TAP)
        eventually(lambda: a.exit_code() == 3)
        assert "100% packet loss" in ping(b, a, "-W", "1", check=False)


def test_tables_and_counters() -> None:
    """11.3: what the worker learned and counted."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        assert "3 received" in ping(a, b)
        a.say(w.GetMacs())
        macs = a.wait_for(w.Macs)
        assert {place for _, place in macs.entries} == {0, b.short_id}
        assert macs.total == len(macs.entries)
        counters = a.counters()
        assert counters.tx_frames >= 3
        assert counters.rx_octets >= 3 * 98
        (counted,) = counters.peers
        assert (counted.rx_lost, counted.rx_missing, counted.tx_loss_ppm) == (0, 0, 0)
        counted = counted._replace(rx_lost=1, rx_missing=1, tx_loss_ppm=1)
        assert counted.short_id == b.short_id
        assert min(counted[1:]) > 0, "each of them counts something"
        assert counted.tx_frames <= counters.tx_frames
        assert counted.tx_calls <= counted.tx_datagrams
        a.say(w.DropPeer(b.short_id))
        assert a.counters().peers == ()


async def test_the_daemon_side_starts_a_dead_worker_again() -> None:
    """11.4: with back-off, saying why, and nothing of the old one's is sent to the new."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        await asyncio.to_thread(a.stop)
        events: list[str] = []
        ready: asyncio.Queue[int] = asyncio.Queue()

        def hear(message: w.FromWorker) -> None:
            if isinstance(message, w.Ready):
                ready.put_nowait(message.pid)

        async def devices() -> list[tuple[int, int]]:
            return a.devices()

        process = WorkerProcess(
            devices,
            on_message=hear,
            on_started=lambda: events.append("started"),
            on_lost=events.append,
        )

        process.start()
        try:
            async with asyncio.timeout(10):
                os.kill(await ready.get(), signal.SIGKILL)
                assert [await ready.get()] == process.pids
            assert events == ["started", "worker-died", "started"]
            epoch = 5
            process.send(w.Configure(a.short_id, a.name, 1420, True))
            process.send(w.SetPeer(b.short_id, b.name, 1420))
            process.send(w.SetNeighbour(b.short_id, a.endpoint_of(b), 1472))
            process.send(w.SetRoute(b.short_id, b.short_id, 1472))
            process.send(w.SetTree(a.short_id, (b.short_id,)))
            process.send(keys_for(a, b, epoch))
            process.send(w.ActivateEpoch(b.short_id, epoch))
            await asyncio.to_thread(b.say, keys_for(b, a, epoch))
            await asyncio.to_thread(b.say, w.ActivateEpoch(a.short_id, epoch))
            assert "3 received" in await asyncio.to_thread(ping, a, b)
        finally:
            await process.close()
        assert events == ["started", "worker-died", "started"]

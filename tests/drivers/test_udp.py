"""The daemon's own datagrams: what waits is bounded, and one address's trouble is not another's."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest

from mesh.drivers.udp import MAX_WAITING, ProbeSocket, bound_socket
from mesh.names import Endpoint

DEADLINE = 10.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # no event tells of what is waited for
            await asyncio.sleep(0.01)


class Ear:
    """A probe socket and what it heard."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.probes = ProbeSocket(lambda _source, data: self.heard.append(data))
        self.socket = bound_socket(0)
        self.port = int(self.socket.getsockname()[1])
        self.most = 0

    async def start(self) -> None:
        await self.probes.start(self.socket)
        queue: asyncio.Queue[object] = vars(self.probes._stream)["_recvq"]
        put = queue.put_nowait

        def watched(item: object) -> None:
            put(item)
            self.most = max(self.most, queue.qsize())

        vars(queue)["put_nowait"] = watched


@pytest.fixture
async def ear() -> AsyncIterator[Ear]:
    here = Ear()
    await here.start()
    yield here
    await here.probes.close()


async def test_what_came_while_we_were_busy_never_piles_up_in_the_library(ear: Ear) -> None:
    """The library's queue has no bound of its own: the kernel's buffer must stay the only one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flood:
        for _ in range(5):
            for n in range(400):
                flood.sendto(n.to_bytes(2, "big") * 24, ("127.0.0.1", ear.port))
            time.sleep(0.05)  # noqa: ASYNC251  # the loop is busy with something else
            await asyncio.sleep(0)
        await until(lambda: len(ear.heard) >= 100)
    assert ear.most <= 2


async def test_a_datagram_that_cannot_be_sent_costs_no_other(ear: Ear) -> None:
    """The library tells of a failed datagram at the next one, which has nothing to do with it."""
    other = Ear()
    await other.start()
    nowhere, there = Endpoint("255.255.255.255", 9), Endpoint("127.0.0.1", other.port)
    for n in range(20):
        ear.probes.send(nowhere, b"lost")
        ear.probes.send(nowhere, b"lost")
        ear.probes.send(there, bytes((n,)))
    await until(lambda: len(other.heard) == 20)
    assert other.heard == [bytes((n,)) for n in range(20)]
    await until(lambda: ear.probes.dropped >= 39)
    await other.probes.close()


async def test_what_waits_to_be_sent_is_bounded(ear: Ear) -> None:
    for _ in range(MAX_WAITING + 10):
        ear.probes.send(Endpoint("127.0.0.1", 9), b"x")
    assert ear.probes.dropped == 10

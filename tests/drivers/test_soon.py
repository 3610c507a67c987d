"""Work that nobody waits for is done soon, and once for many."""

from __future__ import annotations

import asyncio

from weaver.daemon.soon import Soon

TURN = 0.0


async def test_many_who_ask_at_once_are_one() -> None:
    done: list[float] = []
    twice = asyncio.Event()

    def work() -> None:
        done.append(asyncio.get_running_loop().time())
        if len(done) == 2:
            twice.set()

    soon = Soon(work, 0.05)
    for _ in range(30):
        soon.ask()
    assert done == [], "whoever asks is answered first"
    await asyncio.sleep(TURN)
    await asyncio.sleep(TURN)
    assert len(done) == 1
    for _ in range(30):
        soon.ask()
        await asyncio.sleep(TURN)
    async with asyncio.timeout(10):
        await twice.wait()
    assert done[1] - done[0] >= 0.05, "not all the time"


async def test_what_is_asked_by_the_work_itself_is_not_lost() -> None:
    done: list[int] = []
    twice = asyncio.Event()

    def work() -> None:
        done.append(1)
        if len(done) == 1:
            soon.ask()
        else:
            twice.set()

    soon = Soon(work, 0.001)
    soon.ask()
    async with asyncio.timeout(10):
        await twice.wait()


async def test_nothing_is_done_after_the_end() -> None:
    done: list[int] = []
    soon = Soon(lambda: done.append(1), 0.0)
    soon.ask()
    soon.close()
    soon.ask()
    for _ in range(5):
        await asyncio.sleep(TURN)
    assert done == []

"""``make bench-ipam``: what addresses cost, in one process, on the disk that ``--directory`` is on.

The shipped service and store: answers come after the disk. Two peers that donate are two services
in one process, a message each way; the network is not in it. Prints one Markdown table.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median, quantiles

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.drivers.service import IpamService
from ipam.drivers.store import SqliteStore
from ipam.effects import AllocationKey, SetAllocation
from ipam.ring import Ring
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.drivers.clock import LoopClock
from mesh.gossip.channel import Item
from mesh.names import PeerName

RANGE = AddressRange.parse("10.32.0.0/12")
CALLERS = 100
HELD = 65_536
PEERS = 1_000

Row = tuple[str, str, str]


def service(directory: Path, number: int) -> IpamService:
    identity = Identity.from_seed(bytes([number]) * 32)
    store = SqliteStore(directory / f"{number}.db", str(identity.name), str(RANGE))
    allocator = Allocator(
        identity, RANGE, Random(number), entropy_id=b"b" * 16, stored=store.load()
    )
    return IpamService(
        allocator,
        store,
        LoopClock(asyncio.get_running_loop()),
        send=lambda _peer, _message: None,
        publish=lambda _channel, _keys: None,
    )


def key(number: int) -> AllocationKey:
    return AllocationKey(f"c{number}", "eth0")


async def one_by_one(directory: Path, count: int) -> Row:
    ipam = service(directory, 1)
    await ipam.seed(())
    took = []
    for number in range(count):
        began = time.perf_counter()
        await ipam.allocate(key(number))
        took.append(time.perf_counter() - began)
    ipam.close()
    return "one durable allocation, p50", f"{1000 * median(took):.2f} ms", "1.2 ms"


async def together(directory: Path, count: int) -> list[Row]:
    ipam = service(directory, 2)
    await ipam.seed(())
    took: list[float] = []

    async def caller(first: int) -> None:
        for number in range(first, count, CALLERS):
            began = time.perf_counter()
            await ipam.allocate(key(number))
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(caller(first) for first in range(CALLERS)))
    rate = count / (time.perf_counter() - began)
    ipam.close()
    return [
        (f"{CALLERS} callers, p99", f"{1000 * quantiles(took, n=100)[98]:.2f} ms", "5 ms"),
        (f"{CALLERS} callers, allocations a second", f"{rate:.0f}", "1300"),
    ]


async def donated(directory: Path, rounds: int) -> Row:
    took = []
    for number in range(rounds):
        one, two = service(directory, 10 + 2 * number), service(directory, 11 + 2 * number)
        names: dict[PeerName, IpamService] = {p.allocator.us: p for p in (one, two)}
        loop = asyncio.get_running_loop()
        for peer in (one, two):
            source = peer.allocator.us
            peer._send = _sender(names, source, loop)
        await one.seed(())
        slices = one.allocator.ring.items(one.allocator.ring.digest())
        two.allocator.ring.merge(slices, one.allocator.us, Instant(0.0))
        two.channel_changed("ipam")
        one.peers_changed({two.allocator.us: "two"})
        two.peers_changed({one.allocator.us: "one"})
        began = time.perf_counter()
        await two.allocate(key(1))
        took.append(time.perf_counter() - began)
        one.close()
        two.close()
    return "an address that another peer must donate, p50", f"{1000 * median(took):.2f} ms", "20 ms"


def _sender(
    names: dict[PeerName, IpamService], source: PeerName, loop: asyncio.AbstractEventLoop
) -> Callable[[PeerName, bytes], None]:
    return lambda peer, message: (loop.call_soon(names[peer].received, source, message), None)[1]


def held(directory: Path) -> list[Row]:
    identity = Identity.from_seed(b"h" * 32)
    path = directory / "held.db"
    store = SqliteStore(path, str(identity.name), str(RANGE))
    changes = [SetAllocation(key(n), Address(RANGE.start + 1 + n)) for n in range(HELD)]
    store.apply(changes)
    store.close()
    del changes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    store = SqliteStore(path, str(identity.name), str(RANGE))
    allocator = Allocator(identity, RANGE, Random(1), entropy_id=b"b" * 16, stored=store.load())
    took = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert len(allocator.allocations) == HELD
    store.close()
    return [
        (f"start with {HELD} allocations", f"{took:.2f} s", "1 s"),
        (f"memory of {HELD} allocations (growth of the peak)", f"{grown:.0f} MB", "40 MB"),
    ]


def merged() -> Row:
    people = [Identity.from_seed(n.to_bytes(32, "big")) for n in range(PEERS)]
    owners = sorted(one.name for one in people)
    by_name = {one.name: one for one in people}
    whole = Ring(people[0], RANGE)
    whole.seed(b"b" * 16, owners)
    other = Ring(by_name[owners[-1]], RANGE)
    items = whole.items(whole.digest())
    other.merge(items, people[0].name, Instant(0.0))
    mine = whole.owned(whole.us)[0]
    took = []
    for n in range(50):
        changed = whole.give(
            Address(mine.end - 2 * n - 2), Address(mine.end - 2 * n - 1), owners[1]
        )
        delta = [Item(p.key, p.stamp, whole.encoded(p)) for p in changed]
        began = time.perf_counter()
        other.merge(delta, whole.us, Instant(0.0))
        took.append(time.perf_counter() - began)
    return (
        f"merge of one donation, ring of {PEERS} peers, p50",
        f"{1000 * median(took):.2f} ms",
        "1 ms",
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.ipam", description=__doc__)
    parser.add_argument("--directory", help="of the databases (a temporary one)")
    parser.add_argument("--count", type=int, default=5000, help="allocations (5000)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        directory = Path(name)
        rows = held(directory)
        rows.append(asyncio.run(one_by_one(directory, args.count)))
        rows += asyncio.run(together(directory, args.count))
        rows.append(asyncio.run(donated(directory, 20)))
    rows.append(merged())
    print("| what | measured | wanted |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()

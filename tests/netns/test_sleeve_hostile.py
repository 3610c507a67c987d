"""Octets from strangers at the sleeve's port while pods talk: each dropped by its reason.

docs/protocol.md 10.3 and 10.4.

Why it is built so: sleeve.md 10.
"""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from bench.nodes import Cable, World, inside
from mesh.wire.sleeve import DATA, HEADER, PLAIN, PROBE
from tests.netns.traffic import drain, eventually, listen_to, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sx{os.getpid() % 1000}"


@pytest.fixture
def world() -> Iterator[World]:
    with World(TAG, 2, [Cable(1, 2)], offloads=False) as world:
        yield world


def throw(world: World, datagrams: list[bytes]) -> None:
    """Send these to the second host's sleeve from the first host's address, another port."""
    with inside(
        world.node(1).namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ) as sock:
        for datagram in datagrams:
            sock.sendto(datagram, ("10.99.1.2", 6783))


def test_random_octets(world: World) -> None:
    """10.3: no datagram whatever ends a worker or a link."""
    a, b = world.nodes
    rng = random.Random(7)
    junk = [rng.randbytes(rng.randrange(0, 1473)) for _ in range(2000)]
    throw(world, [*junk, b"", bytes(3000)])
    eventually(lambda: sum(b.drops().values()) >= 1990)
    assert "3 received" in ping(a, b)
    transfer(a, b, 3_000_000)


def test_each_forgery_has_its_reason(world: World) -> None:
    """10.3: what is not from a peer we know, under a key we hold, is counted and nothing else."""
    a, b = world.nodes
    with listen_to(b.namespace, "u1") as ear:
        assert "3 received" in ping(a, b)
        sent = [p[42:] for p in drain(ear) if p[23] == 17 and p[36:38] == b"\x1a\x7f"]
    good = next(d for d in sent if d[0] == DATA and d[6:8] != b"\0\0" and d[4:6] == b"\0\2")
    kind, hops, src, dst, epoch, tag, seq, index, total, _ = HEADER.unpack_from(good)

    def forged(**change: int) -> bytes:
        fields = {"kind": kind, "hops": hops, "src": src, "dst": dst, "epoch": epoch}
        fields |= {"tag": tag, "seq": seq, "index": index, "total": total, "reserved": 0}
        return HEADER.pack(*(fields | change).values()) + good[24:]

    before = b.drops()
    cases = {
        "replayed": good,
        "wrong-tag": forged(tag=tag ^ 1),
        "unknown-peer": forged(src=77),
        "unknown-epoch": forged(epoch=9),
        "unauthentic": forged(seq=seq + 1_000_000),
        "not-encrypted": forged(kind=PLAIN, epoch=0, tag=0),
        "malformed": forged(kind=200),
        "no-route": forged(dst=99),
        "hop-limit": forged(dst=99, hops=1),
    }

    def all_counted() -> bool:
        now = b.drops()
        return all(now.get(reason, 0) >= before.get(reason, 0) + 5 for reason in cases)

    throw(world, [datagram for datagram in cases.values() for _ in range(5)])
    eventually(all_counted)
    throw(world, [forged(index=3, total=3), forged(total=0), forged(kind=PROBE), good[:30]])
    throw(world, [good[:-1], good + b"x"])
    frames = b.counters().rx_frames
    assert "3 received" in ping(a, b)
    transfer(a, b, 2_000_000)
    assert b.counters().rx_frames > frames


def test_floods_while_pods_talk(world: World) -> None:
    """10.4: replays and forgeries between the datagrams of real records cost none of these."""
    a, b = world.nodes
    with listen_to(b.namespace, "u1") as ear:
        transfer(a, b, 500_000)
        sent = [p[42:] for p in drain(ear) if p[23] == 17 and p[36:38] == b"\x1a\x7f"]
    flipped = [d[:-1] + bytes((d[-1] ^ 1,)) for d in sent if len(d) > 40]
    pid = os.fork()
    if pid == 0:
        try:
            for _ in range(40):
                throw(world, sent[:200] + flipped[:200])
        finally:
            os._exit(0)
    transfer(a, b, 10_000_000)
    assert os.waitpid(pid, 0)[1] == 0
    drops = b.drops()
    assert drops["replayed"] > 1000
    assert "3 received" in ping(a, b)


def test_memory_stays_bounded(world: World) -> None:
    """10.4: records that never end are given up; nothing is kept for those without the tag."""
    a, b = world.nodes
    ping(a, b)

    def resident() -> int:
        with open(f"/proc/{b.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    before = resident()
    keys_tag = int.from_bytes(world_key(1, 2)[:4], "big")
    for n in range(20):
        batch = [
            HEADER.pack(DATA, 16, 1, 2, 1, keys_tag, 10**6 + n * 500 + k, 0, 40, 0) + bytes(1400)
            for k in range(500)
        ]
        throw(world, batch)
    eventually(lambda: b.drops().get("record-incomplete", 0) > 5000)
    assert resident() - before < 32 << 20
    transfer(a, b, 2_000_000)


def world_key(a: int, b: int) -> bytes:
    """The key that node ``a`` seals with for ``b`` in these worlds."""
    from bench.nodes import keys

    return keys(a, b, 1).tx_key


def test_a_flood_of_strangers_ends_in_the_kernel(world: World) -> None:
    """10.3: pods and keys go on as ever, and every stranger is counted."""
    a, b = world.nodes
    forged = HEADER.pack(DATA, 16, 1, 2, 1, 0xBAD, 1, 0, 1, 0) + bytes(100)
    thrown = 0

    def all_counted() -> bool:
        return b.drops().get("wrong-tag", 0) >= thrown

    def is_filtered() -> bool:
        return b.is_filtered()

    assert not is_filtered()
    while not is_filtered():  # it is raised when there were many of them within a second
        assert thrown < 400_000, "never raised"
        throw(world, [forged] * 2000)
        thrown += 2000
        eventually(all_counted)
    throw(world, [forged] * 4000)
    thrown += 4000
    eventually(all_counted)
    # Nor does anybody show another's tag, or have us relay for strangers.
    tag = int.from_bytes(world_key(1, 2)[:4], "big")
    strange = [
        HEADER.pack(DATA, 16, 77, 2, 1, tag, 1, 0, 1, 0) + bytes(100),
        HEADER.pack(DATA, 16, 77, 1, 1, tag, 1, 0, 1, 0) + bytes(100),
        HEADER.pack(DATA, 16, 1, 78, 1, tag, 1, 0, 1, 0) + bytes(100),
    ]
    throw(world, strange * 1000)
    thrown += 3000
    eventually(all_counted)
    assert "3 received" in ping(a, b)
    world.introduce(epoch=2)  # counters of drops begin anew
    assert is_filtered()
    assert "3 received" in ping(a, b)
    transfer(a, b, 3_000_000)
    assert "receive-queue-full" not in b.drops()

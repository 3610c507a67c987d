"""Kernel and twin do the same, whatever they are told and whatever comes: random stories of both.

The twin is slow and obvious; where the kernel's programs do otherwise, one of the two is wrong. A
failure names its seed and its step.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from bench.kernelnodes import chain_tables, mac
from mesh.link.datapath import SLEEVE, Answer, Config, Tree, correct
from mesh.names import ShortID
from tests import datapath_rules as rules
from tests.datapath_rules import COUNT, GROUP, OF_HOST, STRANGER, Chain, arp, frame, solicitation
from tests.netns.kernel_hosts import KernelChain
from tests.unit.test_datapath_twin import TwinChain

pytestmark = pytest.mark.netns

STEPS = 60
WITHIN = 5.0
NUMBERS = range(1, COUNT + 1)
ODD = (7, 4095)
"""Short IDs that nobody has."""

Step = Callable[[Chain], None]


@pytest.fixture(scope="module")
def hosts() -> Iterator[KernelChain]:
    chain = KernelChain(f"dd{os.getpid() % 1000}")
    yield chain
    chain.close()


@pytest.fixture
def kernel(hosts: KernelChain) -> Iterator[KernelChain]:
    try:
        hosts.open()
        yield hosts
    finally:
        hosts.remove()


class Seen:
    """All that a chain's pods, sleeves and daemons were given so far, and what was counted."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._heard: dict[int, Counter[object]] = {n: Counter() for n in NUMBERS}

    def now(self) -> list[object]:
        found: list[object] = []
        for host in self._chain.hosts:
            # A bridge keeps from a pod what is neither for it nor for a group; the twin has none.
            for one in host.heard(0):
                if one[:6] == mac(host.number) or one[0] & 1:
                    self._heard[host.number][one] += 1
            for one in host.sleeve_heard(0):
                self._heard[host.number]["sleeve", one] += 1
            for up in host.datapath.receive():
                key = (up.reason, up.source, up.target, up.frame.rstrip(b"\0"))
                self._heard[host.number][key] += 1
            counters = host.datapath.counters()
            found.append(
                (
                    host.number,
                    dict(self._heard[host.number]),
                    dict(counters.drops),
                    dict(counters.peers),
                    (counters.answered, counters.upcalls, counters.to_sleeve),
                    host.datapath.learned(),
                )
            )
        return found


def story(rng: random.Random) -> Step:  # a list of what can happen
    """One thing that happens, the same to both."""
    number, other = rng.sample(list(NUMBERS), 2)
    origin = ShortID(rng.choice([*NUMBERS, *ODD]))
    text = f"{rng.getrandbits(40):x}"
    neighbour = rng.choice([n for n in (number - 1, number + 1) if n in NUMBERS])

    def send(chain: Chain) -> None:
        target = rng_target
        chain.hosts[number - 1].send(frame(number, target, text))

    def ask(chain: Chain) -> None:
        chain.hosts[number - 1].send(arp(number, OF_HOST.format(other), sender_ip=asker))

    def solicit(chain: Chain) -> None:
        mine, theirs = (bytes.fromhex("fd32") + bytes(13) + bytes((n,)) for n in (1, other))
        if number == 1:
            chain.hosts[0].send(solicitation(mine, theirs))

    def forge(chain: Chain) -> None:
        # A pod's own address would also teach the bridge, of which the twin has none.
        sender = bytes((2, 0, 0, 0, 9, origin & 0xFF))
        sent = frame(number, rng_target, text, sender=sender)
        to = chain.hosts[neighbour - 1]
        chain.hosts[number - 1].forge(to, origin, to_id, sent, hops=hops, own=own)

    def by_sleeve(chain: Chain) -> None:
        sender = bytes((2, 0, 0, 0, 8, number))
        chain.hosts[number - 1].sleeve_send(frame(number, mac(number), text, sender=sender))

    def control(chain: Chain) -> None:
        chain.hosts[number - 1].datapath.send_control(ShortID(to_id), text.encode())

    def tell_route(chain: Chain) -> None:
        datapath = chain.hosts[number - 1].datapath
        if way is None:
            datapath.drop_route(ShortID(other))
        else:
            datapath.set_routes({ShortID(other): way})

    def tell_tree(chain: Chain) -> None:
        datapath = chain.hosts[number - 1].datapath
        datapath.set_tree(origin, tree) if way is not None else datapath.drop_tree(origin)

    def tell_source(chain: Chain) -> None:
        datapath, host = chain.hosts[number - 1].datapath, chain.address(number, neighbour)
        datapath.allow(host, origin) if own else datapath.disallow(host, origin)

    def tell_place(chain: Chain) -> None:
        datapath = chain.hosts[number - 1].datapath
        datapath.attach(mac(other), ShortID(other)) if own else datapath.detach(mac(other))

    def tell_answer(chain: Chain) -> None:
        datapath, answer = chain.hosts[number - 1].datapath, Answer(mac(other), ShortID(other))
        datapath.set_answer(OF_HOST.format(other), answer)
        datapath.set_answer(f"fd32::{other}", answer)

    def tell_config(chain: Chain) -> None:
        config = Config(ShortID(number), 1500, upcall_unknown=own)
        chain.hosts[number - 1].datapath.configure(config)

    def forget(chain: Chain) -> None:
        chain.hosts[number - 1].datapath.forget(ShortID(other))

    def mend(chain: Chain) -> None:
        correct(chain.hosts[number - 1].datapath, chain_tables(number, COUNT, chain.address))

    rng_target = rng.choice([mac(other), mac(other), GROUP, STRANGER])
    asker = rng.choice([None, None, "0.0.0.0", OF_HOST.format(other)])
    to_id = rng.choice([*NUMBERS, neighbour, neighbour, *ODD])
    hops, own = rng.choice([1, 2, 3, 64]), rng.random() < 0.7
    way = rng.choice([None, SLEEVE, *(ShortID(n) for n in (number - 1, number + 1))])
    children = [ShortID(n) for n in (number - 1, number + 1) if n in NUMBERS and rng.random() < 0.6]
    parent = rng.choice([None, ShortID(neighbour)])
    tree = Tree(parent, tuple(c for c in children if c != parent), rng.random() < 0.3)
    traffic = (send, send, send, forge, forge, ask, solicit, by_sleeve, control)
    telling = (
        tell_route,
        tell_tree,
        tell_source,
        tell_place,
        tell_answer,
        tell_config,
        forget,
        mend,
    )
    return rng.choice([*traffic, *telling])


@pytest.mark.parametrize("seed", range(6))
def test_kernel_and_twin_do_the_same(kernel: KernelChain, seed: int) -> None:
    rng = random.Random(seed)
    twin = TwinChain()
    for chain in (kernel, twin):
        rules.wire(chain)
    seen = {chain: Seen(chain) for chain in (kernel, twin)}
    for at in range(STEPS):
        step = story(rng)
        step(twin)
        step(kernel)
        wanted, until = seen[twin].now(), time.monotonic() + WITHIN
        while (got := seen[kernel].now()) != wanted:
            assert time.monotonic() < until, differing(seed, at, step, got, wanted)
            time.sleep(0.005)


def differing(seed: int, at: int, step: Step, got: list[object], wanted: list[object]) -> str:
    lines = [f"seed {seed}, step {at} ({step.__name__})"]
    for kernel, twin in zip(got, wanted, strict=True):
        if kernel != twin:
            lines += [f"kernel: {kernel}", f"twin:   {twin}"]
    return "\n".join(lines)

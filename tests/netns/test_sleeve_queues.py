"""What may wait, and whose it is: queues in front of a worker. docs/sleeve.md 11."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench.nodes import Cable, Node, World, inside, run_in
from mesh.drivers.sleeve.abi import SOL_UDP, UDP_SEGMENT
from mesh.drivers.tap import set_queue_length, set_receive_buffer
from mesh.wire.sleeve import DATA, HEADER, HOP_LIMIT
from tests.netns.traffic import eventually, ping, transfer

pytestmark = pytest.mark.netns

TAG = f"sq{os.getpid() % 1000}"
SEGMENT, SEGMENTS = 1000, 60


def test_lengths_are_the_kernels() -> None:
    """What was set is what the device and the socket have; frames cross all the while."""
    with World(TAG, 2, [Cable(1, 2)]) as world:
        a, b = world.nodes
        (tap, udp), *_ = a.devices()
        length = Path("/sys/class/net/sleeve0/tx_queue_len")
        for frames, octets in ((32, 2 << 20), (1000, 16 << 20)):
            inside(a.namespace, partial(set_queue_length, tap, frames))
            set_receive_buffer(udp, octets)
            assert run_in(a.namespace, "cat", str(length)).strip() == str(frames)
            with socket.socket(fileno=os.dup(udp)) as sock:
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == octets
            transfer(a, b, 3_000_000)
        with socket.socket() as other:
            set_queue_length(other.fileno(), 32)  # no TAP: nothing happens, nothing is raised


@contextmanager
def flood(source: Node, target: Node, relay: Node) -> Iterator[list[int]]:
    """Runs of datagrams from ``source``'s address, for ``target``, more than the relay can take;
    how many were sent."""
    header = HEADER.pack(DATA, HOP_LIMIT, source.number, target.number, 1, 7, 9, 0, 1, 0)
    run = (header.ljust(SEGMENT, b"\0")) * SEGMENTS
    ancillary = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", SEGMENT))]
    there = (source.endpoint_of(relay).host, 6783)
    done = threading.Event()
    sock = inside(source.namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

    sent = [0]

    def send() -> None:
        while not done.is_set():
            sock.sendmsg([run], ancillary, 0, there)
            sent[0] += SEGMENTS

    thread = threading.Thread(target=send)
    with sock:
        thread.start()
        try:
            yield sent
        finally:
            done.set()
            thread.join()


def test_a_relay_shares_its_time_between_those_it_relays_for() -> None:
    """One that floods has the rest dropped, not those beside it; and in front of the queue, or it
    would be full, which is everybody's loss."""
    cables = [Cable(1, 2), Cable(2, 3), Cable(2, 4)]
    via = {pair: 2 for a, b in ((1, 3), (1, 4), (3, 4)) for pair in ((a, b), (b, a))}
    with World(TAG, 4, cables, via=via, offloads=False) as world:
        loud, relay, target, quiet = world.nodes
        assert "3 received" in ping(quiet, target)
        before = relay.counters().relayed
        seen = relay.drops()

        def is_shed() -> bool:
            """Whether little else than what is too much was dropped since we last looked, another
            talking meanwhile: alone, the flood may have it all."""
            nonlocal seen
            run_in(quiet.pod, "ping", "-c", "9", "-i", "0.02", "-W", "1", target.address,
                   check=False)  # fmt: skip
            last, seen = seen, relay.drops()
            share, full = (seen.get(reason, 0) - last.get(reason, 0)
                           for reason in ("relay-share", "receive-queue-full"))  # fmt: skip
            return share > max(1000, 4 * full)

        with flood(loud, target, relay) as sent:
            said = run_in(quiet.pod, "ping", "-c", "50", "-i", "0.02", "-W", "5",
                          target.address, check=False)  # fmt: skip
            through = (relay.counters().relayed - before) / sent[0]
            eventually(is_shed, within=30)
        found = re.search(r"(\d+) received", said)
        assert found is not None
        assert int(found[1]) / 50 > min(2 * through, 0.9), f"{through:.0%} of the flood\n{said}"
        eventually(lambda: not relay.is_filtered())
        transfer(loud, target, 3_000_000)

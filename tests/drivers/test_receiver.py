"""Datagrams of several hosts on a real socket, in each other's midst.

docs/protocol.md 10.2 to 10.5.
"""

from __future__ import annotations

import random
import socket
from contextlib import closing

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mesh.drivers.sleeve import abi
from mesh.drivers.sleeve import sender as sending
from mesh.drivers.sleeve.receiver import Receiver
from mesh.drivers.sleeve.sender import Sender
from mesh.link.broadcast import Broadcasts
from mesh.link.records import unicast_record
from mesh.names import Endpoint, ShortID
from mesh.wire import worker as w
from mesh.wire.sleeve import HEADER_SIZE, INDEX_AT, SEQ_AT, TOTAL_AT
from tests.unit.test_sleeve_forwarding import FAR, POD, T0, US, A, B, C, Host, frame

FULL = 1448
"""Octets of payload that a slot has."""


class Pods:
    """The TAP's side: frames written."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def write(self, frame: bytes | bytearray | memoryview) -> None:
        self.frames.append(bytes(frame))


class Far:
    """A worker's receiving side on a socket, and hosts that send to it or through it."""

    def __init__(self) -> None:
        self.host = Host(US, A, B, C)
        self.hosts = [Host(A, US, C), Host(B, US, C)]
        self.target = Host(C, A, B)
        self.source, self.socket, self.onward = (self._open() for _ in range(3))
        port = self.onward.getsockname()[1]
        self.host.peers.apply(w.SetNeighbour(C, Endpoint("127.0.0.1", port), FULL + HEADER_SIZE))
        fd = self.socket.fileno()
        self.pods = Pods()
        self.receiver = Receiver(
            self.host.peers,
            fd,
            self.pods,  # type: ignore[arg-type]  # all that it needs of an Uplink
            Sender(self.host.peers, fd, socket.AF_INET, lambda *_: None),
            Broadcasts(1),
            lambda *_: None,
        )

    @staticmethod
    def _open() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        return sock

    def take(self, datagrams: list[bytes]) -> list[bytes]:
        """They come; the frames that pods get of it."""
        self.pods.frames.clear()
        for datagram in datagrams:
            self.source.sendto(datagram, self.socket.getsockname())
        self.receiver.receive(T0)
        self.receiver.receive(T0)
        return self.pods.frames

    def passed_on(self) -> list[bytes]:
        came = []
        while True:
            try:
                came.append(self.onward.recv(1 << 16))
            except BlockingIOError:
                return came

    def records(
        self, sizes: list[tuple[int, int]], dst: ShortID, payload: int = FULL
    ) -> tuple[list[list[bytes]], list[list[bytes]]]:
        """For each sender its frames, and the datagrams of their records one after the other."""
        frames: list[list[bytes]] = [[], []]
        datagrams: list[list[bytes]] = [[], []]
        for n, (which, octets) in enumerate(sizes):
            whole = frame(FAR if which else POD, bytes((2, which, 0, 0, 0, n)), bytes(octets))
            frames[which].append(whole)
            body = bytes(unicast_record(whole))
            datagrams[which] += self.hosts[which].datagrams(dst, body, size=payload)
        return frames, datagrams

    def close(self) -> None:
        for sock in (self.source, self.socket, self.onward):
            sock.close()


def shuffled_together(both: list[list[bytes]], rng: random.Random) -> list[bytes]:
    """Each in its order."""
    turns = [0] * len(both[0]) + [1] * len(both[1])
    rng.shuffle(turns)
    sources = [iter(one) for one in both]
    return [next(sources[turn]) for turn in turns]


SIZES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(1, 45_000)), min_size=1, max_size=6
)  # fmt: skip
SOME = settings(max_examples=30)


@SOME
@given(SIZES, st.randoms(use_true_random=False), st.sampled_from([FULL, 700]))
def test_two_hosts_at_once_are_heard_in_full_and_in_order(
    sizes: list[tuple[int, int]], rng: random.Random, payload: int
) -> None:
    with closing(Far()) as far:
        frames, datagrams = far.records(sizes, US, payload)
        came = far.take(shuffled_together(datagrams, rng))
        for which in (0, 1):
            assert [whole for whole in came if whole in frames[which]] == frames[which]
        assert len(came) == len(sizes)
        assert far.host.drops == {}


@SOME
@given(SIZES, st.randoms(use_true_random=False))
def test_what_lies_between_costs_nothing(sizes: list[tuple[int, int]], rng: random.Random) -> None:
    """10.3, 10.4: doubles, strangers', and such as nobody sealed; counted each for what it is."""
    with closing(Far()) as far:
        frames, datagrams = far.records(sizes, US)
        together = shuffled_together(datagrams, rng)
        first = datagrams[0][0] if datagrams[0] else datagrams[1][0]
        late = (1 << 40) + rng.randrange(1 << 30)
        unsealed = first[:SEQ_AT] + late.to_bytes(8, "big") + bytes((0, 1, 0, 0)) + bytes(40)
        stranger = first[:8] + bytes(4) + first[12:]
        for junk in (unsealed, stranger):
            for _ in range(10):
                together.insert(rng.randrange(len(together) + 1), junk)
        doubles = [rng.choice(together) for _ in range(10)]
        together += [double for double in doubles if double not in (unsealed, stranger)]
        came = far.take(together)
        assert sorted(came) == sorted(frames[0] + frames[1])
        told = far.host.drops
        lost = len(together) - len(datagrams[0]) - len(datagrams[1]) - 20
        assert (told["unauthentic"], told["wrong-tag"]) == (10, 10)
        assert told.get("replayed", 0) <= lost  # others came before their record was whole


@SOME
@given(SIZES, st.randoms(use_true_random=False))
def test_a_record_that_lacks_a_datagram_takes_none_along(
    sizes: list[tuple[int, int]], rng: random.Random
) -> None:
    with closing(Far()) as far:
        frames, datagrams = far.records(sizes, US)
        together = shuffled_together(datagrams, rng)
        gone = together.pop(rng.randrange(len(together)))
        of_it = {n for n in (0, 1) if gone in datagrams[n]}
        came = far.take(together)
        everything = sorted(frames[0] + frames[1])
        assert len(came) == len(everything) - 1
        assert set(came) <= set(everything)
        for which in {0, 1} - of_it:
            assert [whole for whole in came if whole in frames[which]] == frames[which]


def test_a_run_with_anothers_datagram_for_one_that_is_lost() -> None:
    """Its ends look as if it were whole; what was picked out of it is not taken again."""
    with closing(Far()) as far:
        frames, (a, b) = far.records([(0, 9 * FULL), (1, FULL + 100)], US)
        assert (len(a), len(b)) == (10, 2)
        assert far.take([b[0], a[0], b[1], *a[2:5]]) == frames[1]
        assert far.take(a[5:]) == []
        assert far.host.drops == {}
        assert far.take(a[1:2]) == frames[0]


def by_record(datagrams: list[bytes]) -> dict[bytes, list[bytes]]:
    records: dict[bytes, list[bytes]] = {}
    for datagram in datagrams:
        records.setdefault(datagram[:1] + datagram[2:INDEX_AT], []).append(datagram)
    return records


def a_hop_on(datagrams: list[bytes]) -> list[bytes]:
    return [d[:1] + bytes((d[1] - 1,)) + d[2:] for d in datagrams]


@SOME
@given(SIZES, st.randoms(use_true_random=False), st.sampled_from([FULL, 700]), st.integers(0, 5))
def test_a_relay_passes_all_on_each_record_in_its_order(
    sizes: list[tuple[int, int]], rng: random.Random, payload: int, moves: int
) -> None:
    """10.5: octet for octet but for the hops, whatever order that is."""
    with closing(Far()) as far:
        frames, datagrams = far.records(sizes, C, payload)
        together = shuffled_together(datagrams, rng)
        for _ in range(moves):
            together.insert(rng.randrange(len(together)), together.pop())
        far.take(together)
        came = far.passed_on()
        assert by_record(came) == by_record(a_hop_on(together))
        far.target.take(*came)
        assert sorted(far.target.written) == sorted(frames[0] + frames[1])


def test_a_relay_sends_with_one_call_what_was_sent_with_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """10.5: two records of 20 datagrams in turns, and then others in their place."""
    with closing(Far()) as far:
        calls = []

        def counted(*args: object) -> int:
            calls.append(1)
            return int(abi.sendmsg(*args))

        monkeypatch.setattr(sending, "sendmsg", counted)
        for turn, octets in enumerate((19 * FULL + 500, 30 * FULL), 1):
            _, (a, b) = far.records([(0, octets), (1, octets)], C)
            together = [datagram for both in zip(a, b, strict=True) for datagram in both]
            far.take(together)
            assert by_record(far.passed_on()) == by_record(a_hop_on(together))
            assert len(calls) == 2 * turn


def test_a_single_datagram_that_does_not_open_is_tried_once() -> None:
    """10.3: and what was seen before is said to be that."""
    with closing(Far()) as far:
        _, (sealed, _) = far.records([(0, 100)], US)
        [good] = sealed
        assert good[TOTAL_AT] == 1
        flipped = good[:-1] + bytes((good[-1] ^ 1,))
        tried = []
        peer = far.host.peers.peers[A]
        opens = peer.rx[1].aead.decrypt_into

        class Counting:
            def decrypt_into(self, *args: object) -> None:
                tried.append(1)
                opens(*args)  # type: ignore[arg-type]

        peer.rx[1].aead = Counting()  # type: ignore[assignment]
        far.host.peers.version += 1
        assert far.take([flipped]) == []
        assert far.host.drops == {"unauthentic": 1}
        assert len(tried) == 1
        assert len(far.take([good, flipped])) == 1
        assert far.host.drops == {"unauthentic": 1, "replayed": 1}

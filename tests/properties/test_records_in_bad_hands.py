"""Datagrams of records that are lost, doubled, reordered, cut, joined and altered on their way.

docs/protocol.md 10.2 to 10.4: a record is delivered as it was sent or not at all, once at the most,
and what befalls one costs no other.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import hypothesis.strategies as st
from hypothesis import given

from mesh.link.records import unicast_record
from mesh.wire.sleeve import HEADER_SIZE, MAX_DATAGRAMS, TAG_SIZE, VNET_SIZE
from tests.unit.test_sleeve_forwarding import FAR, POD, US, A, Host

MOST = 40_000
"""Octets of a frame: as large as super-frames come, in the smallest datagrams that may be."""


def frame(number: int, octets: int) -> bytes:
    ethernet = POD + FAR + b"\x88\xb5" + number.to_bytes(4, "big")
    return bytes(VNET_SIZE) + ethernet.ljust(octets, bytes((number & 0xFF,)))


records = st.lists(
    st.tuples(st.integers(18, MOST), st.sampled_from([208, 524, 1176, 1448, 8948])),
    min_size=1,
    max_size=6,
)
"""(octets of the frame, octets of a datagram's payload)."""

harm = st.lists(
    st.tuples(
        st.sampled_from(["lose", "double", "move", "cut", "join", "flip", "stretch"]),
        st.integers(0, 1 << 30),
        st.integers(0, 1 << 30),
    ),
    max_size=12,
)


def harmed(datagrams: list[tuple[int, bytes]], what: str, at: int, how: int) -> set[int]:
    """Do this to one of the datagrams, each with the number of its record; whose record may be
    missing now."""
    n = at % len(datagrams)
    record, data = datagrams[n]
    match what:
        case "lose":
            del datagrams[n]
        case "double":
            datagrams.insert(how % (len(datagrams) + 1), (record, data))
            return set()
        case "move":
            datagrams.insert(how % len(datagrams), datagrams.pop(n))
            return set()
        case "cut":
            datagrams[n] = (record, data[: max(1, how % len(data))])
        case "join":
            other, more = datagrams.pop((n + 1) % len(datagrams))
            n = min(n, len(datagrams) - 1) if datagrams else 0
            datagrams.insert(n, (record, data + more))
            if (record, data) in datagrams:
                datagrams.remove((record, data))
            return {record, other}
        case "flip":
            bit = how % (8 * len(data))
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            datagrams[n] = (record, bytes(changed))
        case _:
            datagrams[n] = (record, data + bytes(1 + how % 100))
    return {record}


@given(records, harm)
def test_whole_or_not_at_all_and_once(
    sizes: list[tuple[int, int]], done: list[tuple[str, int, int]]
) -> None:
    us, them = Host(US, A), Host(A, US)
    frames = [frame(n, octets) for n, (octets, _) in enumerate(sizes)]
    datagrams: list[tuple[int, bytes]] = []
    for n, (whole, (_, size)) in enumerate(zip(frames, sizes, strict=True)):
        body = bytes(unicast_record(whole))
        assert len(body) + TAG_SIZE <= size * MAX_DATAGRAMS
        datagrams += [(n, piece) for piece in us.datagrams(A, body, size=size)]
    spoilt: set[int] = set()
    for what, at, how in done:
        if datagrams:
            spoilt |= harmed(datagrams, what, at, how)
    # Shorter than a header: the receiver's to refuse, by the size alone (10.3).
    them.take(*(data for _, data in datagrams if len(data) >= HEADER_SIZE))
    came = Counter(them.written)
    assert came.keys() <= set(frames), "octets that nobody sent"
    assert not came or max(came.values()) == 1, "a record that was delivered twice"
    for n, whole in enumerate(frames):
        assert came[whole] or n in spoilt, f"record {n} is missing, and nothing befell it"
    assert sum(them.peers.drops.values()) <= len(datagrams)


@given(records, st.randoms(use_true_random=False))
def test_every_number_is_accepted_once(sizes: list[tuple[int, int]], rng: Random) -> None:
    """All that was sent, twice over and in any order."""
    us, them = Host(US, A), Host(A, US)
    frames = [frame(n, octets) for n, (octets, _) in enumerate(sizes)]
    datagrams = [
        piece
        for whole, (_, size) in zip(frames, sizes, strict=True)
        for piece in us.datagrams(A, bytes(unicast_record(whole)), size=size)
    ]
    both = datagrams + datagrams
    rng.shuffle(both)
    them.take(*both)
    assert Counter(them.written) == Counter(frames)
    assert all(len(data) >= HEADER_SIZE for data in both)

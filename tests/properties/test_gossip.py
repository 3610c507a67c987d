"""Gossip over random meshes: from any states, with any losses, to one state."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.errors import MalformedMessageError
from tests.sim.gossipers import Notes, Room

notes = st.dictionaries(
    st.binary(min_size=1, max_size=2), st.tuples(st.integers(0, 5), st.booleans()), max_size=12
)


def filled(with_: dict[bytes, tuple[int, bool]], called: str = "notes") -> Notes:
    """Good notes have one payload for each stamp; the others are refused by whoever gets them."""
    channel = Notes(called)
    for key, (stamp, good) in with_.items():
        channel.put(key, stamp, (b"good" if good else b"bad") + bytes([stamp]))
    return channel


def good(channel: Notes) -> dict[bytes, int]:
    return {k: i.stamp for k, i in channel.held.items() if i.payload.startswith(b"good")}


@given(notes, notes)
def test_two_peers_become_equal_in_one_exchange(
    left: dict[bytes, tuple[int, bool]], right: dict[bytes, tuple[int, bool]]
) -> None:
    """protocol.md 6.4: from any pair of states, in a bounded number of messages."""
    room = Room()
    ours = filled({k: (s, True) for k, (s, _) in left.items()})
    theirs = filled({k: (s, True) for k, (s, _) in right.items()})
    a, b = room.enter(1, ours), room.enter(2, theirs)
    room.link(a, b)
    assert room.run(0.1) <= 14
    expected = {k: max(left.get(k, (-1,))[0], right.get(k, (-1,))[0]) for k in {*left, *right}}
    assert ours.digest() == theirs.digest() == expected
    assert room.run(10) <= 2, "a summary each, and nothing to answer"


@given(notes, notes, st.booleans())
def test_what_one_side_refuses_ends_nothing(
    left: dict[bytes, tuple[int, bool]], right: dict[bytes, tuple[int, bool]], unknown: bool
) -> None:
    """protocol.md 6.5, 6.6: bad items are refused and the exchange ends, with and without a
    surrogate between the two; good items cross, unless a bad one with a higher stamp hides them."""
    room = Room()
    ours, theirs = filled(left), filled(right)
    a, c = room.enter(1, ours), room.enter(3, theirs)
    middle = room.enter(2) if unknown else a
    if unknown:
        room.link(a, middle)
    room.link(middle, c)
    room.run(5)
    hidden = {k for k, (_, ok) in {**left, **right}.items() if not ok} | {
        k for k, (_, ok) in left.items() if not ok
    }
    for key in {*good(filled(left)), *good(filled(right))} - hidden:
        best = max(left.get(key, (-1,))[0], right.get(key, (-1,))[0])
        assert ours.held[key].stamp == theirs.held[key].stamp == best
    for key, item in ours.held.items():
        assert item.payload.startswith(b"good") or not left[key][1]
    assert room.run(20) <= 4 * 6, "nothing goes back and forth for ever"


@given(
    st.integers(2, 6),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), max_size=30),
)
def test_every_mesh_comes_to_one_state(
    count: int, extra: list[tuple[int, int]], changes: list[tuple[int, int, bool]]
) -> None:
    """protocol.md 6.3, 6.4: changes anywhere, some of them lost; equal after two intervals."""
    room = Room()
    channels = [Notes() for _ in range(count)]
    peers = [room.enter(n, channel) for n, channel in enumerate(channels)]
    pairs = {(n - 1, n) for n in range(1, count)}
    pairs |= {(min(a, b), max(a, b)) for a, b in extra if a != b and max(a, b) < count}
    for a, b in sorted(pairs):
        room.link(peers[a], peers[b])
    for version, (who, key, lost) in enumerate(changes):
        room.lose = lost
        channels[who % count].put(b"%d" % key, version)
        peers[who % count].publish("notes", b"%d" % key)
        room.run(0.05)
    room.lose = False
    room.run(40.0 * count)
    assert all(channel.held == channels[0].held for channel in channels)
    newest = {b"%d" % key: version for version, (_, key, _) in enumerate(changes)}
    assert channels[0].digest() == newest


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_noise_is_refused_and_the_next_message_taken(noise: list[bytes]) -> None:
    """protocol.md 6.2: whatever octets come, only MalformedMessageError, and life goes on."""
    room = Room()
    ours, theirs = Notes(), Notes()
    a, b = room.enter(1, ours), room.enter(2, theirs)
    room.link(a, b)
    for data in noise:
        try:
            a.received(b, data)
        except MalformedMessageError:
            continue
    theirs.put(b"k", 9)
    b.publish("notes", b"k")
    room.run(0.1)
    assert ours.held[b"k"].stamp == 9

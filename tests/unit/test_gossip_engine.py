"""The gossip engine: deltas, digests, backlog, bad items, surrogates, floods of questions."""

from __future__ import annotations

import pytest

from mesh.clock import Instant
from mesh.errors import MalformedMessageError, MisuseError
from mesh.gossip.engine import FLUSH_OCTETS, Changed
from mesh.gossip.surrogate import MAX_SURROGATES
from mesh.wire.gossip import (
    HASH_SIZE,
    MAX_PAYLOAD,
    ChannelSummary,
    GossipMessage,
    Items,
    Keys,
    Summary,
    Want,
    encode,
)
from tests.sim.gossipers import Gossiper, Notes, Room


def pair() -> tuple[Room, Gossiper, Notes, Gossiper, Notes]:
    room = Room()
    ours, theirs = Notes(), Notes()
    a, b = room.enter(1, ours), room.enter(2, theirs)
    room.link(a, b)
    room.run(1)
    return room, a, ours, b, theirs


def items_sent(gossiper: Gossiper) -> list[Items]:
    return [message for _, message in gossiper.sent if isinstance(message, Items)]


def say(to: Gossiper, source: Gossiper, *messages: GossipMessage) -> None:
    for message in messages:
        to.received(source, encode(message))


def summary_of(channel: str) -> Summary:
    """One that differs from whatever is there."""
    return Summary((ChannelSummary(channel, 1, b"\xff" * HASH_SIZE),))


# ---- deltas


def test_a_change_reaches_every_neighbour_in_company() -> None:
    """protocol.md 6.3: a change is sent to every neighbour, with what else changes in 30 ms."""
    room = Room()
    notes = [Notes() for _ in range(4)]
    hub, *rim = [room.enter(n, channel) for n, channel in enumerate(notes)]
    for peer in rim:
        room.link(hub, peer)
    room.run(1)
    hub.sent.clear()
    notes[0].put(b"a", 1)
    hub.publish("notes", b"a")
    notes[0].put(b"b", 1)
    hub.publish("notes", b"b")
    assert items_sent(hub) == []
    room.run(0.03)
    assert items_sent(hub) == [Items("notes", ((b"a", 1, b"x"), (b"b", 1, b"x")))] * 3
    assert all(channel.held == notes[0].held for channel in notes)
    assert rim[0].changed == [Changed("notes", (b"a", b"b"))]


def test_news_is_passed_on_but_not_back() -> None:
    """protocol.md 6.3: along a chain news goes on, never back to whom it came from."""
    room = Room()
    notes = [Notes() for _ in range(3)]
    a, b, c = [room.enter(n, channel) for n, channel in enumerate(notes)]
    room.link(a, b)
    room.link(b, c)
    room.run(1)
    b.sent.clear()
    notes[0].put(b"k", 5)
    a.publish("notes", b"k")
    room.run(0.1)
    assert notes[2].held == notes[0].held
    assert [peer for peer, m in b.sent if isinstance(m, Items)] == [c.name]


def test_news_is_not_passed_on_to_neighbours_of_its_source() -> None:
    """protocol.md 6.3: in a triangle nobody repeats what the source says itself."""
    room = Room()
    notes = [Notes() for _ in range(3)]
    a, b, c = [room.enter(n, channel) for n, channel in enumerate(notes)]
    for one, other in ((a, b), (b, c), (a, c)):
        room.link(one, other)
    room.run(1)
    notes[0].put(b"k", 5)
    a.publish("notes", b"k")
    room.run(0.1)
    assert notes[1].held == notes[2].held == notes[0].held
    assert items_sent(b) == items_sent(c) == []


def test_an_old_item_is_answered_by_the_newer_one() -> None:
    """protocol.md 6.3: whoever sends what we know better gets it back, once."""
    room, a, ours, b, theirs = pair()
    ours.put(b"k", 9, b"newer")
    theirs.put(b"k", 3, b"older")
    b.publish("notes", b"k")
    room.run(0.1)
    assert theirs.held[b"k"].payload == b"newer"
    assert len(items_sent(a)) == 1


def test_a_channel_is_registered_once_and_published_only_when_known() -> None:
    room, a, *_ = pair()
    with pytest.raises(MisuseError):
        a.gossip.register(Notes())
    with pytest.raises(MisuseError):
        a.gossip.publish("nothing", (b"k",), room.now)


# ---- digests


def test_a_new_neighbour_is_compared_with_at_once() -> None:
    """protocol.md 6.4: from SUMMARY to equality in one exchange, both ways."""
    room = Room()
    ours, theirs = Notes(), Notes()
    for n in range(10):
        ours.put(b"a%d" % n, 1)
        theirs.put(b"b%d" % n, 1)
    ours.put(b"k", 2, b"newer")
    theirs.put(b"k", 1, b"older")
    a, b = room.enter(1, ours), room.enter(2, theirs)
    room.link(a, b)
    room.run(0)
    assert ours.held == theirs.held
    assert len(ours.held) == 21
    assert ours.held[b"k"].payload == b"newer"
    sent = [key for message in items_sent(a) for key, *_ in message.items]
    assert len(sent) == len(set(sent)) == 11, "only the difference is sent"


def test_equal_peers_exchange_summaries_only() -> None:
    """protocol.md 6.4: a channel that does not differ is not answered."""
    room = Room()
    ours, theirs = Notes(), Notes()
    for notes in (ours, theirs):
        notes.put(b"k", 1)
    a, b = room.enter(1, ours), room.enter(2, theirs)
    room.link(a, b)
    room.run(600)
    assert {type(message) for _, message in a.sent + b.sent} == {Summary}
    assert 20 <= len(a.sent) <= 30, "every 30 s, give or take a quarter"


def test_a_lost_delta_is_found_soon_and_later() -> None:
    """protocol.md 6.4: after a change one random neighbour is compared with within 2.25 s."""
    room, a, ours, _, theirs = pair()
    ours.put(b"k", 1)
    a.publish("notes", b"k")
    room.lose = True
    room.run(0.03)
    room.lose = False
    assert theirs.held == {}
    room.run(2.25)
    assert theirs.held == ours.held


def test_what_even_the_soon_comparison_lost_is_found_by_the_interval() -> None:
    """protocol.md 6.4: random neighbours are compared with every 30 s."""
    room, a, ours, _, theirs = pair()
    ours.put(b"k", 1)
    a.publish("notes", b"k")
    room.lose = True
    room.run(3)
    room.lose = False
    assert theirs.held == {}
    room.run(37.5)
    assert theirs.held == ours.held


def test_one_comparison_tells_of_channels_that_were_not_named() -> None:
    """protocol.md 6.4: a channel of ours that was not named counts as empty at the other end."""
    room = Room()
    notes = Notes("mine")
    notes.put(b"k", 1)
    a, b = room.enter(1, notes), room.enter(2)
    a.neighbours, b.neighbours = [b], [a]
    a.gossip.neighbour_up(b.name, room.now)
    b.perform(b.gossip.neighbour_up(a.name, room.now))
    room.run(0)
    assert [s.channel for s in b.gossip.status()] == ["mine"]
    assert [s.items for s in b.gossip.status()] == [1]


# ---- backlog


def test_ten_thousand_changes_of_one_key_are_one_item_when_resumed() -> None:
    """protocol.md 6.3: a key waits once, and what is sent is its newest item."""
    room, a, ours, b, theirs = pair()
    a.gossip.paused(b.name)
    a.sent.clear()
    for n in range(10_000):
        ours.put(b"k", n, b"version %d" % n)
        a.publish("notes", b"k")
        if n % 100 == 0:
            room.run(0.1)
    assert a.sent == []
    a.perform(a.gossip.resumed(b.name, room.now))
    assert items_sent(a) == [Items("notes", ((b"k", 9999, b"version 9999"),))]
    room.run(0)
    assert theirs.held == ours.held


def test_questions_of_a_paused_neighbour_are_not_answered_until_it_reads() -> None:
    """protocol.md 6.3: nothing is sent while the stream is paused; 6.4: then it is compared."""
    room, a, ours, b, theirs = pair()
    ours.put(b"k", 1)
    a.gossip.paused(b.name)
    a.sent.clear()
    say(a, b, Want("notes", (b"k",)), summary_of("notes"), Keys("notes", b"", b"", ((b"j", 1),)))
    room.run(60)
    assert a.sent == []
    a.perform(a.gossip.resumed(b.name, room.now))
    room.run(1)
    assert theirs.held == ours.held


def test_a_flood_of_questions_is_answered_once() -> None:
    """protocol.md 6.3: what is asked for is owed, not sent at once: no amplification."""
    _room, a, ours, b, _ = pair()
    for n in range(64):
        ours.put(b"%d" % n, 1, bytes(MAX_PAYLOAD))
    a.sent.clear()
    keys = tuple(ours.held)
    for _ in range(200):
        say(a, b, Want("notes", keys), summary_of("notes"), Keys("notes", b"", b"", ()))
    assert a.sent == []
    a.perform(a.gossip.handle_timer(a.room.now))
    octets = sum(len(encode(message)) for _, message in a.sent)
    assert FLUSH_OCTETS <= octets < 4 * FLUSH_OCTETS
    assert sum(isinstance(message, Keys) for _, message in a.sent) == 1


def test_a_large_state_crosses_in_pieces() -> None:
    """protocol.md 6.3: about 1 MiB in 30 ms, and all of it in the end."""
    room = Room()
    ours, theirs = Notes(), Notes()
    for n in range(200):
        ours.put(b"%d" % n, 1, bytes(40_000))
    a, b = room.enter(1, ours), room.enter(2, theirs)
    room.link(a, b)
    room.run(0)
    assert 0 < len(theirs.held) < 100
    room.run(0.5)
    assert theirs.held == ours.held
    assert max(len(encode(message)) for message in items_sent(a)) < 512 * 1024


def test_keys_that_do_not_exist_are_not_owed() -> None:
    """protocol.md 6.3: asking for nothing fills nothing, and the next question is answered."""
    room, a, ours, b, _ = pair()
    ours.put(b"k", 1)
    a.gossip.paused(b.name)
    for n in range(100):
        say(a, b, Want("notes", tuple(b"no%d-%d" % (n, m) for m in range(100))))
        say(a, b, Want("nowhere", (b"k",)))
    assert not a.gossip._backlog.owes(b.name)
    a.gossip.resumed(b.name, room.now)
    a.sent.clear()
    say(a, b, Want("notes", (b"no", b"k")))
    a.perform(a.gossip.handle_timer(room.now))
    assert items_sent(a) == [Items("notes", ((b"k", 1, b"x"),))]


def test_a_neighbour_that_left_is_owed_nothing() -> None:
    room, a, ours, b, _ = pair()
    ours.put(b"k", 1)
    a.publish("notes", b"k")
    a.gossip.neighbour_down(b.name)
    a.sent.clear()
    room.run(100)
    assert a.sent == []


# ---- what is bad


def test_the_good_items_beside_a_bad_one_merge() -> None:
    """protocol.md 6.5: the bad item is counted, quarantined and not relayed; the others merge."""
    room, a, ours, b, theirs = pair()
    c = room.enter(3, Notes())
    room.link(a, c)
    room.run(1)
    message = Items("notes", ((b"1", 1, b"good"), (b"2", 1, b"bad"), (b"3", 1, b"good")))
    say(a, b, message)
    assert sorted(ours.held) == [b"1", b"3"]
    assert [(q.channel, q.key, q.reason, q.source) for q in a.quarantined] == [
        ("notes", b"2", "bad-note", b.name)
    ]
    room.run(1)
    relayed = [key for m in items_sent(a) for key, *_ in m.items]
    assert relayed == [b"1", b"3"]
    (status,) = a.gossip.status()
    assert status.rejected == {"bad-note": 1}
    assert [q.key for q in status.quarantine] == [b"2"]
    assert status.items == 2
    assert status.octets == 8
    assert status.changed_at == Instant(2.0)
    assert theirs.held == {}, "b was not told its own news"


def test_an_item_too_large_costs_only_itself() -> None:
    """protocol.md 6.2: refused before it is looked into, and the others merge."""
    _, a, ours, b, _ = pair()
    huge, long_key = (b"1", 1, bytes(MAX_PAYLOAD + 1)), (bytes(65), 1, b"good")
    say(a, b, Items("notes", (huge, (b"2", 1, b"good"), long_key)))
    assert sorted(ours.held) == [b"2"]
    assert a.gossip.status()[0].rejected == {"item-too-large": 2}
    assert [q.count for q in a.quarantined] == [2]


def test_a_malformed_message_changes_nothing() -> None:
    """protocol.md 6.2: refused as a whole, and the next good one is taken."""
    _, a, ours, b, _ = pair()
    good = encode(Items("notes", ((b"1", 1, b"good"), (b"2", 1, b"good"))))
    for size in range(len(good)):
        with pytest.raises(MalformedMessageError):
            a.gossip.receive(b.name, good[:size], a.room.now)
    assert ours.held == {}
    a.received(b, good)
    assert sorted(ours.held) == [b"1", b"2"]


def test_a_refused_item_is_asked_of_others_only() -> None:
    """protocol.md 6.5: not of the sender again, but a forgery keeps nothing genuine away."""
    room, a, ours, b, _ = pair()
    c = room.enter(3)
    room.link(a, c)
    room.run(1)
    say(a, b, Items("notes", ((b"k", 1, b"bad"),)))
    a.sent.clear()
    listed = Keys("notes", b"", b"", ((b"k", 1),))
    say(a, b, listed)
    assert [m for _, m in a.sent if isinstance(m, Want)] == []
    say(a, c, listed)
    assert a.sent == [(c.name, Want("notes", (b"k",)))]
    say(a, c, Items("notes", ((b"k", 1, b"good"),)))
    assert ours.held[b"k"].payload == b"good"


def test_a_neighbour_that_came_back_may_try_again() -> None:
    """protocol.md 6.5: the refusal lasts while the neighbour stays connected."""
    room, a, _, b, _ = pair()
    say(a, b, Items("notes", ((b"k", 1, b"bad"),)))
    a.gossip.neighbour_down(b.name)
    a.perform(a.gossip.neighbour_up(b.name, room.now))
    a.sent.clear()
    say(a, b, Keys("notes", b"", b"", ((b"k", 1),)))
    assert a.sent == [(b.name, Want("notes", (b"k",)))]


def test_a_bad_item_does_not_make_two_peers_talk_for_ever() -> None:
    """protocol.md 6.5: what is refused is not exchanged again and again."""
    room, a, _, b, theirs = pair()
    theirs.put(b"k", 1, b"bad")
    b.publish("notes", b"k")
    room.run(1)
    a.sent.clear()
    b.sent.clear()
    room.run(600)
    assert items_sent(b) == []
    assert a.gossip.status()[0].rejected == {"bad-note": 1}


# ---- surrogates


def test_a_surrogate_between_two_who_know() -> None:
    """protocol.md 6.6: a channel unknown in the middle crosses untouched, late joiners too."""
    room = Room()
    ours, theirs, late = Notes("exotic"), Notes("exotic"), Notes("exotic")
    a, middle, c = room.enter(1, ours), room.enter(2), room.enter(3, theirs)
    ours.put(b"early", 1, b"\x00\xff")
    room.link(a, middle)
    room.link(middle, c)
    room.run(1)
    assert theirs.held == ours.held
    ours.put(b"later", 7)
    a.publish("exotic", b"later")
    room.run(0.1)
    assert theirs.held == ours.held
    d = room.enter(4, late)
    room.link(middle, d)
    room.run(0)
    assert late.held == ours.held
    (status,) = middle.gossip.status()
    assert status.surrogate
    assert status.items == 2


def test_channels_nobody_asked_for_are_bounded() -> None:
    """protocol.md 6.6: at most 32 surrogates; the channels we know go on."""
    _, a, ours, b, _ = pair()
    for n in range(MAX_SURROGATES + 5):
        say(a, b, Items(f"junk{n}", ((b"k", 1, b"x"),)))
    assert sum(s.surrogate for s in a.gossip.status()) == MAX_SURROGATES
    assert [q.reason for q in a.quarantined] == ["too-many-channels"] * 5
    a.sent.clear()
    say(a, b, summary_of("junk-more"), Keys("junk-more", b"", b"", ((b"k", 1),)))
    assert not any(isinstance(message, Want) for _, message in a.sent)
    say(a, b, Items("notes", ((b"k", 1, b"good"),)))
    assert ours.held[b"k"].payload == b"good"

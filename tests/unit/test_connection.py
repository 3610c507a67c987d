"""protocol.md 2 and 4: the control connection, both ends face to face."""

from __future__ import annotations

import pytest

from mesh.clock import Instant
from mesh.connection.connection import HEADER_TIMEOUT, Connection, State
from mesh.connection.reasons import Refusal, explain
from mesh.crypto.password import PasswordRing
from mesh.drivers.kem import SystemKem
from mesh.errors import MisuseError
from mesh.wire.handshake import MAX_FRAME, FrameKind, Header, frame
from tests.sim.kem import SimKem
from tests.sim.talk import NOW, End, Talk, established, local, ring


def octets(data: bytes) -> list[bytes]:
    return [bytes((octet,)) for octet in data]


@pytest.mark.parametrize("password", [ring("p"), ring()], ids=["password", "none"])
def test_both_ends_learn_who_the_other_is(password: PasswordRing) -> None:
    """protocol.md 2.4: both prove their identity and end with one key and one hash."""
    ours, theirs = local(1, password), local(2, password)
    talk = Talk(ours, theirs).start().run()
    a, b = talk.a.remote, talk.b.remote
    assert a is not None
    assert b is not None
    assert (a.name, a.public_key, a.uid) == (theirs.identity.name, theirs.identity.public_key, 2)
    assert (b.name, b.public_key, b.uid) == (ours.identity.name, ours.identity.public_key, 1)
    assert (a.nickname, a.port, a.probe_port, a.sleeve_port) == ("host-2", 6783, 6786, 6784)
    assert a.features == {"overlays": "sleeve"}
    assert a.password_id == b.password_id == ("default" if password else None)
    assert a.version == b.version == 1
    assert a.key == b.key
    assert len(a.key) == 32
    assert a.handshake_hash == b.handshake_hash
    assert talk.a.deadline is None
    assert talk.b.deadline is None


def test_the_real_kem_fits() -> None:
    """protocol.md 2.5: the same handshake with ML-KEM-768 itself."""
    talk = Talk(local(1, ring("p")), local(2, ring("p")))
    for end in (talk.a, talk.b):
        end.machine._kem = SystemKem()
    talk.start().run()
    assert talk.a.remote is not None
    assert talk.b.remote is not None
    assert talk.a.remote.key == talk.b.remote.key


def test_messages_cross_both_ways_one_octet_at_a_time() -> None:
    talk = established(cut=octets)
    big = bytes(range(256)) * 400
    for end, message in ((talk.a, b"\1one"), (talk.b, b"\2two"), (talk.a, b"\3" + big)):
        talk.send(end, message)
    talk.run()
    assert talk.b.received == [b"\1one", b"\3" + big]
    assert talk.a.received == [b"\2two"]


def test_one_seed_replays_one_handshake() -> None:
    runs = [established(seed=5).carried for _ in range(2)]
    assert [bytes(v) for v in runs[0].values()] == [bytes(v) for v in runs[1].values()]


def test_the_responders_first_messages_may_come_with_its_confirmation() -> None:
    """protocol.md 2.8: records follow CONFIRM at once, in the same segment if need be."""
    talk = Talk(local(1), local(2)).start()
    for _ in range(2):  # headers and message 1, then message 2
        talk.b.perform(talk.b.machine.receive_data(talk.a.take(), NOW))
        talk.a.perform(talk.a.machine.receive_data(talk.b.take(), NOW))
    talk.b.perform(talk.b.machine.receive_data(talk.a.take(), NOW))
    assert talk.b.remote is not None
    assert talk.a.remote is None  # ours to know only when the responder says so
    talk.send(talk.b, b"\1early")
    talk.run()
    assert talk.a.received == [b"\1early"]


# ---- refusals, the same on both ends


@pytest.mark.parametrize(
    ("ours", "theirs", "reasons"),
    [
        (ring("p"), ring("q"), ("wrong-password", "wrong-password")),
        (ring("p"), ring(), ("password-unexpected", "password-missing")),
        (ring(), ring("p"), ("password-missing", "password-unexpected")),
        (ring("x=p"), ring("y=p"), ("password-id-unknown", "password-id-unknown")),
    ],
)
def test_password_refusals(
    ours: PasswordRing, theirs: PasswordRing, reasons: tuple[str, str]
) -> None:
    """protocol.md 2.9: each reason is its own, and both ends show one."""
    talk = Talk(local(1, ours), local(2, theirs)).start().run()
    assert talk.reasons == ([reasons[0]], [reasons[1]])
    assert talk.a.remote is None
    assert talk.b.remote is None
    good = Talk(local(1, ours), local(2, ours)).start().run()
    assert good.a.remote is not None


def test_a_wrong_password_is_told_to_the_initiator() -> None:
    talk = Talk(local(1, ring("p")), local(2, ring("q"))).start().run()
    assert talk.a.machine.refused_by_peer
    assert not talk.b.machine.refused_by_peer
    assert explain("wrong-password", True) == (
        "said by the other end: the other end's password is not ours; give both the same"
    )


def test_a_ring_uses_what_both_hold() -> None:
    """protocol.md 2.6: the initiator's most preferred password that the responder holds."""
    talk = Talk(local(1, ring("new=n", "old=o")), local(2, ring("old=o"))).start().run()
    assert talk.a.remote is not None
    assert talk.a.remote.password_id == "old"
    talk = Talk(local(1, ring("b=b", "a=a")), local(2, ring("a=a", "b=b"))).start().run()
    assert talk.b.remote is not None
    assert talk.b.remote.password_id == "b"


def test_our_own_address() -> None:
    """protocol.md 2.9: same key and same UID is ourselves; both ends say so."""
    talk = Talk(local(1), local(1)).start().run()
    assert talk.reasons == (["own-address"], ["own-address"])


def test_a_clone() -> None:
    """protocol.md 2.9: same key and another UID is a clone; both ends say how to mend it."""
    talk = Talk(local(1, uid=7), local(1, uid=8)).start().run()
    assert talk.reasons == (["cloned-identity"], ["cloned-identity"])
    assert "remove the file identity" in explain("cloned-identity", False)


@pytest.mark.parametrize("liar", ["a", "b"])
def test_nobody_takes_anothers_name(liar: str) -> None:
    """protocol.md 2.7: the identity's signature over the static key is what counts."""
    victim = local(9)
    ends = {"a": local(1), "b": local(2)}
    ends[liar].identity.public_key = victim.identity.public_key
    talk = Talk(ends["a"], ends["b"]).start().run()
    assert talk.reasons == (["bad-identity"], ["bad-identity"])
    honest = Talk(local(1), victim).start().run()
    assert honest.a.remote is not None
    assert honest.a.remote.name == victim.identity.name


def test_versions_without_overlap_from_the_fixed_part_alone() -> None:
    """protocol.md 2.2: a header of a version to come is understood as far as it must be."""
    talk = Talk(local(1), local(2))
    talk.a.perform(talk.a.machine.start(NOW))
    future = b"weaver" + bytes((2, 9)) + (40).to_bytes(2, "big")
    talk.a.perform(talk.a.machine.receive_data(future, NOW))
    assert talk.a.closed == ["version-mismatch"]
    assert talk.a.take().endswith(frame(FrameKind.ALERT, b"version-mismatch"))


def test_what_a_later_version_adds_to_its_header_is_bound_but_ignored() -> None:
    """protocol.md 2.2: both ends hash the header's octets as they were sent."""
    talk = Talk(local(1), local(2))
    newer = _Newer(1, 3, ())
    talk.b.machine._header = newer
    talk.start().run()
    assert talk.a.remote is not None
    assert talk.a.remote.version == 1


class _Newer(Header):
    def encode(self) -> bytes:
        return b"weaver" + bytes((1, 3)) + (4).to_bytes(2, "big") + b"\0new"


def test_an_altered_header_is_noticed() -> None:
    """protocol.md 2.3: the prologue binds both headers, also what did not decide anything."""
    talk = Talk(local(1, ring("new=n", "old=o")), local(2, ring("new=n", "old=o")))
    for end in (talk.a, talk.b):
        end.perform(end.machine.start(NOW))
    talk.b.outbox[:] = Header(1, 1, ("new",)).encode()  # both still choose "new"
    talk.run()
    assert talk.reasons[1] != []
    assert talk.a.remote is None
    assert talk.b.remote is None


@pytest.mark.parametrize(
    "junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"weave\0", b"weaver\2\1\0\0", b"w" * 4096]
)
def test_what_is_not_weaver_is_refused_at_once(junk: bytes) -> None:
    end = End(Connection(local(1), outbound=False, kem=SimKem(), entropy=bytes))
    end.perform(end.machine.start(NOW))
    end.perform(end.machine.receive_data(junk, NOW))
    assert end.closed == ["not-weaver"]


def test_a_frame_that_is_too_large_is_refused_by_its_length() -> None:
    end = End(Connection(local(1), outbound=False, kem=SimKem(), entropy=bytes))
    end.perform(end.machine.start(NOW))
    start = Header(1, 1, ()).encode() + (MAX_FRAME + 1).to_bytes(2, "big")
    end.perform(end.machine.receive_data(start, NOW))
    assert end.closed == []  # the kind is still to come
    end.perform(end.machine.receive_data(b"\1", NOW))
    assert end.closed == ["record-too-large"]


@pytest.mark.parametrize("kind", [0, FrameKind.CONFIRM, 4, 255])
def test_a_frame_out_of_place_is_refused(kind: int) -> None:
    end = End(Connection(local(1), outbound=False, kem=SimKem(), entropy=bytes))
    end.perform(end.machine.start(NOW))
    body = (3).to_bytes(2, "big") + bytes((kind,)) + b"abc"
    end.perform(end.machine.receive_data(Header(1, 1, ()).encode() + body, NOW))
    assert end.closed == ["malformed-message"]


def test_a_stranger_coins_no_reasons() -> None:
    """protocol.md 2.9: an unknown word is shown as refused, and counted as that."""
    end = End(Connection(local(1), outbound=True, kem=SimKem(), entropy=bytes))
    end.perform(end.machine.start(NOW))
    alert = frame(FrameKind.ALERT, b"a-word-of-my-own")
    end.perform(end.machine.receive_data(Header(1, 1, ()).encode() + alert, NOW))
    assert end.closed == ["refused"]
    assert end.machine.refused_by_peer


# ---- time and ends


def test_the_whole_handshake_has_one_deadline() -> None:
    """protocol.md 2.1: ten seconds, and the other end is told."""
    talk = Talk(local(1), local(2)).start()
    assert talk.b.deadline == NOW + HEADER_TIMEOUT
    talk.b.perform(talk.b.machine.handle_timer(Instant(NOW + HEADER_TIMEOUT - 0.1)))
    assert talk.b.closed == []
    talk.b.perform(talk.b.machine.handle_timer(Instant(NOW + HEADER_TIMEOUT)))
    assert talk.b.closed == ["header-timeout"]
    talk.run()
    assert talk.a.closed == ["header-timeout"]
    assert talk.a.machine.refused_by_peer


def test_an_initiator_without_confirmation_says_so_in_a_record() -> None:
    """protocol.md 2.9: once the handshake is over on our side, refusals are sealed."""
    talk = Talk(local(1), local(2)).start()
    for _ in range(2):
        talk.b.perform(talk.b.machine.receive_data(talk.a.take(), NOW))
        talk.a.perform(talk.a.machine.receive_data(talk.b.take(), NOW))
    assert talk.a.machine.state is State.EXPECT_CONFIRM
    talk.a.perform(talk.a.machine.handle_timer(Instant(NOW + HEADER_TIMEOUT)))
    talk.b.perform(talk.b.machine.receive_data(talk.a.take(), NOW))
    assert talk.reasons == (["header-timeout"], ["header-timeout"])


@pytest.mark.parametrize("early", [True, False])
def test_close_tells_the_other_end(early: bool) -> None:
    talk = Talk(local(1), local(2)).start() if early else established()
    talk.a.perform(talk.a.machine.close(Refusal.SHUTDOWN, NOW))
    talk.run()
    assert talk.reasons == (["shutting-down"], ["shutting-down"])
    assert talk.b.machine.refused_by_peer
    assert not talk.a.machine.refused_by_peer


def test_nothing_happens_after_close() -> None:
    """protocol.md 4.1: one Close, and nothing behind it."""
    talk = established()
    machine = talk.a.machine
    talk.a.perform(machine.receive_eof(NOW))
    assert talk.a.closed == ["stream-ended"]
    assert machine.receive_data(b"x" * 100, NOW) == []
    assert machine.receive_eof(NOW) == []
    assert machine.close("shutting-down", NOW) == []
    assert machine.send(b"\1", NOW) == []
    assert machine.handle_timer(Instant(NOW + 1000)) == []


def test_misuse_is_a_bug_and_raises() -> None:
    talk = Talk(local(1), local(2)).start()
    with pytest.raises(MisuseError):
        talk.a.machine.start(NOW)
    with pytest.raises(MisuseError):
        talk.a.machine.send(b"\1", NOW)


def test_a_forged_record_ends_both_but_what_came_before_it_counts() -> None:
    """protocol.md 3.3: record-forged on both ends; the message in front is delivered."""
    talk = established()
    talk.send(talk.a, b"\1good")
    talk.send(talk.a, b"\2bad")
    data = bytearray(talk.a.take())
    data[-1] ^= 1
    talk.b.perform(talk.b.machine.receive_data(bytes(data), NOW))
    assert talk.b.received == [b"\1good"]
    talk.run()
    assert talk.reasons == (["record-forged"], ["record-forged"])


def test_goodbye_ends_it_whatever_follows() -> None:
    talk = established()
    talk.send(talk.a, b"\1last")
    talk.a.perform(talk.a.machine.close(Refusal.LIMIT, NOW))
    talk.a.outbox += b"more"
    talk.run()
    assert talk.b.received == [b"\1last"]
    assert talk.b.closed == ["connection-limit"]

"""Forwarding without a socket: frames to peers, datagrams to frames.

docs/protocol.md 10.3 to 10.10.
"""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from mesh.clock import Instant
from mesh.link import outbound as out
from mesh.link.broadcast import Broadcasts
from mesh.link.frames import split
from mesh.link.inbound import Inbound
from mesh.link.lossmeter import CREDIT_AGE, Overruns
from mesh.link.outbound import Outbound
from mesh.link.peers import MAX_EPOCHS, Neighbour, Peer, Peers
from mesh.link.records import broadcast_record, frames_in, next_number, seal, unicast_record
from mesh.link.slotsize import SlotSize
from mesh.names import Endpoint, PeerName, ShortID
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher
from mesh.wire.sleeve import (
    DATA,
    ENVELOPE,
    HEADER_SIZE,
    INDEX_AT,
    PLAIN,
    PROBE,
    REPORT_BODY,
    SEQ_AT,
    VNET_SIZE,
)

US, A, B, C = ShortID(1), ShortID(2), ShortID(3), ShortID(4)
T0 = Instant(50.0)
POD, FAR, FURTHER, UNKNOWN = (bytes((2, 0, 0, 0, 0, n)) for n in range(1, 5))
EVERYBODY = b"\xff" * 6


def name(n: int) -> PeerName:
    return PeerName(bytes(7) + bytes((n,)))


def key(a: int, b: int, epoch: int) -> bytes:
    return bytes((a, b, epoch)) + bytes(29)


def install(
    us: ShortID, them: ShortID, epoch: int, cipher: Cipher = Cipher.AES_256_GCM
) -> w.InstallEpoch:
    return w.InstallEpoch(
        them, epoch, key(them, us, epoch), key(us, them, epoch), them * 1000 + epoch,
        us * 1000 + epoch, cipher,
    )  # fmt: skip


class Host:
    """One worker's cores; what it would send, write and be told is kept."""

    def __init__(self, us: ShortID, *others: ShortID, encrypted: bool = True) -> None:
        self.peers = Peers()
        self.sent: list[tuple[ShortID, bytes]] = []
        self.written: list[bytes] = []
        self.control: list[tuple[int, ShortID, bytes]] = []
        self.peers.apply(w.Configure(us, name(us), 1420, encrypted))
        for other in others:
            self.peers.apply(w.SetPeer(other, name(other), 1420))
            self.peers.apply(w.SetNeighbour(other, Endpoint("10.0.0.1", other), 1472))
            self.peers.apply(w.SetRoute(other, other, 1472))
            if encrypted:
                self.peers.apply(install(us, other, 1))
                self.peers.apply(w.ActivateEpoch(other, 1))
        broadcasts = Broadcasts(us)
        self.out = Outbound(self.peers, broadcasts, self._send, self.written.append)
        self.inbound = Inbound(
            self.peers,
            broadcasts,
            SlotSize(1448),
            deliver=lambda frame: self.written.append(bytes(frame)),
            send=self._send,
            control=lambda kind, peer, body, *_: self.control.append((kind, peer.short_id, body)),
        )

    def _send(self, peer: Peer, record: memoryview) -> None:
        self.sent.append((peer.short_id, bytes(record)))

    def from_pod(self, frame: bytes) -> ShortID | None:
        buffer = bytearray(b"????" + frame)
        peer = self.out.destination(buffer, 4, len(frame), T0)
        return None if peer is None else peer.short_id

    def datagrams(self, dst: ShortID, body: bytes, *, kind: int = DATA, size: int = 100
                  ) -> list[bytes]:  # fmt: skip
        """A record to another host, in datagrams of so much payload."""
        peer = self.peers.peers[dst]
        epoch = peer.active if self.peers.encrypted else None
        seq = next_number(peer, epoch)
        sealed = seal(epoch, seq, self.peers.prefix(kind, peer, epoch, hops=0), body)
        prefix = self.peers.prefix(kind, peer, epoch, hops=16) + seq.to_bytes(8, "big")
        pieces = [sealed[n : n + size] for n in range(0, len(sealed), size)]
        return [prefix + bytes((n, len(pieces), 0, 0)) + piece for n, piece in enumerate(pieces)]

    def take(self, *datagrams: bytes, now: Instant = T0) -> None:
        for datagram in datagrams:
            self.inbound.datagram(datagram, bytes(28), now)

    @property
    def drops(self) -> dict[str, int]:
        return dict(self.peers.drops)


def frame(target: bytes, source: bytes, payload: bytes = b"hello, pod", kind: int = 0x88B5
          ) -> bytes:  # fmt: skip
    return bytes(VNET_SIZE) + target + source + struct.pack("!H", kind) + payload


def ipv4(size: int, *, df: bool = True) -> bytes:
    """A frame to FAR with an IP packet of so many octets."""
    header = struct.pack(
        "!BBHHHBBHII", 0x45, 0, size, 9, 0x4000 if df else 0, 64, 17, 0, 0x0A000001, 0x0A000002
    )  # fmt: skip
    return frame(FAR, POD, header + bytes(size - 20), kind=0x0800)


def pair() -> tuple[Host, Host]:
    ours, theirs = Host(US, A), Host(A, US)
    theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(POD, FURTHER)))))
    ours.take(*theirs.datagrams(US, bytes(unicast_record(frame(POD, FAR)))))
    for host in (ours, theirs):
        assert len(host.written) == 1
        host.written.clear()
    return ours, theirs


# ---- from pods


def test_a_frame_to_a_learned_address_goes_to_its_peer_alone() -> None:
    """10.8."""
    ours, _ = pair()
    assert ours.from_pod(frame(FAR, POD)) == A
    assert ours.sent == []
    assert ours.peers.macs.places[POD] == 0


def test_a_frame_to_our_own_pods_goes_nowhere() -> None:
    ours, _ = pair()
    ours.from_pod(frame(FAR, UNKNOWN))
    assert ours.from_pod(frame(UNKNOWN, POD)) is None
    assert ours.sent == []
    assert ours.drops == {"local-destination": 1}


def test_a_frame_to_an_unknown_address_is_for_every_peer_by_itself() -> None:
    """10.8."""
    host = Host(US, A, B)
    sent = frame(UNKNOWN, POD)
    assert host.from_pod(sent) is None
    assert host.sent == [(A, bytes(unicast_record(sent))), (B, bytes(unicast_record(sent)))]


def test_floods_are_bounded() -> None:
    """10.8: so many frames a second, then none."""
    host = Host(US, A)
    for _ in range(out.FLOODS_PER_SECOND + 5):
        host.from_pod(frame(UNKNOWN, POD))
    assert len(host.sent) == out.FLOODS_PER_SECOND
    assert host.drops == {"flood-limit": 5}
    host.out.refill()
    host.from_pod(frame(UNKNOWN, POD))
    assert len(host.sent) == out.FLOODS_PER_SECOND + 1


def test_a_group_address_goes_along_our_own_tree() -> None:
    """10.7."""
    host = Host(US, A, B, C)
    host.peers.apply(w.SetTree(US, (A, C, ShortID(99))))
    assert host.from_pod(frame(EVERYBODY, POD)) is None
    assert [peer for peer, _ in host.sent] == [A, C]
    (envelope, inner), = frames_in(memoryview(host.sent[0][1]))  # fmt: skip
    assert envelope is not None
    assert (envelope[0], envelope[2]) == (US, 16)
    assert bytes(inner) == frame(EVERYBODY, POD)
    assert host.sent[0][1] == host.sent[1][1], "one number for all"


@pytest.mark.parametrize("source", [EVERYBODY, b"\x03" + bytes(5), bytes(6)])
def test_a_source_that_cannot_be_is_dropped(source: bytes) -> None:
    ours, _ = pair()
    assert ours.from_pod(frame(FAR, source)) is None
    assert ours.drops == {"bad-source": 1}
    assert source not in ours.peers.macs.places
    assert ours.from_pod(frame(FAR, POD)) == A


def test_frames_before_configuration_and_runts() -> None:
    host = Host(US, A)
    host.peers.us = None
    assert host.from_pod(frame(FAR, POD)) is None
    host.peers.us = US
    assert host.from_pod(frame(FAR, POD)[:23]) is None
    assert host.drops == {"not-configured": 1, "malformed": 1}


def test_what_is_too_big_is_answered_and_bounded() -> None:
    """10.10."""
    ours, _ = pair()
    assert ours.from_pod(ipv4(1420)) == A
    for _ in range(out.ERRORS_PER_SECOND + 5):
        assert ours.from_pod(ipv4(1421)) is None
    assert len(ours.written) == out.ERRORS_PER_SECOND
    answer = ours.written[0]
    assert answer[VNET_SIZE : VNET_SIZE + 12] == POD + FAR, "back to the pod, from its target"
    assert answer[VNET_SIZE + 14 + 20 : VNET_SIZE + 14 + 28].hex()[:4] == "0304"
    assert answer[VNET_SIZE + 14 + 26 : VNET_SIZE + 14 + 28] == (1420).to_bytes(2, "big")
    assert ours.drops == {"too-big": out.ERRORS_PER_SECOND + 5}
    ours.out.refill()
    ours.from_pod(ipv4(1421))
    assert len(ours.written) == out.ERRORS_PER_SECOND + 1


def test_what_may_be_cut_up_is() -> None:
    """10.10."""
    ours, _ = pair()
    assert ours.from_pod(ipv4(3000, df=False)) is None
    sizes = [len(f) - VNET_SIZE - 14 for _, r in ours.sent for _, f in frames_in(memoryview(r))]
    assert sizes == [1420, 1420, 3000 - 2 * 1400 ]  # fmt: skip
    assert ours.drops == {}


def test_an_unknown_address_does_not_make_big_frames_small() -> None:
    host = Host(US, A)
    big = frame(UNKNOWN, POD) + bytes(3000)
    assert host.from_pod(big) is None
    assert host.sent == []
    assert host.drops == {"too-big": 1}


# ---- from peers


def test_a_record_is_delivered_once() -> None:
    """10.4."""
    ours, theirs = pair()
    sent = frame(FAR, POD)
    datagrams = ours.datagrams(A, bytes(unicast_record(sent)), size=16)
    assert len(datagrams) > 2
    theirs.take(*reversed(datagrams))
    theirs.take(*datagrams)
    assert theirs.written == [sent]
    assert theirs.drops == {"replayed": len(datagrams)}
    assert theirs.peers.macs.places[POD] == US


def test_a_replay_is_seen_also_where_the_record_lies_whole() -> None:
    """10.4: the fast way has the same window as the slow one."""
    ours, theirs = pair()
    (datagram,) = ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))), size=1400)
    way = theirs.inbound.way(datagram)
    assert way is not None
    for _ in range(2):
        data = memoryview(datagram)[HEADER_SIZE:]
        assert theirs.inbound.record(way, datagram[SEQ_AT:INDEX_AT], data, T0, 1)
    theirs.take(datagram)
    assert len(theirs.written) == 1
    assert theirs.drops == {"replayed": 2}


@given(st.integers(0, 500), st.integers(0, 7))
@example(20, 0)
@example(21, 0)
@example(21, 7)
def test_any_bit_turned_over_is_noticed(where: int, bit: int) -> None:
    """10.3: whatever is authenticated cannot change; hops may."""
    ours, theirs = pair()
    (datagram,) = ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))), size=1400)
    where %= len(datagram)
    forged = bytearray(datagram)
    forged[where] ^= 1 << bit
    if where in (4, 5):
        return  # for somebody else: the receiver relays it
    theirs.take(bytes(forged))
    free = where in (1, 22, 23)
    assert bool(theirs.written) is free
    if where in (20, 21):
        return  # another place in another total: malformed, or waiting for what never comes
    assert (sum(theirs.drops.values()) == 0) is free
    if not free:
        theirs.take(datagram)
        assert len(theirs.written) == 1


@given(st.lists(st.binary(max_size=120), max_size=30), st.booleans())
def test_no_datagram_raises(bodies: list[bytes], encrypted: bool) -> None:
    """10.3: headers that look right with anything behind, and anything at all."""
    host = Host(US, A, encrypted=encrypted)
    for n, body in enumerate(bodies):
        kind = (DATA, PLAIN, PROBE, 9)[n % 4]
        tag, epoch = (2001, 1) if encrypted else (0, 0)
        head = struct.pack("!BBHHHIQBBH", kind, 16, A, US, epoch, tag, n, n % 3, 1 + n % 4, 0)
        host.take(head + body, (body * 30).ljust(HEADER_SIZE, b"\0"))
    ours, theirs = pair()
    theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, POD)))))
    assert len(theirs.written) == 1


@given(st.binary(max_size=300))
def test_no_authentic_record_raises(body: bytes) -> None:
    """10.2: what a peer seals may be nonsense."""
    ours, theirs = pair()
    theirs.take(*ours.datagrams(A, body))
    theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, POD)))))
    assert theirs.written[-1:] == [frame(FAR, POD)]


def test_who_may_speak() -> None:
    """10.3: each refusal by its reason; then the same sender's next good record."""
    ours, theirs = pair()
    good = ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))), size=1400)[0]

    def changed(at: int, value: bytes) -> bytes:
        return good[:at] + value + good[at + len(value) :]

    cases = {
        "malformed": changed(0, b"\x09"),
        "unknown-peer": changed(2, b"\x0f\xff"),
        "unknown-epoch": changed(6, b"\0\x07"),
        "wrong-tag": changed(8, b"\0\0\0\0"),
        "not-encrypted": changed(0, bytes((PLAIN,))),
        "unauthentic": changed(12, b"\1"),
    }
    for reason, datagram in cases.items():
        before = theirs.drops.get(reason, 0)
        theirs.take(datagram)
        assert theirs.drops[reason] == before + 1
        of_us = theirs.peers.peer_drops[US, reason]
        assert of_us == (0 if reason == "unknown-peer" else before + 1)
        assert theirs.written == []
    theirs.take(changed(21, b"\0"), changed(20, b"\5"), changed(21, b"\xff"))
    assert theirs.drops["malformed"] == 4
    theirs.take(good)
    assert theirs.written == [frame(FAR, POD)]


def test_a_mesh_without_password_takes_plain_and_nothing_sealed() -> None:
    """10.3."""
    ours, theirs = Host(US, A, encrypted=False), Host(A, US, encrypted=False)
    record = bytes(unicast_record(frame(FAR, POD)))
    (datagram,) = ours.datagrams(A, record, kind=PLAIN, size=1400)
    assert datagram[HEADER_SIZE:] == record
    theirs.take(datagram)
    assert theirs.written == [frame(FAR, POD)]
    sealed = Host(US, A).datagrams(A, record)
    theirs.take(*sealed)
    assert theirs.drops == {"unknown-epoch": len(sealed)}


def test_broadcasts_go_on_along_their_origins_tree() -> None:
    """10.7: once to our pods, once to each child, with a hop less; not at the last hop."""
    host = Host(B, US, A, C)
    host.peers.apply(w.SetTree(US, (C,)))
    host.peers.apply(w.SetTree(A, (US,)))
    before = Host(A, B)
    sent = frame(EVERYBODY, POD)
    for number, hops in ((1, 16), (1, 16), (2, 1)):
        record = bytes(broadcast_record((US, number, hops), sent))
        host.take(*before.datagrams(B, record))
    assert host.written == [sent, sent]
    assert [(peer, r) for peer, r in host.sent] == [(C, bytes(broadcast_record((US, 1, 15), sent)))]
    assert host.drops == {"duplicate-broadcast": 1, "hop-limit": 1}
    assert host.peers.macs.places[POD] == US, "behind its origin, not behind who passed it on"


def served_by_the_kernel(host: Host, peer: ShortID, *, in_kernel: bool = True) -> None:
    host.peers.apply(w.SetPeer(peer, name(peer), 1420, in_kernel))


def test_broadcasts_of_who_is_served_by_the_kernel_are_passed_on_only() -> None:
    """protocol.md 14.3: our pods hear them by the kernel; whoever is behind us has only us."""
    host, before = Host(B, US, A, C), Host(A, B)
    host.peers.apply(w.SetTree(US, (C,)))
    served_by_the_kernel(host, US)
    sent = frame(EVERYBODY, POD)
    for number in (1, 2):
        record = bytes(broadcast_record((US, number, 16), sent))
        host.take(*before.datagrams(B, record))
        served_by_the_kernel(host, US, in_kernel=False)
    assert host.written == [sent], "the second: it is served by the sleeve again"
    assert [peer for peer, _ in host.sent] == [C, C]


def test_unicast_of_who_is_served_by_the_kernel_is_delivered() -> None:
    """protocol.md 14.2: what was under way when the overlay changed is not lost."""
    ours, theirs = pair()
    served_by_the_kernel(theirs, US)
    sent = frame(FAR, POD)
    theirs.take(*ours.datagrams(A, bytes(unicast_record(sent))))
    assert theirs.written == [sent]
    ours.peers.macs.learn(FAR, A, T0)
    served_by_the_kernel(ours, A)
    assert ours.from_pod(sent) == A


def test_unknown_addresses_are_asked_for_by_one_overlay() -> None:
    """protocol.md 14.3: at whom the kernel serves it asks itself."""
    host = Host(US, A, B)
    served_by_the_kernel(host, A)
    host.from_pod(frame(UNKNOWN, POD))
    assert [peer for peer, _ in host.sent] == [B]


def test_our_own_broadcast_that_comes_back_is_dropped() -> None:
    """protocol.md 8.4, 10.7: and one of an origin we do not know, whatever others' views are."""
    host, before = Host(B, US), Host(US, B)
    for origin in (B, ShortID(77)):
        record = bytes(broadcast_record((origin, 1, 16), frame(EVERYBODY, POD)))
        host.take(*before.datagrams(B, record))
    assert host.written == []
    assert host.drops == {"duplicate-broadcast": 1, "unknown-peer": 1}


def test_a_frame_from_a_group_address_is_not_delivered() -> None:
    ours, theirs = pair()
    theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, EVERYBODY)))))
    assert theirs.written == []
    assert theirs.drops == {"bad-source": 1}


def test_control_datagrams_are_handed_up_once() -> None:
    """10.6."""
    ours, theirs = pair()
    probe = ours.datagrams(A, b"about the path", kind=PROBE)
    theirs.take(*probe, *probe)
    assert theirs.control == [(PROBE, US, b"about the path")]
    assert theirs.drops == {"replayed": 1}


def reports(host: Host, *times: float, overruns: Overruns | None = None
            ) -> list[tuple[int, int, int, int, int]]:  # fmt: skip
    """What the host would report when it looks so many seconds after T0."""
    ours = overruns or Overruns()
    said = [body for t in times for _, body in host.inbound.look(ours, Instant(T0 + t))]
    return [REPORT_BODY.unpack(body) for body in said]


@pytest.mark.parametrize("encrypted", [True, False])
def test_what_was_lost_is_reported_once(encrypted: bool) -> None:
    """10.9: torn records by what is missing of them, records of which nothing came as one."""
    ours, theirs = Host(US, A, encrypted=encrypted), Host(A, US, encrypted=encrypted)
    kind, body = DATA if encrypted else PLAIN, bytes(unicast_record(frame(FAR, POD, bytes(300))))
    sent = [ours.datagrams(A, body, kind=kind, size=100) for _ in range(10)]
    each = len(sent[0])
    for n, datagrams in enumerate(sent):
        if n == 3:
            theirs.take(*datagrams[2:])
        elif n != 5:
            theirs.take(*datagrams)
    assert reports(theirs, 0.01) == [(8, 0, 8 * each, 0, 0)], "what is late may still come"
    assert reports(theirs, 0.1) == [(0, 2, 0, 3, 0)]
    assert reports(theirs, 0.2, 0.3, 5.0) == []
    theirs.inbound.age(Instant(T0 + 10))
    assert theirs.drops == {"record-incomplete": 1}


def test_single_datagrams_that_are_lost_show_as_gaps() -> None:
    """10.9: of such records nothing lies here that could be found missing."""
    ours, theirs = pair()
    reports(theirs, 0.0)
    sent = [ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))))[0] for _ in range(100)]
    theirs.take(*(d for n, d in enumerate(sent) if n % 10 != 5))
    assert reports(theirs, 0.05, 0.1) == [(90, 10, 90, 10, 0)]


def test_reordered_datagrams_are_not_lost() -> None:
    """10.9: nor are records that others overtook."""
    ours, theirs = pair()
    sent = [
        datagram
        for _ in range(50)
        for datagram in ours.datagrams(A, bytes(unicast_record(frame(FAR, POD, bytes(250)))))
    ]
    shuffled = sent[::-1]
    theirs.take(*shuffled[: len(sent) // 2])
    first = reports(theirs, 0.01)
    theirs.take(*shuffled[len(sent) // 2 :])
    said = first + reports(theirs, 0.06, 0.11, 0.2, 2.0, 4.0)
    assert sum(whole for whole, *_ in said) == 51
    assert all((lost, missing) == (0, 0) for _, lost, _, missing, _ in said)


def test_a_new_key_is_no_loss() -> None:
    """10.9: its numbers begin above all that were used (10.4)."""
    ours, theirs = pair()
    for host, other in ((ours, A), (theirs, US)):
        me = host.peers.us
        assert me is not None
        host.peers.peers[other].tx[1].seq += 500
        host.peers.apply(w.RetireEpoch(other, 1))
        host.peers.apply(install(me, other, 2))
        host.peers.apply(w.ActivateEpoch(other, 2))
    for _ in range(5):
        theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, POD)))))
    said = reports(theirs, 0.05, 0.1, 0.15, 5.0)
    assert all((lost, missing) == (0, 0) for _, lost, _, missing, _ in said)


def test_what_our_own_queue_dropped_is_not_the_paths_loss() -> None:
    """10.9: and what is missing beyond that is."""
    ours, theirs = pair()
    overruns = Overruns(1_000)
    reports(theirs, 0.0, overruns=overruns)
    sent = [ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))))[0] for _ in range(100)]
    theirs.take(*sent[:40], *sent[60:80], *sent[85:])
    overruns.counted(1_020, Instant(T0 + 0.05))
    assert reports(theirs, 0.05, 0.1, overruns=overruns) == [(75, 25, 75, 5, 20)]
    counted = theirs.peers.peers[US].counters()
    assert (counted.rx_lost, counted.rx_missing) == (25, 5)


def test_an_overrun_that_was_not_of_these_is_forgotten() -> None:
    """It may have been of what we relay, or of strangers."""
    ours, theirs = pair()
    overruns = Overruns()
    overruns.counted(1_000, T0)
    overruns.counted(1_000, Instant(T0 + CREDIT_AGE))
    sent = [ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))))[0] for _ in range(10)]
    reports(theirs, 1.0, overruns=overruns)
    theirs.take(*sent[:5], *sent[6:])
    assert reports(theirs, 1.05, 1.1, overruns=overruns)[-1][3:] == (1, 0)


def test_after_a_loss_clean_reports_come_sooner() -> None:
    """10.9: for a minute, that the sender may grow, whenever its pods go on."""
    ours, theirs = pair()
    theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, POD)))))
    ours.datagrams(A, b"lost")
    counts = []
    for second in range(63):
        said = 0
        for n in range(20):
            theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, POD)))))
            said += len(reports(theirs, second + n / 20))
        counts.append(said)
    assert counts[1:59] == [4] * 58
    assert counts[62] == 1


def test_a_clean_path_is_reported_once_a_second() -> None:
    """10.9: how a sender learns that the loss has gone; and nothing while nothing comes."""
    ours, theirs = pair()
    assert len(reports(theirs, 0.0, 0.05)) == 1
    for n in range(40):
        theirs.take(*ours.datagrams(A, bytes(unicast_record(frame(FAR, POD)))))
        assert len(reports(theirs, 0.05 * n + 0.1)) == (n % 20 == 18)
    assert len(reports(theirs, *(3.0 + n for n in range(20)))) == 1


# ---- tables


def test_no_number_of_a_key_comes_twice_whatever_is_installed() -> None:
    """10.4: keys installed again, retired, dropped and installed again."""
    host = Host(US, A)
    used = set()

    def seal_some() -> None:
        peer = host.peers.peers[A]
        assert peer.active is not None
        for _ in range(5):
            pair_used = (peer.active.key, next_number(peer, peer.active))
            assert pair_used not in used
            used.add(pair_used)

    seal_some()
    assert host.peers.apply(install(US, A, 1)) is None, "we hold these keys"
    seal_some()
    host.peers.apply(w.RetireEpoch(A, 1))
    assert host.peers.peers[A].active is None
    assert host.peers.apply(install(US, A, 1)) == w.EpochInstalled(A, 1)
    host.peers.apply(w.ActivateEpoch(A, 1))
    seal_some()
    host.peers.apply(w.DropPeer(A))
    host.peers.apply(w.SetPeer(A, name(A), 1420))
    host.peers.apply(install(US, A, 1))
    host.peers.apply(w.ActivateEpoch(A, 1))
    seal_some()
    assert len(used) == 20


def test_epochs_held_are_bounded_and_the_active_one_stays() -> None:
    host = Host(US, A)
    for epoch in range(2, 30):
        host.peers.apply(install(US, A, epoch))
    peer = host.peers.peers[A]
    assert len(peer.tx) == len(peer.rx) == MAX_EPOCHS
    assert peer.active is peer.tx[1]
    host.peers.apply(w.ActivateEpoch(A, 99))
    assert peer.active is peer.tx[1], "an epoch we do not hold changes nothing"
    assert host.peers.apply(install(US, ShortID(50), 1)) is None


def test_a_short_id_that_changes_hands_keeps_nothing() -> None:
    """11.3."""
    host = Host(US, A)
    host.peers.macs.learn(FAR, A, T0)
    host.peers.apply(w.SetTree(A, (B,)))
    host.peers.apply(w.SetPeer(A, name(77), 1400))
    peer = host.peers.peers[A]
    assert (peer.name, peer.active, peer.rx) == (name(77), None, {})
    assert host.peers.path(A) is None
    assert FAR not in host.peers.macs.places
    assert host.peers.trees[A] == (B,), "trees name origins; they are told by themselves"


def test_paths() -> None:
    """10.5: the neighbour on the way, and the least that fits."""
    peers = Host(US, A, B).peers
    peers.apply(w.SetNeighbour(A, Endpoint("10.0.0.9", 1), 1372))
    peers.apply(w.SetRoute(B, A, 1232))
    assert peers.path(A) == (A, Neighbour(Endpoint("10.0.0.9", 1), 1372), 1372)
    assert peers.path(B) == (A, Neighbour(Endpoint("10.0.0.9", 1), 1372), 1232)
    peers.apply(w.DropNeighbour(A))
    assert peers.path(B) is None
    peers.apply(w.DropRoute(A))
    assert peers.path(A) is None


def test_split_leaves_what_is_no_super_frame() -> None:
    for whole in (frame(FAR, POD), ipv4(1400), bytes(VNET_SIZE + 14)):
        assert split(whole, 100) == [whole]


def test_envelope_and_flag_do_not_overlap() -> None:
    assert ENVELOPE.size == 11


def test_what_was_remembered_of_a_sender_goes_with_its_epoch() -> None:
    """10.3: a way that led here once leads nowhere when its epoch is retired."""
    ours, theirs = pair()
    first, second = (
        ours.datagrams(A, bytes(unicast_record(frame(FAR, POD))), size=1400) for _ in range(2)
    )
    theirs.take(*first)
    theirs.peers.apply(w.RetireEpoch(US, 1))
    theirs.take(*second)
    assert len(theirs.written) == 1
    assert theirs.drops == {"unknown-epoch": 1}


def test_what_was_remembered_of_a_destination_goes_when_it_moves() -> None:
    """10.8: an address moves at once, also for a flow that goes on."""
    host = Host(US, A, B)
    host.peers.macs.learn(FAR, A, T0)
    assert host.from_pod(frame(FAR, POD)) == host.from_pod(frame(FAR, POD)) == A
    host.peers.macs.learn(FAR, B, T0)
    assert host.from_pod(frame(FAR, POD)) == B
    host.peers.apply(w.DropPeer(B))
    assert host.from_pod(frame(FAR, POD)) is None

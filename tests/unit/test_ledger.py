"""The ledger answers for every address, and says what is wrong, if anything."""

from __future__ import annotations

from random import Random

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.drivers.store import Past
from ipam.effects import AllocationKey
from mesh.clock import Instant
from mesh.crypto.identity import Identity
from mesh.names import PeerName
from weaver.daemon.leaks import Suspect
from weaver.daemon.ledger import Ledger
from weaver.status import check_text, history_text, who_text

RANGE = AddressRange.parse("10.32.0.0/24")
ONE, TWO = (Identity.from_seed(bytes([n]) * 32) for n in (1, 2))
NOW = Instant(1.0)
KEY = AllocationKey("web", "eth0")
PAST = [Past(1000, "allocated", Address(RANGE.start + 1), "web", "eth0")]


def ledger(peer: Allocator, *reachable: PeerName) -> Ledger:
    def history(address: Address | None, _limit: int) -> list[Past]:
        return [past for past in PAST if address in (None, past.address)]

    return Ledger(peer, nickname=str, reachable=lambda: reachable, history=history)


def seeded(*owners: PeerName) -> Allocator:
    one = Allocator(ONE, RANGE, Random(1), entropy_id=b"c" * 16)
    one.seed(1, owners, NOW)
    return one


def test_who_has_an_address_since_when_and_on_what_evidence() -> None:
    one = seeded()
    one.allocate(2, KEY, NOW)
    who = ledger(one).who(Address(RANGE.start + 1))
    assert (who["state"], who["container"], who["since"]) == ("used", "web", 1000)
    assert who["owner"] == str(ONE.name)
    assert who["slice"]["issuer"] == str(ONE.name)
    text = who_text(who)
    assert "10.32.0.1 used" in text
    assert "web eth0 since 1970-01-01T00:16:40Z" in text
    assert "allocated" in history_text(who["history"])


def test_the_state_of_every_kind_of_address() -> None:
    one = seeded(TWO.name)
    one.allocate(2, KEY, NOW)
    one.free(3, KEY, NOW)
    freed = next(a for a in range(RANGE.start, RANGE.end) if one.space.rests(Address(a)))
    mine = one.ring.owned(ONE.name)[0]
    theirs = one.ring.owned(TWO.name)[0]
    states = {
        "resting": freed,
        "free": mine.end - 2,
        "another's": theirs.start + 2,
        "reserved": RANGE.start,
    }
    for state, address in states.items():
        assert ledger(one).who(Address(address))["state"] == state
    assert not ledger(one).who(Address(theirs.start + 2))["reachable"]
    assert ledger(one, TWO.name).who(Address(theirs.start + 2))["reachable"]
    assert "out of reach" in who_text(ledger(one).who(Address(theirs.start + 2)))


def test_a_whole_ring_has_no_findings() -> None:
    check = ledger(seeded(TWO.name), TWO.name).check()
    assert check["findings"] == []
    assert check_text(check).endswith("nothing is wrong\n")


def test_what_is_wrong_is_found() -> None:
    one = seeded(TWO.name)
    found = {f["what"]: f for f in ledger(one).check()["findings"]}
    assert set(found) == {"unreachable"}
    one.cloned(NOW)
    gone = one.ring.slices.pop(one.ring.owned(TWO.name)[0].start)
    one.ring._parts.lay(gone.start, gone.end, [])
    found = {f["what"]: f for f in ledger(one).check()["findings"]}
    assert set(found) == {"gap", "withheld"}
    assert "cloned-identity" in check_text(ledger(one).check())


def test_what_the_last_look_suspected_is_a_finding() -> None:
    """R23"""
    one = seeded()
    suspect = Suspect(("web", "eth0"), "pod-gone", ("10.32.0.1/24",), ("10.32.0.1/24",))
    book = Ledger(
        one,
        nickname=str,
        reachable=tuple,
        history=lambda _address, _limit: [],
        leaks=lambda: [suspect],
    )
    (found,) = book.check()["findings"]
    assert (found["what"], found["where"]) == ("leak", "10.32.0.1/24")
    assert "web eth0: pod-gone" in check_text(book.check())

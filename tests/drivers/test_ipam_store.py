"""The allocator's store on a real disk: what is durable, and what a bad file does."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import pytest

from ipam.address import Address, AddressRange
from ipam.allocator import Allocator
from ipam.drivers.store import SqliteStore, StoreError, explained
from ipam.effects import (
    AllocationKey,
    Change,
    DropAllocation,
    Persist,
    SetAllocation,
    SetCluster,
    SetSlice,
    SetVote,
)
from ipam.ring import Ring
from mesh.crypto.identity import Identity
from mesh.errors import MalformedMessageError
from tests.store_twin import MemoryStore

KEY, OTHER = AllocationKey("a", "eth0"), AllocationKey("b", "eth0")
CHANGES: tuple[Change, ...] = (
    SetCluster(b"c" * 16),
    SetVote(b"vote"),
    SetSlice(Address(8), b"slice at 8"),
    SetSlice(Address(2), b"slice at 2"),
    SetAllocation(KEY, Address(3)),
    SetAllocation(OTHER, Address(4)),
    DropAllocation(OTHER),
)


def opened(path: Path, owner: str = "us", range: str = "10.0.0.0/24") -> SqliteStore:
    return SqliteStore(path / "ipam.db", owner, range)


def test_what_was_applied_is_there_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply(CHANGES)
    store.close()
    twin = MemoryStore()
    twin.apply(Persist(CHANGES))
    store = opened(tmp_path)
    assert store.load() == twin.stored()
    store.close()


def test_an_address_that_moves_within_one_batch(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply((SetAllocation(KEY, Address(3)),))
    store.apply((DropAllocation(KEY), SetAllocation(OTHER, Address(3))))
    assert store.load().allocations == {OTHER: 3}
    store.close()


def test_a_batch_is_all_or_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply((SetAllocation(KEY, Address(3)),))
    with pytest.raises(StoreError):
        store.apply((SetVote(b"new"), SetAllocation(OTHER, Address(3))))
    assert store.load().vote is None
    store.apply((SetVote(b"good"),))
    assert store.load().vote == b"good"
    store.close()


def test_a_corrupt_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    junk = b"this is no database" * 100
    (tmp_path / "ipam.db").write_bytes(junk)
    with pytest.raises(StoreError) as caught:
        opened(tmp_path)
    assert caught.value.reason == "store-corrupt"
    assert (tmp_path / "ipam.db").read_bytes() == junk


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = 7 WHERE key = 'owner'",
        "UPDATE meta SET value = x'ff' WHERE key = 'range'",
        "INSERT INTO allocation VALUES ('c', 'eth0', 5)",
        "INSERT INTO allocation VALUES (x'ff', 'eth0', x'0a000005')",
        "DROP TABLE slice",
    ],
)
def test_pages_that_are_whole_with_nonsense_in_them(tmp_path: Path, statement: str) -> None:
    """SQLite's own check finds nothing wrong with these."""
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "ipam.db") as db:
        db.execute(statement)
    db.close()
    with pytest.raises(StoreError) as caught:
        opened(tmp_path).load()
    assert caught.value.reason == "store-corrupt"


def test_a_file_that_lost_what_it_held_is_no_new_one(tmp_path: Path) -> None:
    """It would give everybody's addresses out again. A first start leaves no such file behind."""
    opened(tmp_path).close()
    (tmp_path / "ipam.db").write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        opened(tmp_path)
    assert caught.value.reason == "store-corrupt"
    assert (tmp_path / "ipam.db").read_bytes() == b""


def test_a_link_to_a_disk_that_is_away(tmp_path: Path) -> None:
    (tmp_path / "ipam.db").symlink_to(tmp_path / "away" / "ipam.db")
    with pytest.raises(StoreError) as caught:
        opened(tmp_path)
    assert caught.value.reason == "store-unwritable"
    assert (tmp_path / "ipam.db").is_symlink()


@pytest.mark.parametrize("torn", [b"", b"SQLite format 3\0", b"junk" * 2000])
def test_a_first_start_that_was_killed_is_begun_anew(tmp_path: Path, torn: bytes) -> None:
    for name in ("ipam.db.new", "ipam.db.new-journal", "ipam.db.new-wal"):
        (tmp_path / name).write_bytes(torn)
    store = opened(tmp_path)
    store.apply(CHANGES)
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["ipam.db"]


NONSENSE: tuple[tuple[Change, ...], ...] = (
    (SetCluster(b"c" * 15), SetAllocation(KEY, Address(0x0A000005))),
    (SetCluster(b"c" * 16), SetSlice(Address(0x0A000000), b"\0")),
    (SetVote(b"\0"),),
    (SetAllocation(KEY, Address(1)),),
)


@pytest.mark.parametrize("changes", NONSENSE, ids=["cluster", "slice", "vote", "allocation"])
def test_rows_that_make_no_sense(tmp_path: Path, changes: tuple[Change, ...]) -> None:
    """One error that says what it is, for whoever opens the store to explain."""
    store = opened(tmp_path)
    store.apply(changes)
    identity, range = Identity.from_seed(b"1" * 32), AddressRange.parse("10.0.0.0/24")
    with pytest.raises(MalformedMessageError) as caught:
        Allocator(identity, range, Random(1), entropy_id=bytes(16), stored=store.load())
    assert explained(store.path, caught.value).reason == "store-corrupt"
    store.close()


def test_a_slice_of_another_ring_in_the_store(tmp_path: Path) -> None:
    identity, range = Identity.from_seed(b"1" * 32), AddressRange.parse("10.0.0.0/24")
    theirs = Ring(identity, range)
    (piece,) = theirs.seed(b"t" * 16, [identity.name])
    for cluster in (b"o" * 16, None):
        with pytest.raises(MalformedMessageError):
            Ring.restored(identity, range, cluster, [theirs.encoded(piece)])
    assert Ring.restored(identity, range, b"t" * 16, [theirs.encoded(piece)]).slices


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "ipam.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError) as caught:
        opened(tmp_path)
    assert caught.value.reason == "store-version"


@pytest.mark.parametrize(
    ("owner", "range", "reason"),
    [("them", "10.0.0.0/24", "store-owner"), ("us", "10.9.0.0/24", "range-changed")],
)
def test_a_store_of_another_peer_or_range(
    tmp_path: Path, owner: str, range: str, reason: str
) -> None:
    opened(tmp_path).close()
    with pytest.raises(StoreError) as caught:
        opened(tmp_path, owner, range)
    assert caught.value.reason == reason
    opened(tmp_path).close()


def test_a_full_disk_refuses_and_recovers(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply(CHANGES)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")
    large = tuple(SetSlice(Address(1000 + n), bytes(4000)) for n in range(100))
    with pytest.raises(StoreError) as caught:
        store.apply(large)
    assert caught.value.reason == "store-full"
    store._db.execute("PRAGMA max_page_count=100000")
    store.apply((SetVote(b"after"),))
    assert store.load().vote == b"after"
    store.close()


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        opened(tmp_path / "missing")
    assert caught.value.reason == "store-unwritable"


SCHEMA_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE slice (start BLOB PRIMARY KEY, octets BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE allocation (
    container TEXT NOT NULL, interface TEXT NOT NULL, address BLOB NOT NULL UNIQUE,
    PRIMARY KEY (container, interface)
) WITHOUT ROWID;
PRAGMA user_version=1;
"""
"""As it was written until addresses had a history."""


def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "ipam.db"
    with sqlite3.connect(path) as db:
        db.executescript(SCHEMA_1)
        rows = [("owner", b"us"), ("range", b"10.0.0.0/24"), ("vote", b"v")]
        db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        octets = (3).to_bytes(16, "big")
        db.execute(
            "INSERT INTO allocation VALUES (?, ?, ?)", (KEY.container, KEY.interface, octets)
        )
    db.close()
    return path


def test_a_file_of_the_first_schema_goes_on(tmp_path: Path) -> None:
    old_file(tmp_path)
    for _ in range(2):
        store = opened(tmp_path)
        assert store.load().allocations == {KEY: 3}
        assert store.load().freed == ()
        assert store.load().vote == b"v"
        store.close()
    store = opened(tmp_path)
    store.apply((DropAllocation(KEY),))
    assert [(past.what, past.container) for past in store.history()] == [("freed", KEY.container)]
    store.close()


SCHEMA_2 = (
    SCHEMA_1.replace("PRAGMA user_version=1;", "")
    + """
CREATE TABLE history (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, what TEXT NOT NULL,
    address BLOB NOT NULL, container TEXT NOT NULL, interface TEXT NOT NULL
);
CREATE INDEX history_address ON history (address);
PRAGMA user_version=2;
"""
)
"""As it was written until the order in which addresses were freed was kept."""


def test_a_file_of_the_second_schema_knows_what_was_freed_last(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ipam.db") as db:
        db.executescript(SCHEMA_2)
        rows = [("owner", b"us"), ("range", b"10.0.0.0/24")]
        db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
        past = [(5, "allocated"), (6, "allocated"), (6, "freed"), (7, "allocated")]
        past += [(5, "freed"), (6, "allocated"), (7, "freed"), (6, "freed"), (7, "allocated")]
        db.executemany(
            "INSERT INTO history (at, what, address, container, interface)"
            " VALUES (1, ?, ?, 'c', 'eth0')",
            [(what, n.to_bytes(16, "big")) for n, what in past],
        )
    db.close()
    for _ in range(2):
        store = opened(tmp_path)
        assert store.load().freed == (5, 6)
        assert len(store.history()) == len(past)
        store.close()


def test_what_was_freed_is_remembered_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R14: until it is given again; and not for ever."""
    monkeypatch.setattr("ipam.drivers.store.FREED", 3)
    store, twin = opened(tmp_path), MemoryStore()
    keys = [AllocationKey(f"c{n}", "eth0") for n in range(6)]
    changes: list[Change] = [SetAllocation(key, Address(10 + n)) for n, key in enumerate(keys)]
    changes += [DropAllocation(keys[n]) for n in (4, 1, 3)]
    changes += [DropAllocation(keys[1]), SetAllocation(keys[3], Address(11))]
    store.apply(changes)
    twin.write(changes)
    assert store.load() == twin.stored()
    assert store.load().freed == (14, 13)
    store.apply((DropAllocation(keys[0]), DropAllocation(keys[2])))
    assert store.load().freed == (13, 10, 12)
    store.close()


def test_a_migration_that_cannot_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = old_file(tmp_path)
    broken = {1: "BEGIN; CREATE TABLE half (x); CREATE TABLE slice (x); COMMIT;"}
    monkeypatch.setattr("ipam.drivers.store._MIGRATIONS", broken)
    with pytest.raises(StoreError):
        opened(tmp_path)
    monkeypatch.undo()
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (
            0,
        )
    db.close()
    store = opened(tmp_path)
    assert store.load().allocations == {KEY: 3}
    store.close()


def test_the_past_of_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Newest first, of one or of all, and not for ever."""
    monkeypatch.setattr("ipam.drivers.store.HISTORY", 5)
    store = opened(tmp_path)
    for _ in range(3):
        store.apply((SetAllocation(KEY, Address(3)), SetAllocation(OTHER, Address(4))))
        store.apply((DropAllocation(KEY), DropAllocation(OTHER), DropAllocation(OTHER)))
    assert [past.what for past in store.history(Address(3))] == ["freed", "allocated"]
    assert len(store.history()) == 5
    assert store.history()[0].container == OTHER.container
    assert store.history(Address(77)) == []
    assert len(store.history(limit=2)) == 2
    store.close()

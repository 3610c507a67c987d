"""The allocator's memory: SQLite, written through before anybody is answered.

WAL with synchronous=FULL: a commit that returned survives power loss. One transaction for each
batch of changes; a file of another version, or that is not whole, is left exactly as it is.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ipam.address import Address
from ipam.effects import (
    AllocationKey,
    Change,
    DropAllocation,
    DropSlice,
    SetAllocation,
    SetCluster,
    SetSlice,
    SetVote,
    Stored,
)
from mesh.errors import OperatorError

SCHEMA = 3
_WIDTH = 16

HISTORY = 20_000
"""Changes of addresses that are remembered: some days of a busy host, two megabytes."""

_HISTORY = """
CREATE TABLE history (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, what TEXT NOT NULL,
    address BLOB NOT NULL, container TEXT NOT NULL, interface TEXT NOT NULL
);
CREATE INDEX history_address ON history (address);
"""

FREED = 65_536
"""Freed addresses whose order is remembered."""

_FREED = """
CREATE TABLE freed (number INTEGER PRIMARY KEY AUTOINCREMENT, address BLOB NOT NULL UNIQUE);
"""

_TABLES = f"""
BEGIN;
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE slice (start BLOB PRIMARY KEY, octets BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE allocation (
    container TEXT NOT NULL, interface TEXT NOT NULL, address BLOB NOT NULL UNIQUE,
    PRIMARY KEY (container, interface)
) WITHOUT ROWID;
{_HISTORY}{_FREED}
PRAGMA user_version={SCHEMA};
COMMIT;
"""


_PAST = """
SELECT at, what, address, container, interface FROM history
WHERE ?1 IS NULL OR address = ?1 ORDER BY number DESC LIMIT ?2
"""

_LAST_FREED = """
INSERT INTO freed (address)
SELECT address FROM history AS one WHERE what = 'freed'
AND number = (SELECT max(number) FROM history AS other WHERE other.address = one.address)
ORDER BY number;
"""

_MIGRATIONS = {
    1: f"BEGIN; {_HISTORY} PRAGMA user_version=2; COMMIT;",
    2: f"BEGIN; {_FREED}{_LAST_FREED} PRAGMA user_version=3; COMMIT;",
}
"""From each schema that ever was to the next, each in one transaction."""

DAMAGE = (sqlite3.DatabaseError, ValueError, TypeError, AttributeError, OverflowError)
"""What reading a file raises that holds other things than were written: SQLite's own checks see
its pages, not what is in them."""


class StoreError(OperatorError):
    """The store cannot be used; its ``reason`` says why, and nothing was overwritten."""


@dataclass(frozen=True, slots=True)
class Past:
    """What once became of an address. ``at`` is the time of day, in seconds since 1970."""

    at: int
    what: str
    address: Address
    container: str
    interface: str


class SqliteStore:
    """One file. ``range`` and ``owner`` are written at the first start and compared after."""

    def __init__(self, path: Path, owner: str, range: str) -> None:
        """Open or make the file. Raises StoreError: store-corrupt, store-version, store-owner,
        range-changed, store-unwritable."""
        self.path = path
        rows = [("owner", owner.encode()), ("range", range.encode())]
        filled = ("INSERT INTO meta VALUES (?, ?)", rows)
        self._db = open_database(path, SCHEMA, _TABLES, filled, _MIGRATIONS)
        try:
            self._recognise(owner, range)
        except StoreError:
            self._db.close()
            raise
        except DAMAGE as err:
            self._db.close()
            raise explained(path, err) from err

    def _recognise(self, owner: str, range: str) -> None:
        db = self._db
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        whose, was = (meta.get(key, b"").decode() for key in ("owner", "range"))
        if whose != owner:
            raise StoreError(f"{self.path} belongs to the peer {whose!r}", "store-owner")
        if was != range:
            raise StoreError(
                f"{self.path} holds addresses of {was!r}, not of {range}; `weaver reset` gives them"
                " back",
                "range-changed",
            )

    def load(self) -> Stored:
        """Raises StoreError "store-corrupt"."""
        try:
            return self._load()
        except DAMAGE as err:
            raise explained(self.path, err) from err

    def _load(self) -> Stored:
        db = self._db
        meta = dict(db.execute("SELECT key, value FROM meta").fetchall())
        slices = tuple(row[0] for row in db.execute("SELECT octets FROM slice ORDER BY start"))
        names = db.execute("SELECT container, interface FROM allocation").fetchall()
        if not all(isinstance(name, str) for row in names for name in row):
            raise TypeError("a name that is no text")
        allocations = {
            AllocationKey(container, interface): Address(int.from_bytes(address, "big"))
            for container, interface, address in db.execute(
                "SELECT container, interface, address FROM allocation"
            )
        }
        freed = tuple(
            Address(int.from_bytes(row[0], "big"))
            for row in db.execute("SELECT address FROM freed ORDER BY number")
        )
        return Stored(meta.get("cluster"), meta.get("vote"), slices, allocations, freed)

    def apply(self, changes: Iterable[Change]) -> None:
        """Make changes durable, all or none. Raises StoreError."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                for change in changes:
                    self._apply(change)
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:  # a full disk has rolled back already
                    db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as err:
            raise explained(self.path, err) from err

    def _apply(self, change: Change) -> None:
        db = self._db
        match change:
            case SetCluster(cluster):
                db.execute("INSERT OR REPLACE INTO meta VALUES ('cluster', ?)", (cluster,))
            case SetVote(octets):
                db.execute("INSERT OR REPLACE INTO meta VALUES ('vote', ?)", (octets,))
            case SetSlice(start, octets):
                key = start.to_bytes(_WIDTH, "big")
                db.execute("INSERT OR REPLACE INTO slice VALUES (?, ?)", (key, octets))
            case DropSlice(start):
                db.execute("DELETE FROM slice WHERE start = ?", (start.to_bytes(_WIDTH, "big"),))
            case SetAllocation(key, address):
                octets = address.to_bytes(_WIDTH, "big")
                db.execute(
                    "INSERT INTO allocation VALUES (?, ?, ?)",
                    (key.container, key.interface, octets),
                )
                db.execute("DELETE FROM freed WHERE address = ?", (octets,))
                self._note("allocated", octets, key)
            case DropAllocation(key):
                gone = db.execute(
                    "DELETE FROM allocation WHERE container = ? AND interface = ?"
                    " RETURNING address",
                    (key.container, key.interface),
                ).fetchall()
                for (octets,) in gone:
                    self._let_rest(octets)
                    self._note("freed", octets, key)

    def _let_rest(self, address: bytes) -> None:
        """The order in which addresses were freed; by no clock, for it decides who is next."""
        number = self._db.execute(
            "INSERT OR REPLACE INTO freed (address) VALUES (?)", (address,)
        ).lastrowid
        self._db.execute("DELETE FROM freed WHERE number <= ?", ((number or 0) - FREED,))

    def _note(self, what: str, address: bytes, key: AllocationKey) -> None:
        """For the ledger alone: no decision is ever made by the time of day."""
        number = self._db.execute(
            "INSERT INTO history (at, what, address, container, interface)"
            " VALUES (unixepoch(), ?, ?, ?, ?)",
            (what, address, key.container, key.interface),
        ).lastrowid
        self._db.execute("DELETE FROM history WHERE number <= ?", ((number or 0) - HISTORY,))

    def history(self, address: Address | None = None, limit: int = 100) -> list[Past]:
        """The newest first, of one address or of all. Raises StoreError."""
        octets = None if address is None else address.to_bytes(_WIDTH, "big")
        try:
            rows = self._db.execute(_PAST, (octets, limit)).fetchall()
            return [
                Past(at, what, Address(int.from_bytes(where, "big")), container, interface)
                for at, what, where, container, interface in rows
            ]
        except DAMAGE as err:
            raise explained(self.path, err) from err

    def close(self) -> None:
        self._db.close()


def range_of(path: Path) -> str | None:
    """The range that a store holds addresses of; None for a file that is no store, or not there."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)
    except sqlite3.DatabaseError:
        return None
    try:
        row = db.execute("SELECT value FROM meta WHERE key = 'range'").fetchone()
        return None if row is None else row[0].decode()
    except DAMAGE:
        return None
    finally:
        db.close()


def open_database(
    path: Path,
    schema: int,
    tables: str,
    filled: tuple[str, list[tuple[str, bytes]]] | None = None,
    migrations: Mapping[int, str] | None = None,
) -> sqlite3.Connection:
    """A database of ours: made whole beside its place when it is not there, else looked through,
    and brought from an older schema to this one.

    A file that is there is therefore never an unfinished one: when it is empty, it has lost what
    it held. Raises StoreError, and leaves the file as it is.
    """
    db: sqlite3.Connection | None = None
    try:
        if not os.path.lexists(path):  # a link to a disk that is away is no new store
            _create(path, tables, filled)
        # The daemon may take a backlog's commits on a thread; never two at once.
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        held = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        steps = range(version, schema) if migrations is not None and held else ()
        if version != schema and (held or version) and not _all_known(steps, migrations):
            raise StoreError(
                f"{path} is of schema {version}, this weaver knows {schema}", "store-version"
            )
        if not held:
            raise StoreError(f"{path} is damaged: it has lost what it held", "store-corrupt")
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise StoreError(f"{path} is damaged", "store-corrupt")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        for step in steps:
            db.executescript((migrations or {})[step])
    except (*DAMAGE, StoreError, OSError) as err:
        if db is not None:
            db.close()
        if isinstance(err, StoreError):
            raise
        raise explained(path, err) from err
    return db


def _all_known(steps: Iterable[int], migrations: Mapping[int, str] | None) -> bool:
    known = [step in (migrations or {}) for step in steps]
    return bool(known) and all(known)


def _create(path: Path, tables: str, filled: tuple[str, list[tuple[str, bytes]]] | None) -> None:
    new = path.with_name(path.name + ".new")
    for left in (new, path.with_name(new.name + "-journal"), path.with_name(new.name + "-wal")):
        left.unlink(missing_ok=True)
    db = sqlite3.connect(new, isolation_level=None)
    try:
        db.executescript(tables)
        if filled is not None:
            db.executemany(*filled)
        db.execute("PRAGMA journal_mode=WAL")
    finally:
        db.close()
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def explained(path: Path, err: Exception) -> StoreError:
    """What an error of SQLite, or of what came out of it, means to the operator."""
    code = getattr(err, "sqlite_errorname", "")
    if isinstance(err, OSError):
        code = "SQLITE_FULL" if err.errno == errno.ENOSPC else "SQLITE_CANTOPEN"
    if code.startswith("SQLITE_IOERR") and _is_full(path.parent):
        code = "SQLITE_FULL"  # as it says when it cannot make the file of its shared memory
    if code.startswith("SQLITE_FULL"):
        return StoreError(f"no room to write {path}", "store-full")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"{path} is in use by another process", "store-locked")
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return StoreError(f"cannot use {path}: {err}", "store-unwritable")
    return StoreError(f"{path} is damaged: {err}", "store-corrupt")


def _is_full(directory: Path) -> bool:
    try:
        return os.statvfs(directory).f_bavail == 0
    except OSError:
        return False

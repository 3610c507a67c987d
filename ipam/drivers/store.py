"""The allocator's memory: SQLite, written through before anybody is answered.

WAL with synchronous=FULL: a commit that returned survives power loss. One transaction for each
batch of changes; a file of another version, or that is not whole, is left exactly as it is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from ipam.address import Address
from ipam.effects import (
    AllocationKey,
    Change,
    DropAllocation,
    SetAllocation,
    SetCluster,
    SetSlice,
    SetVote,
    Stored,
)
from mesh.errors import OperatorError

SCHEMA = 1
_WIDTH = 16

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE slice (start BLOB PRIMARY KEY, octets BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE allocation (
    container TEXT NOT NULL, interface TEXT NOT NULL, address BLOB NOT NULL UNIQUE,
    PRIMARY KEY (container, interface)
) WITHOUT ROWID;
"""


DAMAGE = (sqlite3.DatabaseError, ValueError, TypeError, AttributeError, OverflowError)
"""What reading a file raises that holds other things than were written: SQLite's own checks see
its pages, not what is in them."""


class StoreError(OperatorError):
    """The store cannot be used; its ``reason`` says why, and nothing was overwritten."""


class SqliteStore:
    """One file. ``range`` and ``owner`` are written at the first start and compared after."""

    def __init__(self, path: Path, owner: str, range: str) -> None:
        """Open or make the file. Raises StoreError: store-corrupt, store-version, store-owner,
        range-changed, store-unwritable."""
        self.path = path
        try:
            # The daemon may take a backlog's commits on a thread; never two at once.
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.DatabaseError as err:
            raise explained(path, err) from err
        try:
            self._open(owner, range)
        except StoreError:
            self._db.close()
            raise
        except DAMAGE as err:
            self._db.close()
            raise explained(path, err) from err

    def _open(self, owner: str, range: str) -> None:
        db = self._db
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if tables and version != SCHEMA:
            raise StoreError(
                f"{self.path} is of schema {version}, this weaver knows {SCHEMA}", "store-version"
            )
        if tables and db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise StoreError(f"{self.path} is damaged", "store-corrupt")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if not tables:
            db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")
            rows = [("owner", owner.encode()), ("range", range.encode())]
            db.executemany("INSERT INTO meta VALUES (?, ?)", rows)
            return
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
        allocations = {
            AllocationKey(container, interface): Address(int.from_bytes(address, "big"))
            for container, interface, address in db.execute(
                "SELECT container, interface, address FROM allocation"
            )
        }
        return Stored(meta.get("cluster"), meta.get("vote"), slices, allocations)

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
            case SetAllocation(key, address):
                db.execute(
                    "INSERT INTO allocation VALUES (?, ?, ?)",
                    (key.container, key.interface, address.to_bytes(_WIDTH, "big")),
                )
            case DropAllocation(key):
                db.execute(
                    "DELETE FROM allocation WHERE container = ? AND interface = ?",
                    (key.container, key.interface),
                )

    def close(self) -> None:
        self._db.close()


def explained(path: Path, err: Exception) -> StoreError:
    """What an error of SQLite, or of what came out of it, means to the operator."""
    code = getattr(err, "sqlite_errorname", "")
    if code.startswith("SQLITE_FULL"):
        return StoreError(f"no room to write {path}", "store-full")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreError(f"{path} is in use by another process", "store-locked")
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_PERM")):
        return StoreError(f"cannot use {path}: {err}", "store-unwritable")
    return StoreError(f"{path} is damaged: {err}", "store-corrupt")

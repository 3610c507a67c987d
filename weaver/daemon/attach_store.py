"""Attachments on disk: SQLite, written through before anybody is answered."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from ipam.drivers.store import DAMAGE, explained
from mesh.errors import OperatorError
from weaver.daemon.network import Route, Wiring

SCHEMA = 1
EXPOSED = "exposed"

_TABLES = f"""
BEGIN;
CREATE TABLE attachment (
    container TEXT, ifname TEXT, row TEXT NOT NULL, PRIMARY KEY (container, ifname)
);
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE lease (
    container TEXT, ifname TEXT, network TEXT NOT NULL, PRIMARY KEY (container, ifname)
);
PRAGMA user_version={SCHEMA};
COMMIT;
"""

Key = tuple[str, str]
"""(container, interface)"""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One interface of one pod. Until it is ``ready`` it is only an intent: whatever of it is
    there when the daemon starts is taken down again."""

    container: str
    ifname: str
    netns: str
    host: str
    host_mac: str | None
    mac: str | None
    addresses: tuple[str, ...]
    gateway: str | None
    mtu: int
    routes: tuple[Route, ...] = ()
    network: str = ""
    ready: bool = False

    @property
    def key(self) -> Key:
        return self.container, self.ifname

    @property
    def wiring(self) -> Wiring:
        return Wiring(
            self.netns, self.ifname, self.host, self.mtu, self.mac, self.addresses, self.routes
        )


class AttachmentStore:
    """One file. Every writing method raises StoreError."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises OperatorError: store-corrupt, store-version,
        store-unwritable; the file is left as it is."""
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
        except sqlite3.DatabaseError as err:
            raise explained(path, err) from err
        try:
            self._open()
        except OperatorError:
            self._db.close()
            raise
        except DAMAGE as err:
            self._db.close()
            raise explained(path, err) from err

    def _open(self) -> None:
        db = self._db
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != SCHEMA and (tables or version):
            raise OperatorError(
                f"{self.path} is of schema {version}, this weaver knows {SCHEMA}", "store-version"
            )
        if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise OperatorError(f"{self.path} is damaged", "store-corrupt")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        if not tables:
            db.executescript(_TABLES)

    def load(self) -> dict[Key, Attachment]:
        """Raises OperatorError "store-corrupt"."""
        try:
            rows = self._db.execute("SELECT container, ifname, row FROM attachment").fetchall()
            return {(c, i): _attachment(json.loads(row)) for c, i, row in rows}
        except (*DAMAGE, KeyError) as err:
            raise explained(self.path, err) from err

    def put(self, row: Attachment) -> None:
        values = (row.container, row.ifname, json.dumps(asdict(row)))
        self._write("INSERT OR REPLACE INTO attachment VALUES (?, ?, ?)", *values)

    def drop(self, key: Key) -> None:
        self._write("DELETE FROM attachment WHERE container = ? AND ifname = ?", *key)

    # ---- addresses given to other plugins' interfaces, by the network they were given for

    def leases(self) -> dict[Key, str]:
        rows = self._read("SELECT container, ifname, network FROM lease")
        return {(container, ifname): network for container, ifname, network in rows}

    def put_lease(self, key: Key, network: str) -> None:
        self._write("INSERT OR REPLACE INTO lease VALUES (?, ?, ?)", *key, network)

    def drop_lease(self, key: Key) -> None:
        self._write("DELETE FROM lease WHERE container = ? AND ifname = ?", *key)

    # ---- the bridge's own address

    @property
    def exposed(self) -> str | None:
        rows = self._read("SELECT value FROM fact WHERE key = ?", EXPOSED)
        return str(rows[0][0]) if rows else None

    @exposed.setter
    def exposed(self, cidr: str | None) -> None:
        if cidr is None:
            self._write("DELETE FROM fact WHERE key = ?", EXPOSED)
        else:
            self._write("INSERT OR REPLACE INTO fact VALUES (?, ?)", EXPOSED, cidr)

    def _read(self, statement: str, *values: str) -> list[tuple[str, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except DAMAGE as err:
            raise explained(self.path, err) from err

    def _write(self, statement: str, *values: str) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.DatabaseError as err:
            raise explained(self.path, err) from err

    def close(self) -> None:
        self._db.close()


def _attachment(row: dict[str, object]) -> Attachment:
    addresses, routes = row.pop("addresses"), row.pop("routes")
    if not isinstance(addresses, list) or not isinstance(routes, list):
        raise TypeError("addresses and routes are lists")
    return Attachment(
        **row,  # type: ignore[arg-type]  # written by asdict of the same class
        addresses=tuple(addresses),
        routes=tuple((destination, gateway) for destination, gateway in routes),
    )

"""Attachments on disk: SQLite, written through before anybody is answered."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from ipam.drivers.store import explained
from mesh.errors import OperatorError
from weaver.daemon.network import Route, Wiring

SCHEMA = 1
EXPOSED = "exposed"

_TABLES = f"""
BEGIN;
CREATE TABLE IF NOT EXISTS attachment (
    container TEXT, ifname TEXT, row TEXT NOT NULL, PRIMARY KEY (container, ifname)
);
CREATE TABLE IF NOT EXISTS fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS lease (
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
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA):
                raise OperatorError(
                    f"{path} is of schema {version}, this weaver knows {SCHEMA}", "store-version"
                )
            if self._db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise OperatorError(f"{path} is damaged", "store-corrupt")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
        except sqlite3.DatabaseError as err:
            raise explained(path, err) from err

    def load(self) -> dict[Key, Attachment]:
        """Raises OperatorError "store-corrupt"."""
        try:
            rows = self._db.execute("SELECT container, ifname, row FROM attachment").fetchall()
            return {(c, i): _attachment(json.loads(row)) for c, i, row in rows}
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError, AttributeError) as err:
            raise OperatorError(f"{self.path} is damaged: {err}", "store-corrupt") from err

    def put(self, row: Attachment) -> None:
        values = (row.container, row.ifname, json.dumps(asdict(row)))
        self._write("INSERT OR REPLACE INTO attachment VALUES (?, ?, ?)", *values)

    def drop(self, key: Key) -> None:
        self._write("DELETE FROM attachment WHERE container = ? AND ifname = ?", *key)

    # ---- addresses given to other plugins' interfaces, by the network they were given for

    def leases(self) -> dict[Key, str]:
        rows = self._db.execute("SELECT container, ifname, network FROM lease").fetchall()
        return {(container, ifname): network for container, ifname, network in rows}

    def put_lease(self, key: Key, network: str) -> None:
        self._write("INSERT OR REPLACE INTO lease VALUES (?, ?, ?)", *key, network)

    def drop_lease(self, key: Key) -> None:
        self._write("DELETE FROM lease WHERE container = ? AND ifname = ?", *key)

    # ---- the bridge's own address

    @property
    def exposed(self) -> str | None:
        row = self._db.execute("SELECT value FROM fact WHERE key = ?", (EXPOSED,)).fetchone()
        return None if row is None else str(row[0])

    @exposed.setter
    def exposed(self, cidr: str | None) -> None:
        if cidr is None:
            self._write("DELETE FROM fact WHERE key = ?", EXPOSED)
        else:
            self._write("INSERT OR REPLACE INTO fact VALUES (?, ?)", EXPOSED, cidr)

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

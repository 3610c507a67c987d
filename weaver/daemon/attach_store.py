"""Attachments on disk: SQLite, written through before anybody is answered."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from ipam.drivers.store import DAMAGE, explained, open_database
from weaver.daemon.network import UNBOUND, Route, Shape, Wiring

SCHEMA = 2
EXPOSED = "exposed"
HOLDERS = "exposed for"

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

_MIGRATIONS = {
    1: """
BEGIN;
UPDATE attachment SET row = json_remove(
    json_set(
        row, '$.gateways',
        CASE WHEN json_extract(row, '$.gateway') IS NULL THEN json_array()
        ELSE json_array(json_extract(row, '$.gateway')) END
    ),
    '$.gateway'
);
PRAGMA user_version=2;
COMMIT;
"""
}
"""From each schema that ever was to the next: a pod had one gateway in the first."""

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
    gateways: tuple[str, ...]
    mtu: int
    routes: tuple[Route, ...] = ()
    network: str = ""
    ready: bool = False
    hairpin: bool = False
    masquerade: bool = True
    shape: Shape = UNBOUND
    own_mtu: bool = False
    """Whether its MTU was asked for: it does not follow the host's."""

    @property
    def key(self) -> Key:
        return self.container, self.ifname

    @property
    def wiring(self) -> Wiring:
        return Wiring(
            self.netns,
            self.ifname,
            self.host,
            self.mtu,
            self.mac,
            self.addresses,
            self.routes,
            self.hairpin,
            self.shape,
        )


class AttachmentStore:
    """One file. Every writing method raises StoreError."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises OperatorError: store-corrupt, store-version,
        store-unwritable; the file is left as it is."""
        self.path = path
        self._db = open_database(path, SCHEMA, _TABLES, migrations=_MIGRATIONS)

    def load(self) -> dict[Key, Attachment]:
        """Raises OperatorError "store-corrupt", also for what is read later."""
        _ = self.exposed
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

    # ---- the bridge's own addresses

    @property
    def exposed(self) -> tuple[str, ...]:
        rows = self._read("SELECT value FROM fact WHERE key = ?", EXPOSED)
        try:
            return tuple(str(ip_interface(cidr)) for cidr in rows[0][0].split(" ")) if rows else ()
        except ValueError as err:
            raise explained(self.path, err) from err

    @exposed.setter
    def exposed(self, addresses: tuple[str, ...]) -> None:
        if addresses:
            value = " ".join(addresses)
            self._write("INSERT OR REPLACE INTO fact VALUES (?, ?)", EXPOSED, value)
        else:
            self._write("DELETE FROM fact WHERE key = ?", EXPOSED)

    @property
    def holders(self) -> dict[Key, str]:
        """Who wants it, and by which network (``weaver.daemon.holders``)."""
        rows = self._read("SELECT value FROM fact WHERE key = ?", HOLDERS)
        try:
            found = json.loads(rows[0][0]) if rows else []
            return {(str(container), str(ifname)): str(of) for container, ifname, of in found}
        except (ValueError, TypeError) as err:
            raise explained(self.path, err) from err

    @holders.setter
    def holders(self, rows: dict[Key, str]) -> None:
        if not rows:
            self._write("DELETE FROM fact WHERE key = ?", HOLDERS)
        else:
            value = json.dumps([[*key, network] for key, network in rows.items()])
            self._write("INSERT OR REPLACE INTO fact VALUES (?, ?)", HOLDERS, value)

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


def _attachment(row: Any) -> Attachment:  # noqa: ANN401  # JSON, of a file somebody may have touched
    """Raises TypeError, ValueError, KeyError or AttributeError for what ``put`` never wrote."""
    addresses, routes, shape = row.pop("addresses"), row.pop("routes"), row.pop("shape", {})
    gateways = row.pop("gateways")
    if not all(isinstance(value, list) for value in (addresses, routes, gateways)):
        raise TypeError("addresses, routes and gateways are lists")
    made = Attachment(
        **row,
        addresses=tuple(str(ip_interface(cidr)) for cidr in addresses),
        gateways=tuple(gateways),
        routes=tuple((destination, gateway) for destination, gateway in routes),
        shape=Shape(**shape),
    )
    texts = (made.container, made.ifname, made.netns, made.host, made.network)
    maybe = (made.host_mac, made.mac, *made.gateways, *(gateway for _, gateway in made.routes))
    given = (*(text for text in maybe if text is not None), *(to for to, _ in made.routes))
    if not all(isinstance(text, str) for text in (*texts, *given)):
        raise TypeError("a name that is no text")
    if not all(type(n) is int for n in (made.mtu, *asdict(made.shape).values())):
        raise TypeError("an MTU or a bound that is no number")
    if not all(
        type(flag) is bool for flag in (made.ready, made.hairpin, made.masquerade, made.own_mtu)
    ):
        raise TypeError("a state that is none")
    return made

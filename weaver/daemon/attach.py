"""Attaching pods: an address, a veth pair onto the bridge, a row that survives everything.

Keyed by (container, interface): asked twice, it answers twice the same. An attachment is recorded
before its devices are made and forgotten after they are gone, so that a crash in between leaves
something the next start can finish taking down, never a device nobody knows of.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from asyncio import Lock
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from ipam.address import Address, AddressRange
from ipam.effects import AllocationKey
from mesh.errors import OperatorError
from weaver.daemon.network import Network

log = logging.getLogger(__name__)

BRIDGE = "weave"
EXPOSED = AllocationKey("weave:expose", BRIDGE)
"""The key of the bridge's own address."""

Route = tuple[str, str | None]


class IpamPort(Protocol):
    """What attaching needs of the allocator."""

    async def allocate(self, key: AllocationKey) -> Address: ...
    async def claim(self, key: AllocationKey, address: Address) -> Address: ...
    async def free(self, key: AllocationKey) -> Address | None: ...
    def holds(self, key: AllocationKey) -> bool: ...


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """``addresses`` given (CIDR) come from another allocator; otherwise ours gives one."""

    container: str
    ifname: str
    netns: str
    address: str | None = None
    mac: str | None = None
    mtu: int | None = None
    addresses: tuple[str, ...] | None = None
    routes: tuple[Route, ...] = ()
    default_route: bool = False


@dataclass(frozen=True, slots=True)
class Attachment:
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
    ready: bool = field(default=False)


class AttachmentStore:
    """Attachments in SQLite, each as one JSON row."""

    def __init__(self, path: Path) -> None:
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS attachment"
                " (container TEXT, ifname TEXT, row TEXT NOT NULL, PRIMARY KEY (container, ifname))"
            )
        except sqlite3.DatabaseError as err:
            raise OperatorError(f"cannot use {path}: {err}", "store-corrupt") from err

    def load(self) -> dict[tuple[str, str], Attachment]:
        rows = self._db.execute("SELECT container, ifname, row FROM attachment").fetchall()
        return {(c, i): _attachment(json.loads(row)) for c, i, row in rows}

    def put(self, attachment: Attachment) -> None:
        row = json.dumps(asdict(attachment))
        values = (attachment.container, attachment.ifname, row)
        try:
            self._db.execute("INSERT OR REPLACE INTO attachment VALUES (?, ?, ?)", values)
        except sqlite3.DatabaseError as err:
            raise OperatorError(f"cannot record the attachment: {err}", "store-unwritable") from err

    def drop(self, container: str, ifname: str) -> None:
        self._db.execute(
            "DELETE FROM attachment WHERE container = ? AND ifname = ?", (container, ifname)
        )

    def close(self) -> None:
        self._db.close()


def _attachment(row: dict[str, object]) -> Attachment:
    addresses, routes = row.pop("addresses"), row.pop("routes")
    assert isinstance(addresses, list)
    assert isinstance(routes, list)
    return Attachment(
        **row,  # type: ignore[arg-type]  # written by asdict of the same class
        addresses=tuple(addresses),
        routes=tuple((dst, via) for dst, via in routes),
    )


def host_name(container: str, ifname: str) -> str:
    """The host end's name: 15 octets at most, the same every time for one attachment."""
    return "vw" + sha256(f"{container}\0{ifname}".encode()).hexdigest()[:12]


class Attacher:
    def __init__(
        self,
        ipam: IpamPort,
        network: Network,
        store: AttachmentStore,
        range: AddressRange,
        mtu: int,
    ) -> None:
        self._ipam, self._network, self._store = ipam, network, store
        self._range, self._mtu = range, mtu
        self._rows = store.load()
        self._locks: dict[tuple[str, str], Lock] = {}
        self.exposed: str | None = None

    def list(self) -> list[Attachment]:
        return [row for _, row in sorted(self._rows.items()) if row.ready]

    def get(self, container: str, ifname: str) -> Attachment | None:
        row = self._rows.get((container, ifname))
        return row if row is not None and row.ready else None

    async def attach(self, request: AttachRequest) -> Attachment:
        """Give a pod its interface. Raises OperatorError; then nothing is left of it."""
        key = (request.container, request.ifname)
        async with self._locks.setdefault(key, Lock()):
            held = self._rows.get(key)
            if held is not None and held.ready and held.netns == request.netns:
                wrong = await self._network.do("check", **self._as_request(held))
                if not wrong:
                    return held
            fresh = held is None
            try:
                return await self._attach(request)
            except BaseException:
                if fresh:
                    await self._undo(request)
                raise

    async def _attach(self, request: AttachRequest) -> Attachment:
        addresses = request.addresses
        if addresses is None:
            addresses = (await self.allocate(request.container, request.ifname, request.address),)
        gateway = self.exposed.partition("/")[0] if self.exposed is not None else None
        routes = list(request.routes)
        if request.default_route and gateway is not None:
            routes.append(("0.0.0.0/0" if "." in gateway else "::/0", gateway))
        row = Attachment(
            request.container,
            request.ifname,
            request.netns,
            host_name(request.container, request.ifname),
            None,
            request.mac,
            addresses,
            gateway,
            request.mtu or self._mtu,
            tuple(routes),
        )
        self._remember(row)
        done = await self._network.do("attach", **self._as_request(row))
        ready = Attachment(
            **{**asdict(row), "addresses": row.addresses, "routes": row.routes}
            | {"mac": done["mac"], "host_mac": done["host_mac"], "ready": True}
        )
        self._remember(ready)
        return ready

    async def detach(self, container: str, ifname: str | None = None) -> int:
        """Take a pod's interface down and free its address; how many there were."""
        keys = [k for k in self._rows if k[0] == container and ifname in (None, k[1])]
        for key in keys:
            async with self._locks.setdefault(key, Lock()):
                row = self._rows.get(key)
                if row is None:
                    continue
                await self._network.do("delete", names=[row.host])
                await self._ipam.free(AllocationKey(*key))
                self._forget(*key)
        if not keys and ifname is not None:
            await self._ipam.free(AllocationKey(container, ifname))
        return len(keys)

    async def check(self, container: str, ifname: str, netns: str) -> Sequence[str]:
        """What is wrong with an attachment, in sentences."""
        row = self.get(container, ifname)
        if row is None:
            return [f"{container} has no attachment {ifname}"]
        wrong: list[str] = await self._network.do(
            "check", **(self._as_request(row) | {"netns": netns})
        )
        return wrong

    async def allocate(self, container: str, ifname: str, address: str | None = None) -> str:
        """An address for a key, with its prefix."""
        key = AllocationKey(container, ifname)
        if address is None:
            return self._range.cidr(await self._ipam.allocate(key))
        number = self._range.number(address)
        return self._range.cidr(await self._ipam.claim(key, number))

    def has_address(self, container: str, ifname: str) -> bool:
        """Whether the key has an address, attached or not."""
        return self._ipam.holds(AllocationKey(container, ifname))

    async def release(self, container: str, ifname: str) -> None:
        await self._ipam.free(AllocationKey(container, ifname))

    # ---- the host's own address

    async def expose(self, address: str | None = None) -> str:
        """Put an address of the range on the bridge, so that the host reaches pods."""
        if self.exposed is not None and address in (None, self.exposed.partition("/")[0]):
            return self.exposed
        if self.exposed is not None:
            await self.hide()
        cidr = await self.allocate(EXPOSED.container, EXPOSED.interface, address)
        await self._network.do("expose", bridge=BRIDGE, address=cidr)
        self.exposed = cidr
        return cidr

    async def hide(self) -> str | None:
        """Take it back; what it was."""
        was, self.exposed = self.exposed, None
        if was is not None:
            await self._network.do("hide", bridge=BRIDGE, address=was)
            await self._ipam.free(EXPOSED)
        return was

    # ---- after a start

    async def reconcile(self, exposed: str | None) -> None:
        """Make rows and devices agree again: what died while we were down is given back."""
        rows = list(self._rows.values())
        answer = await self._network.do(
            "exists", links=[row.host for row in rows], paths=[row.netns for row in rows]
        )
        for row in rows:
            if row.ready and row.host in answer["links"] and row.netns in answer["paths"]:
                continue
            log.info(
                "attachment gone",
                extra={"container": row.container, "reason": "pod-gone"},
            )
            await self.detach(row.container, row.ifname)
        if exposed is not None:
            self.exposed = exposed
            await self._network.do("expose", bridge=BRIDGE, address=exposed)

    # ---- inside

    async def _undo(self, request: AttachRequest) -> None:
        """Leave nothing of an attachment that failed."""
        key = (request.container, request.ifname)
        if key in self._rows:
            self._forget(*key)
        if request.addresses is None:
            try:
                await self._ipam.free(AllocationKey(*key))
            except OperatorError as err:
                log.warning("address not freed", extra={"reason": err.reason})

    def _as_request(self, row: Attachment) -> dict[str, object]:
        return {
            "netns": row.netns,
            "ifname": row.ifname,
            "host": row.host,
            "bridge": BRIDGE,
            "mtu": row.mtu,
            "mac": row.mac,
            "addresses": list(row.addresses),
            "routes": [list(route) for route in row.routes],
        }

    def _remember(self, row: Attachment) -> None:
        self._store.put(row)
        self._rows[row.container, row.ifname] = row

    def _forget(self, container: str, ifname: str) -> None:
        self._store.drop(container, ifname)
        self._rows.pop((container, ifname), None)
        self._locks.pop((container, ifname), None)

"""The kernel's Datapath: the door of ``mesh.link.datapath`` on eBPF tables and a VXLAN device."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mesh.drivers.fastdp import bpf, devices, layout
from mesh.drivers.fastdp.devices import Names, Programs, VxlanDevice, absence
from mesh.drivers.fastdp.rtnl import INGRESS, Rtnl
from mesh.drivers.fastdp.upcalls import CONTROL_HEADER, UpcallDevice
from mesh.link.datapath import (
    LAYOUT,
    MAX_CHILDREN,
    SLEEVE,
    Absence,
    Answer,
    Config,
    Counters,
    DatapathError,
    PeerCounters,
    Tables,
    Takeover,
    Tree,
    Upcall,
)
from mesh.link.macs import AGE
from mesh.names import ShortID

CAN_CHOOSE_OWN = int(os.uname().release.split(".")[0]) >= 6
"""Kernels before 6.0 send from the address that routing chooses, whatever they are told."""

ZERO_KEY = layout.key(0)
NO_ROUTE = layout.route(0, layout.BY_NOBODY)
NO_NEIGHBOUR = bytes(ctypes.sizeof(layout.Neighbour))


class FastDatapath:
    """Opens or takes over. DatapathError: it cannot be had, and why."""

    def __init__(self, names: Names | None = None) -> None:
        self._names = names or Names()
        self._told: Config | None = None
        self._is_started = False
        self._aged_at = 0
        self._sleeve: str | None = None
        self._tables: dict[str, bpf.Map] = {}
        self._programs: Programs | None = None
        self._upcalls: UpcallDevice | None = None
        try:
            self._rtnl = Rtnl()
        except OSError as err:
            raise absence(err, "no netlink", Absence.NO_PRIVILEGE) from err
        self._vxlan = VxlanDevice(self._rtnl, self._names)
        try:
            self.takeover = self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> Takeover:
        # First of all: while another daemon has it nothing of its may be touched.
        self._open_upcalls()
        found = self._vxlan.find()
        had = False
        if found is not None:
            try:
                self._tables, had = devices.find_tables(self._rtnl, found)
            except OSError as err:
                if err.errno in (1, 13):  # without CAP_SYS_ADMIN no table is found again
                    had = True
                else:
                    raise absence(err, "cannot read the tables there", Absence.REFUSED) from err
        takeover = Takeover.TAKEN
        if not self._tables:
            self._tables = devices.make_tables()
            takeover = Takeover.OTHER_LAYOUT if had else Takeover.FRESH
        self._programs = Programs(self._tables)
        if found is None:
            self._vxlan.make()
        self._write_config()
        return takeover

    def _open_upcalls(self) -> None:
        try:
            self._upcalls = UpcallDevice(self._names.upcall)
        except OSError as err:
            if err.errno == 16:
                raise DatapathError(
                    Absence.BUSY, f"another daemon has {self._names.upcall}"
                ) from err
            raise absence(err, f"cannot open {self._names.upcall}", Absence.NO_PRIVILEGE) from err

    # --- life

    def start(self) -> None:
        programs = self._loaded()
        with self._errors("cannot start"):
            self._hook_upcalls(programs)
            devices.hook_vxlan(self._rtnl, self._vxlan.index, programs)
            self._write_config()
            self._vxlan.join(self._told.mtu if self._told else None)
        self._is_started = True

    def _hook_upcalls(self, programs: Programs) -> None:
        there = self._rtnl.device(self._names.upcall)
        if there is None:
            raise DatapathError(Absence.GONE, f"{self._names.upcall} is gone")
        self._rtnl.keep_silent(there.index)
        copies = ("copies",) * devices.CHAIN
        devices.hook(self._rtnl, there.index, INGRESS, programs, "from_user", *copies)
        self._rtnl.set_mtu(there.index, devices.HOST_MTU)
        self._rtnl.set_up(there.index)

    def close(self) -> None:
        if self._upcalls is not None:
            self._upcalls.close()
            self._upcalls = None
        if self._programs is not None:
            self._programs.close()
            self._programs = None
        devices.close_tables(self._tables)
        self._tables = {}
        self._rtnl.close()

    def remove(self) -> None:
        if self._sleeve is not None:
            self.set_sleeve(None)
        self.close()
        devices.remove(self._names)

    def check(self) -> list[str]:
        done: list[str] = []
        programs = self._loaded()
        with self._errors("cannot look after the fast path"):
            if self._upcalls is None or not self._upcalls.is_there():
                if self._upcalls is not None:
                    self._upcalls.close()
                    self._upcalls = None
                self._open_upcalls()
                self._hook_upcalls(programs)
                done.append(f"{self._names.upcall} made anew")
            if self._vxlan.find() is None:
                self._vxlan.make()
                done.append(f"{self._names.device} made anew")
            if not devices.are_hooked(self._rtnl, self._vxlan.index, programs):
                devices.hook_vxlan(self._rtnl, self._vxlan.index, programs)
                done.append(f"programs put on {self._names.device} again")
            if self._sleeve is not None and not self._is_sleeve_hooked(programs):
                self.set_sleeve(self._sleeve)
                done.append(f"programs put on {self._sleeve} again")
            self._write_config()
            done += self._vxlan.join(self._told.mtu if self._told else None)
            self._forget_the_old()
        return done

    def _is_sleeve_hooked(self, programs: Programs) -> bool:
        """True too where the device is gone: whoever makes it anew says so."""
        there = self._rtnl.device(self._sleeve or "")
        if there is None:
            return True
        ours = programs.id_of("from_sleeve")
        return any(f.program == ours for f in self._rtnl.programs(there.index))

    def configure(self, config: Config) -> None:
        self._told = config
        with self._errors("cannot configure"):
            self._write_config()
            if self._is_started:
                self._vxlan.join(config.mtu)

    def set_sleeve(self, device: str | None) -> None:
        with self._errors(f"cannot use {device or self._sleeve}"):
            before = None if self._sleeve is None else self._rtnl.device(self._sleeve)
            self._sleeve = device
            if device is not None:
                there = self._rtnl.device(device)
                if there is None:
                    raise DatapathError(Absence.GONE, f"there is no device {device}")
                devices.hook(self._rtnl, there.index, INGRESS, self._loaded(), "from_sleeve")
            elif before is not None:
                self._rtnl.delete_clsact(before.index)
            self._write_config()

    def _write_config(self) -> None:
        """The devices as they are numbered now; what we were not told yet stays as it was."""
        config = layout.Config.from_buffer_copy(
            self._table("config").get(ZERO_KEY) or bytes(ctypes.sizeof(layout.Config))
        )
        config.layout = LAYOUT
        config.vxlan = self._vxlan.index
        config.upcall = self._index_of(self._names.upcall)
        config.sleeve = 0 if self._sleeve is None else self._index_of(self._sleeve)
        if self._told is not None:
            config.us = self._told.short_id
            config.flags = layout.UPCALL_UNKNOWN if self._told.upcall_unknown else 0
        self._table("config").set(ZERO_KEY, bytes(config))

    def _index_of(self, name: str) -> int:
        there = self._rtnl.device(name)
        return 0 if there is None else there.index

    # --- tables

    def set_neighbour(self, short_id: ShortID, host: str, own: str | None = None) -> None:
        entry = layout.neighbour(host, own if CAN_CHOOSE_OWN else None)
        self._set("neighbours", layout.key(short_id), entry)

    def drop_neighbour(self, short_id: ShortID) -> None:
        self._set("neighbours", layout.key(short_id), NO_NEIGHBOUR)

    def set_routes(
        self,
        routes: Mapping[ShortID, ShortID],
        mtus: Mapping[ShortID, int] | None = None,
        onward: Mapping[ShortID, ShortID] | None = None,
    ) -> None:
        def entry(to: ShortID, via: ShortID) -> bytes:
            by = layout.BY_KERNEL if via else layout.BY_SLEEVE
            return layout.route(via, by, (mtus or {}).get(to, 0), (onward or {}).get(to, 0))

        entries = ((layout.key(to), entry(to, via)) for to, via in routes.items())
        with self._errors("cannot set routes"):
            self._table("routes").set_all(entries)

    def drop_route(self, short_id: ShortID) -> None:
        self._set("routes", layout.key(short_id), NO_ROUTE)

    def set_tree(self, origin: ShortID, tree: Tree) -> None:
        self._set("trees", layout.key(origin), _tree_entry(tree))

    def drop_tree(self, origin: ShortID) -> None:
        self._delete("trees", layout.key(origin))

    def set_group_tree(self, origin: ShortID, group: bytes, tree: Tree) -> None:
        self._set("group_trees", layout.group_key(origin, group), _tree_entry(tree))

    def drop_group_tree(self, origin: ShortID, group: bytes) -> None:
        self._delete("group_trees", layout.group_key(origin, group))

    def allow(self, host: str, source: ShortID) -> None:
        self._set("sources", layout.source(host, source), layout.key(1))

    def disallow(self, host: str, source: ShortID) -> None:
        self._delete("sources", layout.source(host, source))

    def attach(self, mac: bytes, place: ShortID) -> None:
        self._set("attached", layout.mac_key(mac), layout.key(place))

    def detach(self, mac: bytes) -> None:
        self._delete("attached", layout.mac_key(mac))

    def set_answer(self, address: str, answer: Answer) -> None:
        entry = answer.mac + answer.place.to_bytes(2, "little")
        self._set("answers", layout.packed(address), entry)

    def drop_answer(self, address: str) -> None:
        self._delete("answers", layout.packed(address))

    def tables(self) -> Tables:
        found = Tables()
        with self._errors("cannot read tables"):
            for key, value in self._table("neighbours").entries():
                if value != NO_NEIGHBOUR:
                    found.neighbours[_short_id(key)] = layout.printed(value)
                    if layout.Neighbour.from_buffer_copy(value).has_own:
                        found.own[_short_id(key)] = layout.printed(value[16:])
            for key, value in self._table("routes").entries():
                route = layout.Route.from_buffer_copy(value)
                if route.by != layout.BY_NOBODY:
                    via = route.via if route.by == layout.BY_KERNEL else SLEEVE
                    found.routes[_short_id(key)] = ShortID(via)
                    if route.mtu:
                        found.mtus[_short_id(key)] = route.mtu
                    if route.onward:
                        found.onward[_short_id(key)] = ShortID(route.onward)
            for key, value in self._table("trees").entries():
                found.trees[_short_id(key)] = _tree(value)
            for key, value in self._table("group_trees").entries():
                found.groups[_short_id(key), key[4:10]] = _tree(value)
            for key, _ in self._table("sources").entries():
                found.sources.add((layout.printed(key), _short_id(key[16:])))
            for key, value in self._table("attached").entries():
                found.attached[key[:6]] = _short_id(value)
            for key, value in self._table("answers").entries():
                place = ShortID(int.from_bytes(value[6:8], "little"))
                found.answers[layout.printed(key)] = Answer(value[:6], place)
        return found

    def learned(self) -> dict[bytes, ShortID]:
        with self._errors("cannot read what was learned"):
            return {k[:6]: _short_id(v[:4]) for k, v in self._table("learned").entries()}

    def forget(self, place: ShortID) -> None:
        for mac in [m for m, p in self.learned().items() if p == place]:
            self._delete("learned", layout.mac_key(mac))

    def _forget_the_old(self) -> None:
        """Of the same age as with the sleeve's worker. The kernel's clock is ours."""
        now = int(time.clock_gettime(time.CLOCK_MONOTONIC))
        if now - self._aged_at < AGE / 10:
            return  # a full table takes some 40 ms to read
        self._aged_at = now
        table = self._table("learned")
        for key, value in list(table.entries()):
            if now - layout.Learned.from_buffer_copy(value).seen > AGE:
                table.delete(key)

    def counters(self) -> Counters:
        peers: dict[ShortID, PeerCounters] = {}
        size = ctypes.sizeof(layout.Traffic)
        nothing = bytes(size * bpf.processors())
        with self._errors("cannot read counters"):
            for key, value in self._table("traffic").entries():
                if value != nothing:
                    sums = [0] * 6
                    for at in range(0, len(value), size):
                        for n, count in enumerate(memoryview(value[at : at + size]).cast("Q")):
                            sums[n] += count
                    peers[_short_id(key)] = PeerCounters(*sums)
            totals = {
                int.from_bytes(key, "little"): sum(memoryview(value).cast("Q"))
                for key, value in self._table("totals").entries()
            }
        drops = {reason: totals[n] for n, reason in enumerate(layout.DROPS) if totals.get(n)}
        other = (totals.get(n, 0) for n in (layout.ANSWERED, layout.UPCALLS, layout.TO_SLEEVE))
        return Counters(peers, drops, *other)

    # --- frames from and to user space

    def fileno(self) -> int:
        return self._device().fd

    def receive(self, limit: int = 64) -> list[Upcall]:
        with self._errors("cannot read upcalls"):
            return self._device().receive(limit)

    def send_control(self, neighbour: ShortID, payload: bytes) -> None:
        with self._errors("cannot send a control frame"):
            frame = CONTROL_HEADER + payload
            self._device().send(layout.SEND_CONTROL, 0, neighbour, frame)

    def deliver(self, source: ShortID, frame: bytes) -> None:
        with self._errors("cannot deliver a frame"):
            self._device().send(layout.DELIVER, source, 0, frame)

    def send_along_tree(self, origin: ShortID, frame: bytes) -> None:
        with self._errors("cannot send along a tree"):
            self._device().send(layout.SEND_ALONG_TREE, origin, 0, frame)

    # --- what the methods above are made of

    def _set(self, table: str, key: bytes, value: bytes) -> None:
        with self._errors(f"cannot write {table}"):
            self._table(table).set(key, value)

    def _delete(self, table: str, key: bytes) -> None:
        with self._errors(f"cannot write {table}"):
            self._table(table).delete(key)

    def _table(self, name: str) -> bpf.Map:
        if not self._tables:
            raise DatapathError(Absence.GONE, "the fast path is closed")
        return self._tables[name]

    def _loaded(self) -> Programs:
        if self._programs is None:
            raise DatapathError(Absence.GONE, "the fast path is closed")
        return self._programs

    def _device(self) -> UpcallDevice:
        if self._upcalls is None:
            raise DatapathError(Absence.GONE, "the fast path is closed")
        return self._upcalls

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise absence(err, what, Absence.REFUSED) from err


def _short_id(key: bytes) -> ShortID:
    return ShortID(int.from_bytes(key[:4], "little"))


def _tree(value: bytes) -> Tree:
    entry = layout.TreeEntry.from_buffer_copy(value)
    children = tuple(ShortID(c) for c in entry.children[: entry.count])
    parent = ShortID(entry.parent) if entry.parent else None
    by_sleeve, here = entry.flags & layout.TREE_TO_SLEEVE, not entry.flags & layout.TREE_NOT_HERE
    return Tree(parent, children, bool(by_sleeve), here)


def _tree_entry(tree: Tree) -> bytes:
    if len(tree.children) > MAX_CHILDREN:
        raise DatapathError(Absence.TABLE_FULL, f"more than {MAX_CHILDREN} children")
    flags = layout.TREE_TO_SLEEVE if tree.to_sleeve else 0
    entry = layout.TreeEntry(
        parent=tree.parent or 0,
        flags=flags | (0 if tree.here else layout.TREE_NOT_HERE),
        count=len(tree.children),
    )
    entry.children[: len(tree.children)] = tree.children
    return bytes(entry)

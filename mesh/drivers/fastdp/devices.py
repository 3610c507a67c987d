"""The VXLAN device and the programs on hooks: made, found again, looked after, taken away.

Nothing is pinned to a file system. A device's hooks hold its programs and these their tables, so
all of it lives exactly as long as the device: a killed daemon's go on working and are found through
them, and deleting the device leaves nothing.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from mesh.drivers.fastdp import bpf, layout, objects
from mesh.drivers.fastdp.rtnl import EGRESS, INGRESS, Device, Rtnl
from mesh.link.datapath import LAYOUT, MAX_CHILDREN, Absence, DatapathError

CHAIN = MAX_CHILDREN // layout.ROUND
"""How often the program that copies is chained behind a hook's first."""

FIRST = 1
"""Priority of a hook's first program; the copies follow."""

HOST_MTU = 65_000

_WORDS = {
    errno.EPERM: Absence.NO_PRIVILEGE,
    errno.ENOSYS: Absence.NO_KERNEL,
    errno.E2BIG: Absence.TABLE_FULL,
    errno.ENOSPC: Absence.TABLE_FULL,
    errno.ENOMEM: Absence.TABLE_FULL,
    errno.ENODEV: Absence.GONE,
}


@dataclass(frozen=True, slots=True)
class Names:
    bridge: str = "weave"
    device: str = "weave-fastdp"
    upcall: str = "weave-upcall"
    port: int = 6784


def absence(err: OSError, what: str, otherwise: Absence) -> DatapathError:
    """An error of the kernel as one line and its word."""
    word = _WORDS.get(err.errno or 0, otherwise)
    hint = " (CAP_NET_ADMIN and CAP_BPF are needed)" if word is Absence.NO_PRIVILEGE else ""
    return DatapathError(word, f"{what}: {err.strerror or err}{hint}")


class Programs:
    """All of ours, loaded on one set of tables. Owns their descriptors."""

    def __init__(self, tables: Mapping[str, bpf.Map]) -> None:
        self.fds: dict[str, int] = {}
        try:
            for name in ("to_mesh", "from_mesh", "copies", "from_sleeve", "from_user"):
                self.fds[name] = objects.read(name).load(tables)
        except FileNotFoundError as err:
            self.close()
            raise DatapathError(
                Absence.NO_OBJECT, "this weaver was built without the fast path's programs"
            ) from err
        except objects.BadObjectError as err:
            self.close()
            raise DatapathError(Absence.NO_OBJECT, str(err)) from err
        except OSError as err:
            self.close()
            raise absence(err, "the kernel refuses our programs", Absence.REFUSED) from err

    def id_of(self, name: str) -> int:
        return bpf.id_of(self.fds[name])

    def close(self) -> None:
        """Those on hooks stay there."""
        for fd in self.fds.values():
            os.close(fd)
        self.fds.clear()


def make_tables() -> dict[str, bpf.Map]:
    bpf.lift_memory_limit()
    tables: dict[str, bpf.Map] = {}
    try:
        for spec in layout.SPECS:
            tables[spec.name] = bpf.Map.create(spec)
        tables["config"].set(layout.key(0), bytes(layout.Config(layout=LAYOUT)))
    except OSError as err:
        close_tables(tables)
        raise absence(err, "no tables in the kernel", Absence.NO_KERNEL) from err
    return tables


def close_tables(tables: Mapping[str, bpf.Map]) -> None:
    for table in tables.values():
        table.close()


def find_tables(rtnl: Rtnl, device: Device) -> tuple[dict[str, bpf.Map], bool]:
    """The tables that programs on this device use, when they are all there and of our layout;
    and whether there were any."""
    ids: set[int] = set()
    for there in rtnl.programs(device.index):
        # One that is replaced at this moment is gone again.
        with contextlib.suppress(FileNotFoundError):
            ids.update(bpf.maps_of(there.program))
    found: dict[str, bpf.Map] = {}
    for number in sorted(ids):
        table = bpf.Map.by_id(number)
        if table.spec.name in found:
            table.close()
        else:
            found[table.spec.name] = table
    # No program of ours uses every table, all of them together do; others' tables do not matter.
    ours = {spec.name: found.pop(spec.name) for spec in layout.SPECS if spec.name in found}
    close_tables(found)
    if all(spec.name in ours and ours[spec.name].spec == spec for spec in layout.SPECS):
        config = layout.Config.from_buffer_copy(ours["config"].get(layout.key(0)) or bytes(24))
        if config.layout == LAYOUT:
            return ours, True
    close_tables(ours)
    return {}, bool(ids)


class VxlanDevice:
    """Ours by its name, kind, port and manner; anything else of that name is left alone."""

    def __init__(self, rtnl: Rtnl, names: Names) -> None:
        self._rtnl, self._names = rtnl, names
        self.index = 0

    def find(self) -> Device | None:
        """DatapathError: there is something of its name that is not ours."""
        there = self._rtnl.device(self._names.device)
        if there is None:
            return None
        if there.kind != "vxlan" or not there.by_metadata:
            raise DatapathError(
                Absence.FOREIGN_DEVICE,
                f"{self._names.device} is another's: a device of kind {there.kind or 'unknown'}"
                f"{' with a network of its own' if there.kind == 'vxlan' else ''};"
                " delete it, or weaver uses the sleeve",
            )
        if there.vxlan_port != self._names.port:
            raise DatapathError(
                Absence.FOREIGN_DEVICE,
                f"{self._names.device} is on UDP port {there.vxlan_port},"
                f" not {self._names.port}; delete it, or weaver uses the sleeve",
            )
        self.index = there.index
        return there

    def make(self) -> Device:
        names = self._names
        try:
            self._rtnl.add_vxlan(names.device, names.port, HOST_MTU)
        except FileExistsError as err:
            raise self._port_taken() from err
        except OSError as err:
            if err.errno == errno.EADDRINUSE:
                raise self._port_taken() from err
            raise absence(err, f"cannot make {names.device}", Absence.NO_VXLAN) from err
        there = self._rtnl.device(names.device)
        if there is None:
            raise DatapathError(Absence.GONE, f"{names.device} was deleted as it was made")
        self.index = there.index
        self._rtnl.keep_silent(self.index)
        return there

    def join(self, mtu: int | None = None) -> list[str]:
        """Be up, and a port of the bridge. What had to be done, in words."""
        names, done = self._names, []
        there, bridge = self._rtnl.device(names.device), self._rtnl.device(names.bridge)
        if there is None:
            raise DatapathError(Absence.GONE, f"{names.device} is gone")
        if bridge is None:
            raise DatapathError(Absence.NO_BRIDGE, f"there is no bridge {names.bridge}")
        if mtu is not None and there.mtu != mtu:
            self._rtnl.set_mtu(there.index, mtu)
            done.append(f"MTU of {names.device} set to {mtu}")
        if there.master != bridge.index:
            self._rtnl.set_master(there.index, bridge.index)
            done.append(f"{names.device} made a port of {names.bridge}")
        if not there.is_up:
            try:
                self._rtnl.set_up(there.index)
            except OSError as err:
                if err.errno == errno.EADDRINUSE:
                    raise self._port_taken() from err
                raise absence(err, f"cannot set {names.device} up", Absence.NO_VXLAN) from err
            done.append(f"{names.device} set up")
        return done

    def _port_taken(self) -> DatapathError:
        port = self._names.port
        others = [
            d.name
            for d in self._rtnl.devices()
            if d.vxlan_port == port and d.name != self._names.device
        ]
        whose = f"VXLAN device {others[0]}" if others else "another program"
        return DatapathError(Absence.PORT_TAKEN, f"UDP port {port} is taken by {whose}")


def hook(rtnl: Rtnl, index: int, which: int, programs: Programs, *names: str) -> None:
    """Put programs on a hook, each in one step in place of its former self."""
    try:
        rtnl.add_clsact(index)
    except OSError as err:
        raise absence(err, "no hooks for programs", Absence.NO_CLSACT) from err
    try:
        # The last first: a program never leaves a frame to one that is not there yet.
        for at, name in reversed(list(enumerate(names, FIRST))):
            rtnl.set_program(index, which, at, programs.fds[name], name)
    except OSError as err:
        raise absence(err, f"cannot attach {names[0]}", Absence.NO_CLSACT) from err


def hook_vxlan(rtnl: Rtnl, index: int, programs: Programs) -> None:
    copies = ("copies",) * CHAIN
    hook(rtnl, index, INGRESS, programs, "from_mesh", *copies)
    hook(rtnl, index, EGRESS, programs, "to_mesh", *copies)
    for there in rtnl.programs(index):
        # Of an earlier release with a longer chain: it would keep that one's tables alive.
        if there.priority > CHAIN + FIRST:
            rtnl.delete_program(index, there.hook, there.priority)


def are_hooked(rtnl: Rtnl, index: int, programs: Programs) -> bool:
    """Whether it is our programs that are on the VXLAN device's hooks."""
    there = {(f.hook, f.priority): f.program for f in rtnl.programs(index)}
    copies = programs.id_of("copies")
    chained = [(h, p) for h in (INGRESS, EGRESS) for p in range(FIRST + 1, FIRST + 1 + CHAIN)]
    return (
        there.get((INGRESS, FIRST)) == programs.id_of("from_mesh")
        and there.get((EGRESS, FIRST)) == programs.id_of("to_mesh")
        and all(there.get(place) == copies for place in chained)
    )


def remove(names: Names | None = None) -> bool:
    """Delete our devices, and with them programs and tables; whether there were any. For `reset`,
    when no daemon runs. A device of our name that is another's is left alone: DatapathError."""
    names = names or Names()
    rtnl = Rtnl()
    try:
        found = VxlanDevice(rtnl, names).find()
        removed = rtnl.delete(names.device) if found is not None else False
        return rtnl.delete(names.upcall) or removed
    except OSError as err:
        raise absence(err, f"cannot delete {names.device}", Absence.GONE) from err
    finally:
        rtnl.close()

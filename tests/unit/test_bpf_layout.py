"""C's tables and Python's are the same, octet for octet: asked of the compiler itself."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import hatch_build
from mesh.drivers.fastdp import layout, objects
from mesh.drivers.fastdp.bpf import NO_PREALLOC, Kind
from mesh.link.datapath import (
    HOPS,
    LAYOUT,
    MAX_CHILDREN,
    MAX_GROUP_TREES,
    MAX_MACS,
    MAX_SOURCES,
    SLEEVE,
    Reason,
)

ROOT = Path(__file__).parents[2]
BPF = ROOT / "mesh" / "link" / "bpf"
CLANGS = [c for c in (os.environ.get("CLANG"), *hatch_build.COMPILERS) if c and shutil.which(c)]

needs_clang = pytest.mark.skipif(not CLANGS, reason="needs clang")

CONSTANTS = {
    "LAYOUT": LAYOUT,
    "PEERS": layout.PEERS,
    "MACS": MAX_MACS,
    "SOURCES": MAX_SOURCES,
    "CHILDREN": MAX_CHILDREN,
    "ROUND": layout.ROUND,
    "HOPS": HOPS,
    "SLEEVE": SLEEVE,
    "FLOODS_A_SECOND": layout.FLOODS_A_SECOND,
    "FLOODS_AT_ONCE": layout.FLOODS_AT_ONCE,
    "REPORTS_A_SECOND": layout.REPORTS_A_SECOND,
    "REPORTS_AT_ONCE": layout.REPORTS_AT_ONCE,
    "ALLOW_FLOODS": layout.ALLOW_FLOODS,
    "ALLOW_REPORTS": layout.ALLOW_REPORTS,
    "ALLOWANCES": layout.ALLOWANCES,
    "OURS": layout.MARK,
    "UPCALL_UNKNOWN": layout.UPCALL_UNKNOWN,
    "BY_NOBODY": layout.BY_NOBODY,
    "BY_KERNEL": layout.BY_KERNEL,
    "BY_SLEEVE": layout.BY_SLEEVE,
    "TREE_TO_SLEEVE": layout.TREE_TO_SLEEVE,
    "TREE_NOT_HERE": layout.TREE_NOT_HERE,
    "GROUP_TREES": MAX_GROUP_TREES,
    "REPORT": Reason.REPORT,
    "CONTROL": Reason.CONTROL,
    "UNKNOWN": Reason.UNKNOWN,
    "BROADCAST": Reason.BROADCAST,
    "TRANSIT": Reason.TRANSIT,
    "SEND_CONTROL": layout.SEND_CONTROL,
    "DELIVER": layout.DELIVER,
    "SEND_ALONG_TREE": layout.SEND_ALONG_TREE,
    "ANSWERED": layout.ANSWERED,
    "UPCALLS": layout.UPCALLS,
    "TO_SLEEVE": layout.TO_SLEEVE,
    "TOTALS": layout.TOTALS,
}


def claims() -> list[str]:
    """Everything Python holds of the tables, as C that compiles only if C holds it too."""
    found = [f"{name} == {int(value)}" for name, value in CONSTANTS.items()]
    for name, struct in layout.STRUCTS.items():
        found.append(f"sizeof(struct {name}) == {ctypes.sizeof(struct)}")
        for field, *_ in struct._fields_:
            there = getattr(struct, field)
            found.append(f"offsetof(struct {name}, {field}) == {there.offset}")
            found.append(f"sizeof(((struct {name} *)0)->{field}) == {there.size}")
    for spec in layout.SPECS:
        numbers = {"type": spec.kind, "max_entries": spec.entries, "map_flags": spec.flags}
        found += [f"sizeof(*{spec.name}.{k}) / sizeof(int) == {int(v)}" for k, v in numbers.items()]
        found.append(f"sizeof(*{spec.name}.key) == {spec.key_size}")
        found.append(f"sizeof(*{spec.name}.value) == {spec.value_size}")
    kinds = {"HASH": Kind.HASH, "ARRAY": Kind.ARRAY}
    kinds |= {"PERCPU_ARRAY": Kind.PERCPU_ARRAY, "LRU_HASH": Kind.LRU_HASH}
    found += [f"BPF_MAP_TYPE_{name} == {int(kind)}" for name, kind in kinds.items()]
    return [*found, f"BPF_F_NO_PREALLOC == {NO_PREALLOC}"]


def check(lines: list[str]) -> str:
    """What the compiler says against these claims."""
    source = '#include "frames.h"\n' + "".join(f'_Static_assert({c}, "{c}");\n' for c in lines)
    command = [CLANGS[0], "-target", "bpf", *hatch_build.headers(), f"-I{BPF}"]
    done = subprocess.run(
        [*command, "-fsyntax-only", "-x", "c", "-"],
        input=source,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return "" if done.returncode == 0 else done.stderr


@needs_clang
def test_structs_tables_and_constants_are_the_same() -> None:
    assert len(claims()) > 120
    assert check(claims()) == ""


@needs_clang
def test_the_compiler_would_say_if_they_were_not() -> None:
    assert "static_assert failed" in check(["offsetof(struct route, by) == 4"])
    assert "static_assert failed" in check(["sizeof(*learned.value) == 4"])


def test_drops_stand_in_the_same_order() -> None:
    """Names are what is compared here, which the compiler does not see."""
    text = (BPF / "tables.h").read_text(encoding="utf-8")
    listed = re.findall(r"\bDROP_[A-Z_]+", text[: text.index("ANSWERED, UPCALLS")])
    named = {"UNDERLAY": "UNDERLAY_ERROR", "TAP": "TAP_REFUSED", "FLOOD": "FLOOD_LIMIT"}
    ours = [drop.name for drop in layout.DROPS]
    assert [named.get(n.removeprefix("DROP_"), n.removeprefix("DROP_")) for n in listed] == ours


def test_every_table_and_struct_of_the_header_is_compared() -> None:
    text = (BPF / "tables.h").read_text(encoding="utf-8")
    assert set(re.findall(r"^TABLE\((\w+),", text, re.MULTILINE)) == {s.name for s in layout.SPECS}
    assert set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE)) == set(layout.STRUCTS)


@pytest.mark.parametrize("name", hatch_build.PROGRAMS)
def test_objects_are_read(name: str) -> None:
    program = objects.read(name)
    assert program.licence == b"Apache-2.0"
    assert len(program.code) % 8 == 0
    assert {table for _, table in program.tables} <= {s.name for s in layout.SPECS}
    assert "config" in {table for _, table in program.tables}


def test_objects_that_are_not_ours_are_refused() -> None:
    whole = (objects.FOLDER / "copies.o").read_bytes()
    with pytest.raises(objects.BadObjectError):
        objects.parse("from_mesh", whole)  # another's name
    for size in (0, 3, 63, 64, 200, len(whole) // 2, len(whole) - 100):
        with pytest.raises(objects.BadObjectError):
            objects.parse("copies", whole[:size])
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        try:
            objects.parse("copies", bytes(damaged))
        except objects.BadObjectError:
            continue  # what is not refused here is the verifier's to judge


def test_every_source_is_built() -> None:
    sources = {p.stem for p in BPF.glob("*.c")}
    assert sources == set(hatch_build.PROGRAMS)
    assert {p.stem for p in objects.FOLDER.glob("*.o")} == sources

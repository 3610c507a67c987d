"""A compiled program: read from its ELF object, joined with tables, given to the kernel.

Our objects have one section of code each, maps as their only symbols from outside, no data, no
subprograms: everything else in them is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mesh.drivers.fastdp import bpf

FOLDER = Path(__file__).parents[2] / "link" / "bpf" / "objects"
EM_BPF = 247
SYMBOLS, RELOCATIONS = 2, 9
FUNCTION = 2
LOAD_IMMEDIATE = 0x18
RELOCATION = struct.Struct("<QQ")
SYMBOL = struct.Struct("<IBBHQQ")
SECTION = struct.Struct("<IIQQQQIIQQ")


class BadObjectError(Exception):
    """Not one of our objects."""


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    code: bytes
    tables: tuple[tuple[int, str], ...]
    """(offset in the code, table): where the tables' numbers belong."""
    licence: bytes

    def load(self, tables: Mapping[str, bpf.Map]) -> int:
        """Its file descriptor. Raises OSError."""
        code = bytearray(self.code)
        for at, name in self.tables:
            code[at + 1] = code[at + 1] & 0x0F | bpf.PSEUDO_MAP_FD << 4
            struct.pack_into("<i", code, at + 4, tables[name].fd)
        return bpf.load(self.name, bytes(code), self.licence)


def read(name: str, folder: Path = FOLDER) -> Program:
    """The program of ``bpf/<name>.c``. FileNotFoundError: it was not built."""
    return parse(name, (folder / f"{name}.o").read_bytes())


def parse(name: str, data: bytes) -> Program:
    """Raises BadObjectError, whatever the octets are."""
    try:
        return _parse(name, data)
    except (struct.error, IndexError, ValueError, KeyError, StopIteration) as err:
        raise BadObjectError(f"{name}: not a program of ours: {err}") from err


def _parse(name: str, data: bytes) -> Program:
    machine = struct.unpack_from("<H", data, 18)[0]
    if data[:6] != b"\x7fELF\x02\x01" or machine != EM_BPF:
        raise ValueError("no little-endian BPF ELF")
    start = struct.unpack_from("<Q", data, 40)[0]
    size, count, names_at = struct.unpack_from("<HHH", data, 58)
    sections = [SECTION.unpack_from(data, start + n * size) for n in range(count)]

    def text(table: int, offset: int) -> str:
        begin = sections[table][4] + offset
        return data[begin : data.index(b"\0", begin)].decode("ascii")

    def body(number: int) -> bytes:
        return data[sections[number][4] : sections[number][4] + sections[number][5]]

    by_name = {text(names_at, s[0]): n for n, s in enumerate(sections)}
    symbol_table = next(n for n, s in enumerate(sections) if s[1] == SYMBOLS)
    symbols = list(SYMBOL.iter_unpack(body(symbol_table)))
    strings = sections[symbol_table][6]
    code_section, maps_section = by_name["tc"], by_name[".maps"]
    code = body(code_section)
    functions = [s for s in symbols if s[3] == code_section and s[1] & 15 == FUNCTION]
    if [(text(strings, s[0]), s[4], s[5]) for s in functions] != [(name, 0, len(code))]:
        raise ValueError(f"its code is not one function {name}")
    tables = []
    for section in sections:
        if section[1] != RELOCATIONS or section[7] != code_section:
            continue
        for at, what in RELOCATION.iter_unpack(data[section[4] : section[4] + section[5]]):
            symbol = symbols[what >> 32]
            if symbol[3] != maps_section or code[at] != LOAD_IMMEDIATE:
                raise ValueError(f"it refers to {text(strings, symbol[0])!r}")
            tables.append((at, text(strings, symbol[0])))
    return Program(name, code, tuple(tables), body(by_name["license"]).rstrip(b"\0"))

"""bpf(2): maps and programs, by the system call itself.

No library that is kept offers maps, loading and a test run without bringing a compiler or a C
library of one version; what is needed is nine commands of one system call (docs/adr/0006).
Errors are OSError with the kernel's own number. Attributes are laid out as in linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path

NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "loongarch64": 280}
"""The system call's, on machines that are little-endian as our objects are."""

MAP_CREATE, LOOKUP, UPDATE, DELETE, GET_NEXT, PROG_LOAD = range(6)
TEST_RUN, PROG_BY_ID, MAP_BY_ID, OBJECT_INFO = 10, 13, 14, 15
LOOKUP_BATCH, UPDATE_BATCH = 24, 26
SCHED_CLS = 3
PSEUDO_MAP_FD = 1
LOG_SIZE = 1 << 18
BATCH = 1024
ENOTSUPP = 524
"""What the kernel answers, and errno does not name, for batches a kind of map has not."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_libc.syscall.restype = ctypes.c_long


class Kind(IntEnum):
    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LRU_HASH = 9


NO_PREALLOC = 1


@dataclass(frozen=True, slots=True)
class MapSpec:
    name: str
    kind: Kind
    key_size: int
    value_size: int
    entries: int
    flags: int = 0


def call(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Raises OSError, ENOSYS where the machine or its kernel has no such call."""
    number = NUMBERS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"no bpf(2) known for {platform.machine()}")
    result = _libc.syscall(number, command, attributes, len(attributes))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(result)


def _attributes(layout: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    octets = struct.pack("=" + layout, *values)
    return ctypes.create_string_buffer(octets, len(octets))


@cache
def processors() -> int:
    """How many the kernel may ever have: a per-CPU value is as many values."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return int(text.strip().split(",")[-1].split("-")[-1]) + 1


def lift_memory_limit() -> None:
    """Before Linux 5.11 maps counted against the locked memory of whoever made them."""
    try:
        infinity = resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (infinity, infinity))
    except (OSError, ValueError):
        return  # it may be enough as it is; if not, making the map says so


class Map:
    """One table of the kernel. Owns its file descriptor."""

    def __init__(self, fd: int, spec: MapSpec) -> None:
        self.fd, self.spec = fd, spec
        self._key = ctypes.create_string_buffer(spec.key_size)
        per_cpu = spec.kind is Kind.PERCPU_ARRAY
        size = (spec.value_size + 7) // 8 * 8 * processors() if per_cpu else spec.value_size
        self._value = ctypes.create_string_buffer(size)
        where = (ctypes.addressof(self._key), ctypes.addressof(self._value))
        # The same octets serve every call on one entry: only key and value change.
        self._entry = _attributes("IIQQQ", fd, 0, *where, 0)
        self._gone = _attributes("IIQQQ", fd, 0, where[0], 0, 0)

    @classmethod
    def create(cls, spec: MapSpec) -> Map:
        sizes = (spec.kind, spec.key_size, spec.value_size, spec.entries, spec.flags, 0, 0)
        attributes = _attributes("IIIIIII16s", *sizes, spec.name.encode())
        return cls(call(MAP_CREATE, attributes), spec)

    @classmethod
    def by_id(cls, number: int) -> Map:
        fd = call(MAP_BY_ID, _attributes("III", number, 0, 0))
        info = ctypes.create_string_buffer(40)
        try:
            call(OBJECT_INFO, _attributes("IIQ", fd, len(info), ctypes.addressof(info)))
        except OSError:
            os.close(fd)
            raise
        kind, _, key, value, entries, flags = struct.unpack_from("=6I", info)
        name = info.raw[24:40].rstrip(b"\0").decode("ascii", "replace")
        if kind not in list(Kind):
            os.close(fd)
            raise OSError(errno.EINVAL, f"map {name} is of kind {kind}, which we do not use")
        return cls(fd, MapSpec(name, Kind(kind), key, value, entries, flags))

    def close(self) -> None:
        os.close(self.fd)

    def set(self, key: bytes, value: bytes) -> None:
        self._key[:], self._value[:] = key, value  # type: ignore[call-overload]  # a char array
        call(UPDATE, self._entry)

    def get(self, key: bytes) -> bytes | None:
        self._key[:] = key  # type: ignore[call-overload]
        try:
            call(LOOKUP, self._entry)
        except FileNotFoundError:
            return None
        return self._value.raw

    def delete(self, key: bytes) -> bool:
        """Whether there was such an entry. Arrays have no deletion."""
        self._key[:] = key  # type: ignore[call-overload]
        try:
            call(DELETE, self._gone)
        except FileNotFoundError:
            return False
        return True

    def set_all(self, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Many entries in few calls."""
        keys, values = bytearray(), bytearray()
        for key, value in entries:
            keys += key
            values += value
        count = len(keys) // self.spec.key_size
        if not count:
            return
        k, v = (ctypes.create_string_buffer(bytes(b), len(b)) for b in (keys, values))
        where = (ctypes.addressof(k), ctypes.addressof(v))
        try:
            call(UPDATE_BATCH, _attributes("QQQQIIQQ", 0, 0, *where, count, self.fd, 0, 0))
        except OSError as err:
            if err.errno not in (errno.EINVAL, ENOTSUPP):
                raise
            for at in range(count):  # before Linux 5.6 there are no batches
                ks, vs = self.spec.key_size, self.spec.value_size
                self.set(bytes(keys[at * ks : at * ks + ks]), bytes(values[at * vs : at * vs + vs]))

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Every entry: what comes and goes meanwhile may be there or not."""
        try:
            yield from self._batches()
        except OSError as err:
            if err.errno not in (errno.EINVAL, ENOTSUPP):
                raise
            yield from self._one_by_one()

    def _batches(self) -> Iterator[tuple[bytes, bytes]]:
        ks, vs = self.spec.key_size, len(self._value)
        keys = ctypes.create_string_buffer(ks * BATCH)
        values = ctypes.create_string_buffer(vs * BATCH)
        place, after = (ctypes.create_string_buffer(max(8, ks)) for _ in range(2))
        started, ended = 0, False
        while not ended:
            where = (ctypes.addressof(b) for b in (after, keys, values))
            attributes = _attributes("QQQQIIQQ", started, *where, BATCH, self.fd, 0, 0)
            try:
                call(LOOKUP_BATCH, attributes)
            except FileNotFoundError:
                ended = True
            count = struct.unpack_from("=I", attributes, 32)[0]
            raw_keys, raw_values = keys.raw, values.raw
            for n in range(count):
                yield raw_keys[n * ks : n * ks + ks], raw_values[n * vs : n * vs + vs]
            ctypes.memmove(place, after, len(after))
            started = ctypes.addressof(place)

    def _one_by_one(self) -> Iterator[tuple[bytes, bytes]]:
        following = ctypes.create_string_buffer(self.spec.key_size)
        place = ctypes.create_string_buffer(self.spec.key_size)
        started = 0
        while True:
            where = (started, ctypes.addressof(following), 0)
            try:
                call(GET_NEXT, _attributes("IIQQQ", self.fd, 0, *where))
            except FileNotFoundError:
                return
            key = following.raw
            if (value := self.get(key)) is not None:
                yield key, value
            ctypes.memmove(place, following, len(place))
            started = ctypes.addressof(place)


def load(name: str, code: bytes, licence: bytes) -> int:
    """A program's file descriptor. OSError: with the end of what the verifier said."""
    code_buffer = ctypes.create_string_buffer(code, len(code))
    licence_buffer = ctypes.create_string_buffer(licence)
    log = ctypes.create_string_buffer(LOG_SIZE)

    def attributes(*, with_log: bool) -> ctypes.Array[ctypes.c_char]:
        said = (1, LOG_SIZE, ctypes.addressof(log)) if with_log else (0, 0, 0)
        where = (ctypes.addressof(code_buffer), ctypes.addressof(licence_buffer))
        start = (SCHED_CLS, len(code) // 8, *where, *said)
        return _attributes("IIQQIIQII16sII", *start, 0, 0, name.encode()[:15], 0, 0)

    try:
        return call(PROG_LOAD, attributes(with_log=False))
    except OSError as err:
        try:
            return call(PROG_LOAD, attributes(with_log=True))
        except OSError:
            said = log.value.decode("utf-8", "replace").strip().splitlines()[-3:]
            raise OSError(err.errno, "; ".join([os.strerror(err.errno or 0), *said])) from err


def maps_of(program: int) -> list[int]:
    """The ids of the maps that the program with this id uses."""
    fd = call(PROG_BY_ID, _attributes("III", program, 0, 0))
    try:
        ids = ctypes.create_string_buffer(4 * 64)
        info = ctypes.create_string_buffer(64)
        # linux/bpf.h struct bpf_prog_info: nr_map_ids at 52, map_ids at 56.
        struct.pack_into("=IQ", info, 52, 64, ctypes.addressof(ids))
        call(OBJECT_INFO, _attributes("IIQ", fd, len(info), ctypes.addressof(info)))
        count = struct.unpack_from("=I", info, 52)[0]
        return list(struct.unpack_from(f"={count}I", ids))
    finally:
        os.close(fd)


def id_of(program_fd: int) -> int:
    info = ctypes.create_string_buffer(8)
    call(OBJECT_INFO, _attributes("IIQ", program_fd, len(info), ctypes.addressof(info)))
    return int(struct.unpack_from("=I", info, 4)[0])


def run(program_fd: int, frame: bytes, context: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run an unattached program on a frame: its verdict, the frame and ``__sk_buff`` afterwards."""
    given = ctypes.create_string_buffer(frame, len(frame))
    out = ctypes.create_string_buffer(len(frame) + 256)
    before = ctypes.create_string_buffer(context, len(context)) if context else None
    after = ctypes.create_string_buffer(192)
    attributes = _attributes(
        "IIIIQQIIIIQQ",
        program_fd,
        0,
        len(given),
        len(out),
        ctypes.addressof(given),
        ctypes.addressof(out),
        1,
        0,
        len(context),
        len(after),
        ctypes.addressof(before) if before is not None else 0,
        ctypes.addressof(after),
    )
    call(TEST_RUN, attributes)
    verdict, size = struct.unpack_from("=I", attributes, 4)[0], attributes.raw[12:16]
    return int(verdict), out.raw[: struct.unpack("=I", size)[0]], after.raw

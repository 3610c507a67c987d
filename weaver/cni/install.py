"""Installing the CNI executables and a configuration, and removing them again.

The executables are of Python (``cni/shim.py``), or, where that is asked for and the wheel has them
for this machine, of C (``cni/shim.c``, built with it): the same answers, some milliseconds sooner.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import cni
from mesh.errors import OperatorError

PLUGINS = ("weaver-net", "weaver-ipam")
CONFLIST = "10-weaver.conflist"
USUAL_INTERPRETER = Path("/usr/bin/python3")
MAX_SHEBANG = 250
"""Octets of a first line that Linux reads to its end."""

MAX_SOCKET = 107
"""Octets of a socket's path that the kernel takes."""

FORMER_CONFLISTS = frozenset({"65be3b25ffb80d54c2c06046b8dfcdbea66b3ea3bcd4cc7f8d7c39228d3c823c"})
"""SHA-256 of what former versions wrote: nobody's own configuration."""

_SOCKET = 'SOCKET = "/run/weaver/cni.sock"'
_PLUGIN = 'PLUGIN = "weaver-net"'
_MARK = b'"""The CNI executable, as it is installed'
_NATIVE_MARK = b"@weaver-cni-exe\0"


def conflist() -> str:
    """The configuration: our network first, Debian's portmap behind it for published ports.

    Hairpin: where br_netfilter is loaded, what a pod sends to a service of its own, or to a port
    that it published, is bridged back to it and never routed.
    """
    plugins = [
        {
            "type": "weaver-net",
            "ipam": {"type": "weaver-ipam"},
            "isDefaultGateway": True,
            "hairpinMode": True,
            "capabilities": {"bandwidth": True},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ]
    config = {"cniVersion": "1.0.0", "name": "weaver", "plugins": plugins}
    return json.dumps(config, indent=2) + "\n"


def interpreter() -> Path:
    """The binary that runs us, by a name that survives its updates.

    Never a version manager's wrapper script, which costs more than the whole call, nor a virtual
    environment, which may be gone tomorrow: the executables need nothing that it has.
    """
    real = Path(sys.executable).resolve()
    usual = USUAL_INTERPRETER
    return usual if usual.exists() and usual.resolve() == real else real


def executable(plugin: str, socket: Path, python: Path | None = None) -> bytes:
    """One executable, of Python. Raises OperatorError "cannot-install"."""
    _check_socket(socket)
    python = python or interpreter()
    shebang = f"#!{python} -IS\n"
    if len(shebang) > MAX_SHEBANG or any(c.isspace() for c in str(python)):
        raise OperatorError(f"{python} cannot stand in a first line", "cannot-install")
    source = (Path(cni.__file__).parent / "shim.py").read_text()
    for line, value in ((_SOCKET, str(socket)), (_PLUGIN, plugin)):
        assert source.count(line) == 1, line
        source = source.replace(line, f"{line.split(' ')[0]} = {json.dumps(value)}")
    return (shebang + source).encode()


def native_executable(plugin: str, socket: Path) -> bytes:
    """One executable, of C, that this machine can run. Raises OperatorError "cannot-install", or
    "no-native-executable": none was built with this weaver, or for another kind of machine."""
    _check_socket(socket)
    shim = Path(cni.__file__).parent / f"shim-{platform.machine()}"
    try:
        done = subprocess.run([shim], env={}, capture_output=True, timeout=10, check=False)  # noqa: S603  # ours
        works = done.returncode == 0 and done.stderr.startswith(b"CNI plugin ")
        data = shim.read_bytes()
    except (OSError, subprocess.TimeoutExpired):
        works, data = False, b""
    if not works or data.count(_NATIVE_MARK) != 1:
        raise OperatorError(
            f"this weaver was built without CNI executables for {platform.machine()};"
            " without --native those of Python are installed",
            "no-native-executable",
        )
    # What struct ``installed`` of cni/shim.c has room for.
    at = data.index(_NATIVE_MARK) + len(_NATIVE_MARK)
    named = os.fsencode(socket).ljust(112, b"\0") + plugin.encode().ljust(32, b"\0")
    return data[:at] + named + data[at + len(named) :]


def _check_socket(socket: Path) -> None:
    if len(os.fsencode(socket)) > MAX_SOCKET:
        raise OperatorError(
            f"{socket}: a socket's path has {MAX_SOCKET} octets at most", "cannot-install"
        )


def install(
    plugins: Path,
    conf: Path | None,
    socket: Path,
    python: Path | None = None,
    *,
    native: bool = False,
) -> list[str]:
    """Write everything, each file whole; a configuration that is there stays. What was done."""
    done = []
    socket = socket.absolute()
    made = {
        name: native_executable(name, socket) if native else executable(name, socket, python)
        for name in PLUGINS
    }
    try:
        plugins.mkdir(parents=True, exist_ok=True)
        for name, data in made.items():
            _write(plugins / name, data, 0o755)
            done.append(f"installed {plugins / name}")
        if conf is None:
            return done
        conf.mkdir(parents=True, exist_ok=True)
        target = conf / CONFLIST
        if target.exists() and not _is_former(target):
            done.append(f"kept {target}")
        else:
            _write(target, conflist().encode(), 0o644)
            done.append(f"installed {target}")
    except OSError as err:
        raise OperatorError(f"{err.filename}: {err.strerror}", "cannot-install") from err
    return done


def remove(plugins: Path, conf: Path) -> list[str]:
    """Remove what ``install`` wrote; what is not ours, or was edited, stays. What was done."""
    done = []
    try:
        for path in (*(plugins / name for name in PLUGINS), conf / CONFLIST):
            if not path.exists():
                continue
            data = path.read_bytes()
            if path.name == CONFLIST:
                ours = data == conflist().encode() or _is_former(path)
            else:
                ours = _MARK in data[:4096] or _NATIVE_MARK in data
            if not ours:
                done.append(f"kept {path}: weaver did not write it as it is")
                continue
            path.unlink()
            done.append(f"removed {path}")
    except OSError as err:
        raise OperatorError(f"{err.filename}: {err.strerror}", "cannot-install") from err
    return done


def _is_former(path: Path) -> bool:
    return sha256(path.read_bytes()).hexdigest() in FORMER_CONFLISTS


def _write(path: Path, data: bytes, mode: int) -> None:
    """A runtime that looks meanwhile sees the old file or the new one, never half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.chmod(mode)
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()

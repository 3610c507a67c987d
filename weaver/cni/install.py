"""Installing the CNI executables and a configuration, and removing them again."""

from __future__ import annotations

import contextlib
import json
import os
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

FORMER_CONFLISTS = frozenset({"65be3b25ffb80d54c2c06046b8dfcdbea66b3ea3bcd4cc7f8d7c39228d3c823c"})
"""SHA-256 of what former versions wrote: nobody's own configuration."""

_SOCKET = 'SOCKET = "/run/weaver/cni.sock"'
_PLUGIN = 'PLUGIN = "weaver-net"'
_MARK = '"""The CNI executable, as it is installed'


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


def executable(plugin: str, socket: Path, python: Path | None = None) -> str:
    """The text of one executable. Raises OperatorError "cannot-install"."""
    python = python or interpreter()
    shebang = f"#!{python} -IS\n"
    if len(shebang) > MAX_SHEBANG or any(c.isspace() for c in str(python)):
        raise OperatorError(f"{python} cannot stand in a first line", "cannot-install")
    if len(os.fsencode(socket)) > 107:
        raise OperatorError(f"{socket}: a socket's path has 107 octets at most", "cannot-install")
    source = (Path(cni.__file__).parent / "shim.py").read_text()
    for line, value in ((_SOCKET, str(socket)), (_PLUGIN, plugin)):
        assert source.count(line) == 1, line
        source = source.replace(line, f"{line.split(' ')[0]} = {json.dumps(value)}")
    return shebang + source


def install(
    plugins: Path, conf: Path | None, socket: Path, python: Path | None = None
) -> list[str]:
    """Write everything, each file whole; a configuration that is there stays. What was done."""
    done = []
    try:
        plugins.mkdir(parents=True, exist_ok=True)
        for name in PLUGINS:
            _write(plugins / name, executable(name, socket.absolute(), python), 0o755)
            done.append(f"installed {plugins / name}")
        if conf is None:
            return done
        conf.mkdir(parents=True, exist_ok=True)
        target = conf / CONFLIST
        if target.exists() and not _is_former(target):
            done.append(f"kept {target}")
        else:
            _write(target, conflist(), 0o644)
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
            text = path.read_text(errors="replace")
            if path.name == CONFLIST:
                ours = text == conflist() or _is_former(path)
            else:
                ours = _MARK in text[:4096]
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


def _write(path: Path, text: str, mode: int) -> None:
    """A runtime that looks meanwhile sees the old file or the new one, never half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.chmod(mode)
        os.replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()

"""Installing the CNI executables and a configuration, and removing them again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cni
from mesh.errors import OperatorError

PLUGINS = ("weaver-net", "weaver-ipam")
CONFLIST = "10-weaver.conflist"
INTERPRETER = "/usr/bin/python3"
"""The real interpreter: a version manager's wrapper script costs more than the whole call."""


def conflist() -> str:
    plugins = [
        {"type": "weaver-net", "ipam": {"type": "weaver-ipam"}, "isDefaultGateway": True},
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
    ]
    config = {"cniVersion": "1.0.0", "name": "weaver", "plugins": plugins}
    return json.dumps(config, indent=2) + "\n"


def executable(plugin: str, socket: Path) -> str:
    """The text of one executable."""
    source = (Path(cni.__file__).parent / "shim.py").read_text()
    source = source.replace(
        'SOCKET = "/run/weaver/cni.sock"', f"SOCKET = {json.dumps(str(socket))}"
    )
    source = source.replace('PLUGIN = "weaver-net"', f"PLUGIN = {json.dumps(plugin)}")
    return f"#!{INTERPRETER} -IS\n{source}"


def install(plugins: Path, conf: Path | None, socket: Path) -> list[str]:
    """Write everything, each file whole; a configuration that is there stays. What was done."""
    done = []
    try:
        plugins.mkdir(parents=True, exist_ok=True)
        for name in PLUGINS:
            _write(plugins / name, executable(name, socket), 0o755)
            done.append(f"installed {plugins / name}")
        if conf is None:
            return done
        conf.mkdir(parents=True, exist_ok=True)
        target = conf / CONFLIST
        if target.exists():
            done.append(f"kept {target}")
        else:
            _write(target, conflist(), 0o644)
            done.append(f"installed {target}")
    except OSError as err:
        raise OperatorError(f"{err.filename}: {err.strerror}", "cannot-install") from err
    return done


def remove(plugins: Path, conf: Path) -> list[str]:
    """Remove what ``install`` wrote; a configuration that was edited stays."""
    done = []
    for path in (*(plugins / name for name in PLUGINS), conf / CONFLIST):
        if not path.exists():
            continue
        if path.name == CONFLIST and path.read_text() != conflist():
            done.append(f"kept {path}: it was edited")
            continue
        path.unlink()
        done.append(f"removed {path}")
    return done


def _write(path: Path, text: str, mode: int) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.chmod(mode)
    os.replace(new, path)

"""Compile the fast path's programs and the CNI executable: a hook of the wheel's build, and what
`make` runs.

They are the same octets on every machine (little-endian BPF, no kernel headers of one version), so
a wheel built anywhere serves everywhere. WEAVER_WITHOUT_FASTDP=1 builds without them, and without
clang: such a weaver says `programs-not-built` and uses the sleeve. The CNI executable is of the
machine that built it and left out where no compiler is; hosts of another kind, and wheels without
it, have the one in Python.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by make, outside of a build
    BuildHookInterface = object

PROGRAMS = ("to_mesh", "from_mesh", "copies", "from_sleeve", "from_user")
COMPILERS = ("clang", "clang-19", "clang-16", "clang-15", "clang-14")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v2")
NATIVE_COMPILERS = ("cc", "gcc", *COMPILERS)
# Static: it runs on hosts with another C library, too.
NATIVE_FLAGS = (
    "-D_GNU_SOURCE",
    "-std=gnu11",
    "-O2",
    "-static",
    "-s",
    "-Wall",
    "-Wextra",
    "-Werror",
)


def headers() -> list[str]:
    """Debian keeps the headers of a machine in a folder of its own, which the target bpf lacks."""
    folder = Path(f"/usr/include/{platform.machine()}-linux-gnu")
    return [f"-I{folder}"] if folder.is_dir() else []


def compiler() -> str:
    for name in (os.environ.get("CLANG"), *COMPILERS):
        if name and shutil.which(name):
            return name
    raise SystemExit(
        "clang is needed to build the fast path's programs (Debian: clang-14 libbpf-dev);"
        " WEAVER_WITHOUT_FASTDP=1 builds without them"
    )


def build(root: Path) -> list[Path]:
    """The objects, made anew where a source is newer."""
    folder = root / "mesh" / "link" / "bpf"
    objects = folder / "objects"
    objects.mkdir(exist_ok=True)
    newest = max(p.stat().st_mtime for p in folder.iterdir() if p.suffix in (".c", ".h"))
    made = []
    for name in PROGRAMS:
        target = objects / f"{name}.o"
        made.append(target)
        if target.exists() and target.stat().st_mtime >= newest:
            continue
        beside = objects / f"{name}.{os.getpid()}"
        source = folder / f"{name}.c"
        command = [compiler(), *FLAGS, *headers(), "-c", str(source), "-o", str(beside)]
        subprocess.run(command, check=True)  # noqa: S603  # our own sources
        beside.replace(target)
    return made


def build_shim(root: Path) -> list[Path]:
    """The CNI executable of this kind of machine, made anew where its source is newer; nothing
    where it cannot be made."""
    source, target = root / "cni" / "shim.c", root / "cni" / f"shim-{platform.machine()}"
    if target.exists() and target.stat().st_mtime >= source.stat().st_mtime:
        return [target]
    beside = target.with_name(f"{target.name}.{os.getpid()}")
    for name in (os.environ.get("CC"), *NATIVE_COMPILERS):
        if name and shutil.which(name):
            command = [name, *NATIVE_FLAGS, str(source), "-o", str(beside)]
            if subprocess.run(command, check=False).returncode == 0:  # noqa: S603  # our own source
                beside.replace(target)
                return [target]
    print(f"no {target.name}: CNI's executables will need Python", file=sys.stderr)  # noqa: T201
    return []


class FastdpBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling has no types here
    """Named in pyproject.toml."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        made = build_shim(root)
        if os.environ.get("WEAVER_WITHOUT_FASTDP") != "1":
            made += build(root)
        build_data["artifacts"] += [str(p.relative_to(root)) for p in made]


if __name__ == "__main__":
    for made in build(Path(__file__).parent) + build_shim(Path(__file__).parent):
        made.touch()  # make compares it with every source
    sys.exit(0)

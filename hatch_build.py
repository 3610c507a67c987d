"""Compile the fast path's programs: a hook of the wheel's build, and what `make` runs.

They are the same octets on every machine (little-endian BPF, no kernel headers of one version), so
a wheel built anywhere serves everywhere. WEAVER_WITHOUT_FASTDP=1 builds without them, and without
clang: such a weaver says `programs-not-built` and uses the sleeve.
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


class FastdpBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling has no types here
    """Named in pyproject.toml."""

    def initialize(self, _version: str, build_data: dict[str, Any]) -> None:
        if os.environ.get("WEAVER_WITHOUT_FASTDP") != "1":
            root = Path(self.root)
            made = build(root)
            build_data["artifacts"] += [str(p.relative_to(root)) for p in made]


if __name__ == "__main__":
    build(Path(__file__).parent)
    sys.exit(0)

"""Weaver's image, as deploy/Dockerfile says, of what this machine can get: no registry of images.

The base is made by mmdebstrap of the packages that the Dockerfile names, once; the layer above it
is the virtual environment, anew each time.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from pathlib import Path

from tests.e2e.image import Image, write_archive

REPOSITORY = Path(__file__).parents[2]
REFERENCE = "docker.io/library/weaver:latest"
PLACE = "/opt/weaver"

_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")


class Dockerfile:
    """What of deploy/Dockerfile is done here in another way."""

    def __init__(self, text: str) -> None:
        last = text.replace("\\\n", " ").rpartition("\nFROM ")[2]
        self.suite = "bookworm"
        found = re.search(r"apt-get install -y --no-install-recommends ([^&\n]+)", last)
        assert found is not None
        assert f" {PLACE} {PLACE}\n" in last, "the virtual environment is elsewhere"
        self.packages = found[1].split()
        self.entrypoint: list[str] = json.loads(
            re.findall(r"^ENTRYPOINT (.*)$", last, re.MULTILINE)[0]
        )
        self.environment: list[str] = re.findall(r"^ENV (.*)$", last, re.MULTILINE)


def weaver_image(cache: Path, out: Path) -> Path:
    """The image's file."""
    said = Dockerfile((REPOSITORY / "deploy/Dockerfile").read_text())
    write_archive(
        out,
        Image(
            REFERENCE,
            layers=[_base(said, cache).read_bytes(), _environment(cache).read_bytes()],
            entrypoint=said.entrypoint,
            environment=said.environment,
        ),
    )
    return out


def _base(said: Dockerfile, cache: Path) -> Path:
    wanted = " ".join([said.suite, *said.packages])
    base = cache / f"base-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}.tar"
    if not base.exists():
        new = base.with_suffix(".new.tar")
        sources = Path("/etc/apt/sources.list.d/debian.sources")
        subprocess.run(
            [
                *("mmdebstrap", "--quiet", "--mode=root", "--variant=essential"),
                *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
                f"--include={','.join(said.packages)}",
                *(said.suite, str(new)),
                *([str(sources)] if sources.exists() else []),
            ],
            check=True,
        )
        new.rename(base)
    return base


def _environment(cache: Path) -> Path:
    """The virtual environment at its place, which only the command here sees."""
    made, layer = cache / "environment", cache / "environment.tar"
    script = """
    set -eu
    mkdir -p "$1" "$4"
    mount --bind "$1" "$4"
    test -x "$4/bin/python" || /usr/bin/python3 -m venv "$4"
    "$4/bin/pip" install -q --disable-pip-version-check "$2"
    "$4/bin/pip" install -q --disable-pip-version-check --force-reinstall --no-deps "$2"
    tar -C / -cf "$3" "${4#/}"
    """
    place = Path(PLACE)
    strange = not place.exists()
    alone = ("unshare", "--mount", "--propagation=private", "sh", "-c", script, "environment")
    try:
        subprocess.run([*alone, str(made), str(REPOSITORY), str(layer), PLACE], check=True)
    finally:
        if strange and place.exists():
            place.rmdir()
    return layer

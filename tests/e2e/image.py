"""A container image made of one static busybox: no registry is asked for anything."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

REFERENCE = "docker.io/library/weaver-busybox:local"
EPOCH = "1970-01-01T00:00:00Z"


def busybox_image(out: Path, reference: str = REFERENCE, *command: str) -> Path:
    """The machine's own static busybox as an image that runs a command; its file."""
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    write_image(Path(busybox), applets.stdout.split(), out, reference, command or ("/bin/sh",))
    return out


def write_image(
    busybox: Path, applets: list[str], out: Path, reference: str, command: Sequence[str]
) -> None:
    """A docker-archive, as ``ctr images import`` reads it; the same octets every time."""
    layer = _layer(busybox, applets)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": EPOCH,
            "config": {"Cmd": [*command], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}"]},
            "history": [{"created": EPOCH, "created_by": "weaver's tests"}],
        }
    ).encode()
    name = f"{_digest(config)}.json"
    path = f"{_digest(layer)}/layer.tar"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": [path]}]).encode()
    with tarfile.open(out, "w") as archive:
        for member, octets in ((name, config), (path, layer), ("manifest.json", manifest)):
            _add(archive, member, octets, 0o644)


def _layer(busybox: Path, applets: list[str]) -> bytes:
    """The root file system: busybox under all its names."""
    octets = io.BytesIO()
    with tarfile.open(fileobj=octets, mode="w") as layer:
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(directory)
        _add(layer, "bin/busybox", busybox.read_bytes(), 0o755)
        _add(layer, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)
        for name in sorted({*applets} - {"busybox"}):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)
    return octets.getvalue()


def _add(archive: tarfile.TarFile, name: str, octets: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(octets), mode
    archive.addfile(member, io.BytesIO(octets))


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()

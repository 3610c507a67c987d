"""A container image made of one static busybox: no registry is asked for anything."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REFERENCE = "docker.io/library/weaver-busybox:local"
EPOCH = "1970-01-01T00:00:00Z"


def busybox_image(out: Path, reference: str = REFERENCE, *command: str) -> Path:
    """The machine's own static busybox as an image that runs a command; its file."""
    applets = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    layer = _layer(Path(busybox), applets.stdout.split())
    write_archive(out, Image(reference, [layer], command or ("/bin/sh",)))
    return out


@dataclass(frozen=True, slots=True)
class Image:
    """``layers``: tar files, the lowest first."""

    reference: str
    layers: Sequence[bytes]
    command: Sequence[str] = ()
    entrypoint: Sequence[str] = ()
    environment: Sequence[str] = ("PATH=/bin",)


def write_archive(out: Path, image: Image) -> None:
    """A docker-archive, as ``ctr images import`` reads it; the same octets every time."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": EPOCH,
            "config": {
                "Cmd": [*image.command],
                "Entrypoint": [*image.entrypoint],
                "Env": [*image.environment],
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{_digest(layer)}" for layer in image.layers],
            },
            "history": [{"created": EPOCH, "created_by": "weaver's tests"} for _ in image.layers],
        }
    ).encode()
    name = f"{_digest(config)}.json"
    paths = [f"{_digest(layer)}/layer.tar" for layer in image.layers]
    manifest = json.dumps([{"Config": name, "RepoTags": [image.reference], "Layers": paths}])
    members = [(name, config), *zip(paths, image.layers, strict=True)]
    with tarfile.open(out, "w") as archive:
        for member, octets in (*members, ("manifest.json", manifest.encode())):
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

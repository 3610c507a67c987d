"""Deletions that came while the daemon was down: one file each, written by the executables."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from weaver.cni import frame
from weaver.cni.config import MAX_STDIN
from weaver.cni.errors import CniError

log = logging.getLogger(__name__)

DIRECTORY = "cni-del"
MAX_NAME = 255
MAX_FILE = frame.HEAD + frame.MAX_ENVIRON + MAX_STDIN


class Spool:
    """The directory beside the socket. Files that are no whole DEL are removed unread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def prepare(self) -> None:
        """Make the directory, for root only: what lies in it is carried out.

        What an executable was killed over is not whole, and nobody was told that it is done.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        for torn in self.directory.glob(".*"):
            torn.unlink(missing_ok=True)

    def __iter__(self) -> Iterator[tuple[str, dict[str, str], bytes]]:
        """(file name, environment, configuration) of each, oldest first."""
        try:
            entries = [e for e in os.scandir(self.directory) if not e.name.startswith(".")]
        except FileNotFoundError:
            return
        aged = sorted((e.stat(follow_symlinks=False).st_mtime_ns, e.name) for e in entries)
        for _, name in aged:
            if (found := self.read(name)) is not None:
                yield name, *found

    def read(self, name: str) -> tuple[dict[str, str], bytes] | None:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            with open(os.open(self.directory / name, flags), "rb") as file:
                environ, stdin = frame.split(file.read(MAX_FILE + 1))
        except FileNotFoundError:
            return None
        except (OSError, CniError) as err:
            log.warning("spooled DEL refused", extra={"reason": "spool-malformed", "file": name})
            log.debug("spooled DEL refused", extra={"error": str(err)})
            self.drop(name)
            return None
        if environ.get("CNI_COMMAND") != "DEL":
            self.drop(name)
            return None
        return environ, stdin

    def drop(self, name: str) -> None:
        (self.directory / name).unlink(missing_ok=True)


def file_name(container: str, ifname: str) -> str | None:
    """As the executables name a deletion's file; None for what they leave none of."""
    name = f"{container},{ifname}"
    fits = "/" not in name and "\0" not in name and name[0] not in ".,"
    return name if fits and len(name.encode(errors="replace")) <= MAX_NAME else None

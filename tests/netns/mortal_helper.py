"""The device helper, of which a test says at which call into the kernel it dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mesh.drivers.netlink import Netlink
from weaver.daemon import nethelper

CALLS = ("link", "ensure_bridge", "enslave", "add_veth", "delete", "set_up", "prepare",
         "add_address", "add_route", "set_hairpin", "shape", "has_default")  # fmt: skip


class Steps:
    """Counts while a file is there, and kills us at the step whose number it holds."""

    def __init__(self, file: Path) -> None:
        self._file, self._count = file, 0

    def step(self) -> None:
        if not self._file.exists():
            self._count = 0
            return
        self._count += 1
        if self._count < int(self._file.read_text()):
            return
        if (self._file.parent / "helper-takes-along").exists():
            os.kill(os.getppid(), signal.SIGKILL)
        else:
            self._file.unlink()  # the next one lives
        os.kill(os.getpid(), signal.SIGKILL)


class MortalNetlink(Netlink):
    """Steps before each of its calls."""


def _stepping(call: Callable[..., Any], steps: Steps) -> Callable[..., Any]:
    def called(*args: object, **named: object) -> Any:
        steps.step()
        return call(*args, **named)

    return called


if __name__ == "__main__":
    counted = Steps(Path(os.environ["WEAVER_TEST_DIRECTORY"]) / "helper-dies-at")
    for name in CALLS:
        setattr(MortalNetlink, name, _stepping(getattr(Netlink, name), counted))
    vars(nethelper)["Netlink"] = MortalNetlink
    nethelper.serve()

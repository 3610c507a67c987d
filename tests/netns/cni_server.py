"""A host for CNI tests, run inside its namespace: the real server, attacher, helper and kernel.

Only the allocator is small: one dictionary in a file, so that it survives this process. Files in
the directory steer it: ``not-ready``, ``cannot-allocate``, ``ipam-fails`` hold a reason,
``ipam-waits`` makes allocations wait until the file is gone; ``dies-at`` holds a step at which
this process is killed, ``helper-dies-at`` one at which its helper is; with ``helper-takes-along``
it kills this one too; while ``mends`` is there, rules for NAT are looked after.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ipam.address import Address, AddressRange
from ipam.effects import AllocationKey
from mesh.drivers.tap import open_tap
from mesh.errors import OperatorError
from tests.netns.mortal_helper import Steps
from weaver.cni.server import CniServer
from weaver.daemon import network as network_module
from weaver.daemon.attach import BRIDGE, Attacher, AttachmentStore
from weaver.daemon.network import Network
from weaver.daemon.pools import Pool, Pools

RANGE = AddressRange.parse("10.32.0.0/12")
TAP = "weave-sleeve"


class FileIpam:
    """Lowest free address first; a key always gets its own again."""

    def __init__(self, directory: Path) -> None:
        self._directory, self._file = directory, directory / "leases.json"
        self.leases: dict[str, int] = {}
        if self._file.exists():
            self.leases = json.loads(self._file.read_text())

    async def allocate(self, key: AllocationKey) -> Address:
        await self._obey()
        held = self.leases.get(_text(key))
        if held is not None:
            return Address(held)
        taken = set(self.leases.values())
        return self._give(key, next(n for n in range(RANGE.start + 1, RANGE.end) if n not in taken))

    async def claim(self, key: AllocationKey, address: Address, *, force: bool = False) -> Address:
        await self._obey()
        holder = next((k for k, n in self.leases.items() if n == address), None)
        if holder not in (None, _text(key)):
            raise OperatorError(f"{RANGE.text(address)} is in use", "address-in-use")
        return self._give(key, address)

    async def free(self, key: AllocationKey) -> Address | None:
        freed = self.leases.pop(_text(key), None)
        self._save()
        return None if freed is None else Address(freed)

    def holds(self, key: AllocationKey) -> bool:
        return _text(key) in self.leases

    async def _obey(self) -> None:
        fails = self._directory / "ipam-fails"
        if fails.exists():
            reason = fails.read_text()
            raise OperatorError(f"ipam refused: {reason}", reason)
        while (self._directory / "ipam-waits").exists():  # noqa: ASYNC110  # see below
            await asyncio.sleep(0.01)  # the condition is a file's, whom nobody can await

    def _give(self, key: AllocationKey, number: int) -> Address:
        self.leases[_text(key)] = number
        self._save()
        return Address(number)

    def _save(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self.leases))
        new.replace(self._file)


def _text(key: AllocationKey) -> str:
    return f"{key.container},{key.interface}"


class Mortal:
    """A port, before and after each of whose methods we may be killed."""

    def __init__(self, port: object, steps: Steps) -> None:
        vars(self).update(_port=port, _steps=steps)

    def __setattr__(self, name: str, value: object) -> None:
        self._steps.step()
        setattr(self._port, name, value)
        self._steps.step()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if not callable(found):
            return found
        if asyncio.iscoroutinefunction(found):
            return self._awaited(found)

        def called(*args: object, **named: object) -> object:
            self._steps.step()
            result = found(*args, **named)
            self._steps.step()
            return result

        return called

    def _awaited(self, found: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def called(*args: object, **named: object) -> object:
            self._steps.step()
            result = await found(*args, **named)
            self._steps.step()
            return result

        return called


async def _mend(attacher: Attacher, wanted: Path) -> None:
    """What the daemon does every few seconds, while a file is there."""
    while True:
        if wanted.exists():  # noqa: ASYNC240  # one look
            await attacher.mend_rules()
        await asyncio.sleep(0.1)


async def serve(directory: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    tap = open_tap(TAP)
    network_module.HELPER = "tests.netns.mortal_helper"
    os.environ["WEAVER_TEST_DIRECTORY"] = str(directory)
    network = Network()
    await network.do(
        "setup",
        bridge=BRIDGE,
        tap=TAP,
        mtu=1420,
        mac="02:00:00:00:00:01",
        fastdp="weave-fastdp",
        by_kernel=False,
    )
    store = AttachmentStore(directory / "attachments.db")
    steps = Steps(directory / "dies-at")
    mortal: list[Any] = [Mortal(port, steps) for port in (FileIpam(directory), network, store)]
    attacher = Attacher(Pools([Pool(RANGE, mortal[0])]), mortal[1], mortal[2], 1420)
    await attacher.reconcile()

    def reason(name: str) -> str | None:
        file = directory / name
        return file.read_text() if file.exists() else None

    server = CniServer(
        attacher,
        lambda: reason("not-ready"),
        lambda: reason("not-ready") or reason("cannot-allocate"),
    )
    await server.start(directory / "run" / "cni.sock")
    mending = asyncio.ensure_future(_mend(attacher, directory / "mends"))
    await stop.wait()
    mending.cancel()
    await server.close()
    await network.close()
    store.close()
    os.close(tap)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(Path(sys.argv[1])))

"""The daemon's side of the device helper: one request at a time, started again when it dies."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from mesh.errors import OperatorError

log = logging.getLogger(__name__)

TIMEOUT = 20.0
"""Seconds for one request: a loaded machine's RCU waits are the longest part."""

MAX_ANSWER = 1024 * 1024
"""Octets of one answer: the names of more devices than a host can have."""

BRIDGE = "weave"
HELPER = "weaver.daemon.nethelper"

Route = tuple[str, str | None]
"""Destination as CIDR, and the gateway; None for what is on the link itself."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What an interface may carry: bits a second towards the pod (ingress) and from it, and bits
    at once. A rate of 0: any."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


UNBOUND = Shape()

MIN_RATE, MAX_RATE = 8_000, (1 << 64) - 1
"""Bits a second, and bits at once: less than the first is no network; runtimes say "any" with the
largest number they have."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """One attachment as the kernel is told of it. ``mac`` None lets the kernel choose."""

    netns: str
    ifname: str
    host: str
    mtu: int
    mac: str | None
    addresses: tuple[str, ...]
    routes: tuple[Route, ...]
    hairpin: bool = False
    shape: Shape = UNBOUND


@dataclass(frozen=True, slots=True)
class Wired:
    """What became of it: ``routes`` lacks a default route that another interface has already."""

    mac: str
    host_mac: str
    routes: tuple[Route, ...]


class HelperDiedError(OperatorError):
    """It ended before it answered."""


class NetworkPort(Protocol):
    """Devices of the host and of pods. Methods raise OperatorError with a stable reason."""

    async def attach(self, wiring: Wiring) -> Wired:
        """Make it, replacing what a crash left of it."""

    async def shape(self, wiring: Wiring) -> None:
        """Bound what it carries as the wiring says now."""

    async def resize(self, wiring: Wiring) -> None:
        """Give its pod's end the MTU that the wiring says now."""

    async def check(self, wiring: Wiring) -> list[str]:
        """What is wrong with it, in sentences."""

    def differ(self, one: str, other: str) -> bool:
        """Whether two paths name namespaces that both live, and are not the same."""

    async def delete(self, hosts: Sequence[str]) -> None:
        """Delete those host ends that there are."""

    async def present(self, hosts: Collection[str]) -> frozenset[str]:
        """Which of those host ends there are; nothing is touched."""

    async def adopt(self, hosts: Sequence[str], hairpins: Sequence[str] = ()) -> frozenset[str]:
        """Put those host ends that live back on the bridge; which they are. ``hairpins``: those
        of them that hear themselves."""

    async def expose(
        self, addresses: Sequence[str], ranges: Sequence[str], plain: Sequence[str] = ()
    ) -> None:
        """Give the bridge addresses, and pods of the ranges a way out through this host: with its
        address but for the ``plain`` ones, who keep theirs."""

    async def mend_rules(
        self, ranges: Sequence[str], plain: Sequence[str], *, exposed: bool
    ) -> str | None:
        """See that pods' way out, if they have one, is as it was made, and that nobody drops what
        they say to each other; make it so if not: what was wrong."""

    async def hide(self, addresses: Sequence[str]) -> None: ...


class Network:
    """The production NetworkPort."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._lock = asyncio.Lock()

    async def attach(self, wiring: Wiring) -> Wired:
        done = await self.do("attach", **_plain(wiring))
        routes = tuple((to, via) for to, via in done["routes"])
        return Wired(done["mac"], done["host_mac"], routes)

    async def shape(self, wiring: Wiring) -> None:
        await self.do("shape", **_plain(wiring))

    async def resize(self, wiring: Wiring) -> None:
        await self.do("resize", **_plain(wiring))

    async def check(self, wiring: Wiring) -> list[str]:
        wrong: list[str] = (await self.do("check", **_plain(wiring)))["wrong"]
        return wrong

    def differ(self, one: str, other: str) -> bool:
        try:
            first, second = os.stat(one), os.stat(other)
        except (OSError, ValueError):
            return False
        namespaces = os.stat("/proc/self/ns/net").st_dev
        if not first.st_dev == second.st_dev == namespaces:
            return False
        return first.st_ino != second.st_ino

    async def delete(self, hosts: Sequence[str]) -> None:
        await self.do("delete", names=list(hosts))

    async def present(self, hosts: Collection[str]) -> frozenset[str]:
        return frozenset((await self.do("present", names=list(hosts)))["there"])

    async def adopt(self, hosts: Sequence[str], hairpins: Sequence[str] = ()) -> frozenset[str]:
        wanted = {"names": list(hosts), "hairpins": list(hairpins)}
        return frozenset((await self.do("adopt", bridge=BRIDGE, **wanted))["there"])

    async def mend_rules(
        self, ranges: Sequence[str], plain: Sequence[str], *, exposed: bool
    ) -> str | None:
        wanted = {"ranges": list(ranges), "plain": list(plain), "exposed": exposed}
        done = await self.do("mend_rules", bridge=BRIDGE, **wanted)
        wrong: str | None = done["wrong"]
        return wrong

    async def expose(
        self, addresses: Sequence[str], ranges: Sequence[str], plain: Sequence[str] = ()
    ) -> None:
        wanted = {"addresses": list(addresses), "ranges": list(ranges), "plain": list(plain)}
        done = await self.do("expose", bridge=BRIDGE, **wanted)
        if done["nat"] is not None:
            log.warning(
                "pods have no way out", extra={"reason": "nat-unavailable", "error": done["nat"]}
            )

    async def hide(self, addresses: Sequence[str]) -> None:
        await self.do("hide", bridge=BRIDGE, addresses=list(addresses))

    async def wrong_ports(self, names: Sequence[str]) -> list[str]:
        """What is wrong with ports of the bridge, in sentences; those that are gone are not."""
        wrong: list[str] = (await self.do("ports", bridge=BRIDGE, names=list(names)))["wrong"]
        return wrong

    async def do(self, command: str, **request: object) -> Any:  # noqa: ANN401  # JSON
        """Run one command of ``weaver.daemon.nethelper``.

        Every command may be run again over what half of it left, so one whose helper died, perhaps
        long before it, is given to another helper; one that kills that too is refused.
        """
        line = json.dumps({"do": command, **request}).encode() + b"\n"
        async with self._lock:
            try:
                data = await self._asked(line)
            except HelperDiedError:
                data = await self._asked(line)
        answer = json.loads(data)
        if "error" in answer:
            raise OperatorError(answer["error"], answer["reason"])
        return answer["ok"]

    async def _asked(self, line: bytes) -> bytes:
        process = await self._running()
        try:
            return await self._exchange(process, line)
        except BaseException:
            # An answer that nobody waits for would be taken for the next request's.
            await self._kill(process)
            raise

    async def _exchange(self, process: asyncio.subprocess.Process, line: bytes) -> bytes:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(TIMEOUT):
                process.stdin.write(line)
                await process.stdin.drain()
                data = await process.stdout.readline()
        except TimeoutError as err:
            raise OperatorError("the device helper does not answer", "helper-failed") from err
        except ConnectionError as err:
            raise HelperDiedError("the device helper died", "helper-failed") from err
        if not data.endswith(b"\n"):
            raise HelperDiedError("the device helper died", "helper-failed")
        return data

    async def start(self) -> None:
        async with self._lock:
            await self._running()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                HELPER,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_ANSWER,
                start_new_session=True,  # a terminal's Ctrl-C is for the daemon, which ends us
            )
        return self._process

    async def _kill(self, process: asyncio.subprocess.Process) -> None:
        self._process = None
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def close(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(2):
                await process.wait()
        except TimeoutError:
            await self._kill(process)


def _plain(wiring: Wiring) -> dict[str, object]:
    return {
        "netns": wiring.netns,
        "ifname": wiring.ifname,
        "host": wiring.host,
        "bridge": BRIDGE,
        "mtu": wiring.mtu,
        "mac": wiring.mac,
        "addresses": list(wiring.addresses),
        "routes": [list(route) for route in wiring.routes],
        "hairpin": wiring.hairpin,
        "shape": asdict(wiring.shape),
    }

"""What the data plane stands on: TAP and UDP socket of the worker, and the bridge.

The daemon makes them at its start and holds them, so that they outlive a worker. Somebody else may
delete or change them under us: then they are made anew, and living pods are put back.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence

from mesh.drivers.tap import is_tap, open_taps, open_udps
from mesh.errors import OperatorError
from weaver.daemon.network import BRIDGE, Network

log = logging.getLogger(__name__)

TAP = "weave-sleeve"
FASTDP = "weave-fastdp"
LOOK_INTERVAL = 5.0
"""Seconds between looks whether everything is still as it was made."""


class Devices:
    """``mac``: of the bridge; ``lanes``: processes of the worker, each with a queue and a socket.

    ``by_kernel``: the kernel's fast path, not the TAP, is the bridge's way to the mesh.

    Raises OperatorError "tap-unavailable" or "port-taken".
    """

    def __init__(
        self,
        network: Network,
        port: int,
        mtu: int,
        mac: str,
        lanes: int = 1,
        *,
        by_kernel: bool = False,
    ) -> None:
        self._network, self.mtu, self._mac = network, mtu, mac
        self._by_kernel = by_kernel
        self._put_back: Callable[[], Awaitable[None]] | None = None
        self._removed = False
        self._lanes = lanes
        self._taps = _open_taps(lanes)
        try:
            self._udps = open_udps(port, lanes)
        except OSError as err:
            _close(self._taps)
            raise OperatorError(f"UDP {port}: {err.strerror}", "port-taken") from err

    async def setup(self) -> None:
        """The bridge and its way to the mesh; what is right already stays as it is."""
        await self._network.do(
            "setup",
            bridge=BRIDGE,
            tap=TAP,
            fastdp=FASTDP,
            by_kernel=self._by_kernel,
            mtu=self.mtu,
            mac=self._mac,
        )

    async def steered(self, by_kernel: bool) -> None:
        """The kernel's device is the bridge's way to the mesh from now on, or the TAP is."""
        self._by_kernel = by_kernel
        if not self._removed:
            await self._mend()

    async def for_worker(self) -> list[tuple[int, int]]:
        """TAP and UDP socket for each lane of a worker about to start, in working order."""
        if not all(map(is_tap, self._taps)):
            log.warning("device made anew", extra={"reason": "tap-gone", "device": TAP})
            old, self._taps = self._taps, _open_taps(self._lanes)
            _close(old)
        await self._mend()
        return list(zip(self._taps, (sock.fileno() for sock in self._udps), strict=True))

    async def watch(
        self,
        ports: Callable[[], Sequence[str]],
        put_back: Callable[[], Awaitable[None]],
        mend_rules: Callable[[], Awaitable[None]],
    ) -> None:
        """Look now and then, mend what is wrong, until cancelled.

        ``ports``: the host ends of pods; ``put_back``: makes a new bridge theirs; ``mend_rules``:
        sees to the rules of their way out.
        """
        self._put_back = put_back
        while not self._removed:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                taps = [] if self._by_kernel else [TAP]
                wrong = await self._network.wrong_ports([*taps, *ports()])
                if wrong and not self._removed:
                    log.warning(
                        "devices mended", extra={"reason": "device-changed", "error": wrong[0]}
                    )
                    await self._mend()
                if not self._removed:
                    await mend_rules()
            except OperatorError as err:
                log.warning("devices not mended", extra={"reason": err.reason, "error": str(err)})

    async def remove(self) -> None:
        """Delete bridge and TAP for good. No worker may be running."""
        self._removed = True
        await self._network.do("delete", names=[BRIDGE, TAP])
        await self._network.do("remove_rules")

    async def _mend(self) -> None:
        await self.setup()
        if self._put_back is not None:
            await self._put_back()

    def close(self) -> None:
        _close(self._taps)
        for sock in self._udps:
            sock.close()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _open_taps(lanes: int) -> list[int]:
    try:
        return open_taps(TAP, lanes)
    except OSError as err:
        why = "; that needs root" if isinstance(err, PermissionError) else ""
        raise OperatorError(
            f"cannot make the TAP device {TAP}: {err.strerror}{why}", "tap-unavailable"
        ) from err

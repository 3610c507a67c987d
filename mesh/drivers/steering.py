"""Perform what a router asks of the kernel's fast path: make it, tell it, look after it.

What fails is told to the router as one word and tried again: the sleeve carries frames meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mesh.link.datapath import SLEEVE, Counters, Datapath, DatapathError, Reason, correct
from mesh.router.effects import ConfigureKernel, Deliver, ForgetLearned, SendControl, Steer
from mesh.router.from_datapath import (
    ControlReceived,
    DatapathLost,
    DatapathStarted,
    FromDatapath,
    ReportReceived,
)

log = logging.getLogger(__name__)

LOOK_INTERVAL = 5.0
"""Seconds between looks at devices and programs, and between tries to have them at all."""

MAX_UPCALLS = 64
"""Taken from the kernel at one go; the loop has other work."""

KernelEffect = ConfigureKernel | Steer | ForgetLearned | SendControl | Deliver


class SteeringDriver:
    """``make`` opens the fast path, anew after each failure; it may raise DatapathError.

    ``changed(works)`` is awaited whenever frames begin or cease to go by it: it moves the sleeve's
    device, which must not be a port of the bridge beside it. ``sleeve`` names that device.
    """

    def __init__(
        self,
        make: Callable[[], Datapath],
        sleeve: str,
        *,
        changed: Callable[[bool], Awaitable[None]],
        on_event: Callable[[FromDatapath], None],
    ) -> None:
        self._make, self._sleeve = make, sleeve
        self._changed, self._on_event = changed, on_event
        self.datapath: Datapath | None = None
        self.problem: DatapathError | None = None
        """Why there is none now."""
        self._in_force = False
        self._fileno = -1
        self._failure = asyncio.Event()
        self._closed = False

    async def run(self) -> None:
        """Until cancelled, or ``close``."""
        while not self._closed:
            if self.datapath is not None:
                self._look()
            if self.datapath is None:
                await self._open(self._make)
            self._failure.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._failure.wait()
                    await self._changed(False)
                    await asyncio.sleep(LOOK_INTERVAL)

    def sleeve_made(self) -> None:
        """The sleeve's device is there, perhaps another than before."""
        self._do(lambda datapath: datapath.set_sleeve(self._sleeve))

    def perform(self, effect: KernelEffect) -> None:
        match effect:
            case ConfigureKernel(config):
                self._do(lambda datapath: datapath.configure(config))
                # In force once all that comes with it has been told.
                asyncio.get_running_loop().call_soon(self._put_in_force)
            case Steer(have, wanted):
                self._do(lambda datapath: correct(datapath, wanted, have))
            case ForgetLearned(short_id):
                self._do(lambda datapath: datapath.forget(short_id))
            case SendControl(short_id, payload) if self._in_force:
                self._do(lambda datapath: datapath.send_control(short_id, payload))
            case Deliver(frame) if self._in_force:
                self._do(lambda datapath: datapath.deliver(SLEEVE, frame))
            case SendControl() | Deliver():
                return  # a moment too early: there will be another

    def counters(self) -> Counters | None:
        """What the kernel counted; None when there is no fast path."""
        try:
            return None if self.datapath is None else self.datapath.counters()
        except DatapathError:
            return None

    def close(self) -> None:
        """Let go for good; the kernel goes on."""
        self._closed = True
        if self.datapath is not None:
            self._unwatch()
            self.datapath.close()
            self.datapath = None

    # ---- inside

    async def _open(self, make: Callable[[], Datapath]) -> None:
        try:
            self.datapath = datapath = make()
            await self._changed(True)
            datapath.set_sleeve(self._sleeve)
            tables = datapath.tables()
        except DatapathError as err:
            self._failed(err)
            await self._changed(False)
            return
        self.problem, self._in_force = None, False
        self._fileno = datapath.fileno()
        if self._fileno >= 0:
            asyncio.get_running_loop().add_reader(self._fileno, self._upcalls)
        log.info("fast path opened", extra={"found": datapath.takeover.value})
        self._on_event(DatapathStarted(tables))

    def _put_in_force(self) -> None:
        if not self._in_force and self.datapath is not None:
            self._in_force = True
            self._do(lambda datapath: datapath.start())

    def _look(self) -> None:
        def look(datapath: Datapath) -> None:
            for repaired in datapath.check():
                log.warning("fast path mended", extra={"what": repaired})

        self._do(look)

    def _upcalls(self) -> None:
        datapath = self.datapath
        if datapath is None:
            return
        for upcall in datapath.receive(MAX_UPCALLS):
            if upcall.reason is Reason.CONTROL:
                self._on_event(ControlReceived(upcall.source, upcall.frame))
            elif upcall.reason is Reason.REPORT:
                self._on_event(ReportReceived(upcall.frame))

    def _do(self, action: Callable[[Datapath], object]) -> None:
        """What cannot be done ends the fast path until it can be made again."""
        if self.datapath is None:
            return
        try:
            action(self.datapath)
        except DatapathError as err:
            self._failed(err)

    def _failed(self, err: DatapathError) -> None:
        if self.problem is None or self.problem.reason != err.reason:
            log.warning("no fast path", extra={"reason": err.reason, "error": str(err)})
        self.problem = err
        if self.datapath is not None:
            self._unwatch()
            self.datapath.close()
            self.datapath = None
            self._failure.set()
        self._on_event(DatapathLost(err.reason))

    def _unwatch(self) -> None:
        if self._fileno >= 0:
            asyncio.get_running_loop().remove_reader(self._fileno)
            self._fileno = -1

"""The daemon's side of the sleeve worker: start it, talk to it, start it again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable

from mesh.drivers.sleeve.exits import EXIT_TAP_GONE
from mesh.drivers.tasks import Supervisor
from mesh.errors import MalformedMessageError, OperatorError
from mesh.wire import worker as w

log = logging.getLogger(__name__)

BACKOFF_FIRST, BACKOFF_MAX = 0.2, 10.0
"""Seconds until a worker that died is started again; doubled while it dies young."""

GOOD_AFTER = 10.0
MAX_WAITING = 16_384
"""Messages waiting for a worker that does not read; then it is ended and started anew."""

STOP_TIMEOUT = 2.0

_REASONS = {EXIT_TAP_GONE: "tap-gone"}
"""Why a worker ended, by its exit code; any other end is ``worker-died``."""


class WorkerProcess:
    """``on_started`` may send at once; ``on_lost(reason)`` comes before the next ``on_started``.

    ``devices``: descriptors of TAP and UDP socket for each worker anew; may raise OperatorError.
    """

    def __init__(
        self,
        devices: Callable[[], Awaitable[tuple[int, int]]],
        *,
        on_message: Callable[[w.FromWorker], None],
        on_started: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._devices = devices
        self._on_message, self._on_started, self._on_lost = on_message, on_started, on_lost
        self._supervisor = Supervisor()
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self._process: asyncio.subprocess.Process | None = None
        self.restarts = 0
        self.pid: int | None = None

    def start(self) -> None:
        self._supervisor.spawn(self._keep_running(), "sleeve worker")

    def send(self, message: w.ToWorker) -> None:
        """In order; silently nothing while there is no worker: the next one is told anew."""
        if self._socket is None:
            return
        self._waiting.append(w.encode(message))
        if len(self._waiting) > MAX_WAITING and self._process is not None:
            self._process.kill()
        self._flush()

    async def close(self) -> None:
        await self._supervisor.close()
        await self._end()

    async def _keep_running(self) -> None:
        backoff = BACKOFF_FIRST
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._spawn()
                assert self._process is not None
                self._on_started()
                code = await self._process.wait()
                reason = _REASONS.get(code, "worker-died")
                log.error("worker died", extra={"reason": reason, "code": code})
            except OSError as err:
                reason = "worker-not-started"
                # One line: the error says it all.
                log.error("worker not started", extra={"reason": reason, "error": str(err)})
            except OperatorError as err:
                reason = err.reason
                log.error("worker not started", extra={"reason": reason, "error": str(err)})
            self._disconnect()
            self._on_lost(reason)
            self.restarts += 1
            backoff = BACKOFF_FIRST if loop.time() - began > GOOD_AFTER else backoff
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF_MAX)

    async def _spawn(self) -> None:
        tap_fd, udp_fd = await self._devices()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        fds = {"tap": tap_fd, "udp": udp_fd, "control": theirs.fileno()}
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "mesh.drivers.sleeve",
                *(part for name, fd in fds.items() for part in (f"--{name}-fd", str(fd))),
                pass_fds=tuple(fds.values()),
                stdin=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pid = self._process.pid
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(64):
            if self._socket is None:
                return
            try:
                packet = self._socket.recv(w.MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self._disconnect()
                return
            try:
                message = w.decode(packet)
            except MalformedMessageError as err:
                log.warning("worker talks nonsense", extra={"reason": err.reason})
                continue
            if isinstance(message, w.FromWorker):
                self._on_message(message)

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._socket is not None and self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                loop.add_writer(self._socket.fileno(), self._flush)
                return
            except OSError:
                self._disconnect()
                return
            self._waiting.popleft()
        if self._socket is not None:
            loop.remove_writer(self._socket.fileno())

    def _disconnect(self) -> None:
        self._waiting.clear()
        if self._socket is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._socket.fileno())
            loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    async def _end(self) -> None:
        """Closing the socket ends the worker; one that does not listen is killed."""
        self._disconnect()
        if self._process is None or self._process.returncode is not None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

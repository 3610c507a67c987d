"""The daemon's side of the sleeve worker: start it, talk to it, start it again when it dies."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from mesh.drivers.sleeve.exits import EXIT_TAP_GONE
from mesh.drivers.tasks import Supervisor
from mesh.errors import MalformedMessageError, OperatorError
from mesh.link.lanes import Gathering
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


class Lane:
    """One worker process and the socket to it. ``on_packet``: what it says, one message each."""

    def __init__(self, on_packet: Callable[[bytes], None]) -> None:
        self._on_packet = on_packet
        self._socket: socket.socket | None = None
        self._waiting: deque[bytes] = deque()
        self.process: asyncio.subprocess.Process | None = None

    async def spawn(self, number: int, tap: int, udp: int, others: Sequence[int]) -> None:
        """Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        fds = {"tap": tap, "udp": udp, "control": theirs.fileno()}
        lane = ("--lane", str(number), "--lane-fds", ",".join(map(str, others)))
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "mesh.drivers.sleeve",
                *(part for name, fd in fds.items() for part in (f"--{name}-fd", str(fd))),
                *(lane if others else ()),
                pass_fds=(*fds.values(), *others),
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a terminal's Ctrl-C is for the daemon, which ends it
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._read)

    def send(self, packet: bytes) -> None:
        if self._socket is None:
            return
        self._waiting.append(packet)
        if len(self._waiting) > MAX_WAITING:
            self.kill()
        self._flush()

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()

    async def end(self) -> None:
        """Closing the socket ends the worker; one that does not listen is killed."""
        self._disconnect()
        if self.process is None or self.process.returncode is not None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

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
            self._on_packet(packet)

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


class WorkerProcess:
    """The worker, which is a process a lane: they start together and end together.

    ``on_started`` may send at once; ``on_lost(reason)`` comes before the next ``on_started``.
    ``devices``: a TAP queue and a UDP socket for each lane, for each start anew; may raise
    OperatorError.
    """

    def __init__(
        self,
        devices: Callable[[], Awaitable[Sequence[tuple[int, int]]]],
        *,
        on_message: Callable[[w.FromWorker], None],
        on_started: Callable[[], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._devices = devices
        self._on_message, self._on_started, self._on_lost = on_message, on_started, on_lost
        self._supervisor = Supervisor()
        self._lanes: list[Lane] = []
        self._gathering = Gathering(1)
        self.restarts = 0

    @property
    def pids(self) -> list[int]:
        """Of the processes that run, by lane."""
        return [lane.process.pid for lane in self._lanes if lane.process is not None]

    def start(self) -> None:
        self._supervisor.spawn(self._keep_running(), "sleeve worker")

    def send(self, message: w.ToWorker) -> None:
        """In order; silently nothing while there is no worker: the next one is told anew."""
        if self._lanes:
            packet = w.encode(message)
            for number in self._gathering.lanes_for(message):
                self._lanes[number].send(packet)

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
                self._on_started()
                code = await self._first_end()
                reason = _REASONS.get(code, "worker-died")
                log.error("worker died", extra={"reason": reason, "code": code})
            except OSError as err:
                reason = "worker-not-started"
                # One line: the error says it all.
                log.error("worker not started", extra={"reason": reason, "error": str(err)})
            except OperatorError as err:
                reason = err.reason
                log.error("worker not started", extra={"reason": reason, "error": str(err)})
            # Those that are left hold keys that must not go on beside new ones.
            for lane in self._lanes:
                lane.kill()
            await self._end()
            self._on_lost(reason)
            self.restarts += 1
            backoff = BACKOFF_FIRST if loop.time() - began > GOOD_AFTER else backoff
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, BACKOFF_MAX)

    async def _spawn(self) -> None:
        devices = await self._devices()
        count = len(devices)
        self._gathering = Gathering(count)
        ends: list[list[socket.socket]] = [[] for _ in devices]
        for one, other in itertools.combinations(range(count), 2):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ends[one].append(pair[0])
            ends[other].append(pair[1])
        try:
            for number, (tap, udp) in enumerate(devices):
                lane = Lane(functools.partial(self._said, number))
                self._lanes.append(lane)
                await lane.spawn(number, tap, udp, [sock.fileno() for sock in ends[number]])
        finally:
            for sock in itertools.chain.from_iterable(ends):
                sock.close()

    def _said(self, number: int, packet: bytes) -> None:
        try:
            message = w.decode(packet)
        except MalformedMessageError as err:
            log.warning("worker talks nonsense", extra={"reason": err.reason})
            return
        if isinstance(message, w.FromWorker):
            gathered = self._gathering.take(number, message)
            if gathered is not None:
                self._on_message(gathered)

    async def _first_end(self) -> int:
        """Wait until one of the processes ends; its exit code."""
        waits = {
            asyncio.ensure_future(lane.process.wait())
            for lane in self._lanes
            if lane.process is not None
        }
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for wait in waits:
                wait.cancel()

    async def _end(self) -> None:
        lanes, self._lanes = self._lanes, []
        for lane in lanes:
            await lane.end()

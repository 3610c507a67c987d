"""The worker's end of the control socket: messages in, answers out, none of them lost."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterator

from mesh.errors import MalformedMessageError
from mesh.wire import worker as w

MAX_WAITING = 4_096
"""Answers for a daemon that does not read; then it is as good as dead, and so are we."""


class DaemonLink:
    """``open`` turns False when the daemon is gone: the worker has nobody to work for."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        self._waiting: deque[bytes] = deque()
        self.open = True
        self.malformed = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def is_waiting(self) -> bool:
        """Whether to call ``flush`` when the socket can be written to."""
        return bool(self._waiting)

    def messages(self) -> Iterator[w.Message]:
        while self.open:
            try:
                packet = self._socket.recv(w.MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                self.open = False
                return
            try:
                yield w.decode(packet)
            except MalformedMessageError:
                self.malformed += 1

    def say(self, message: w.FromWorker) -> None:
        self._waiting.append(w.encode(message))
        if len(self._waiting) > MAX_WAITING:
            self.open = False
        self.flush()

    def flush(self) -> None:
        while self._waiting and self.open:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self.open = False
                return
            self._waiting.popleft()

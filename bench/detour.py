"""A path with delay and loss where the kernel has no netem: datagrams wait here, some for ever.

``python -m bench.detour LISTEN-PORT TARGET-HOST TARGET-PORT DELAY-MS LOSS-PERCENT [BURST]``. Loss
is of single datagrams, each for itself, or of bursts that are BURST long on the average (Gilbert
and Elliott). One direction; the way back is the cable's.
"""

from __future__ import annotations

import random
import select
import socket
import sys
import time
from collections import deque

BUFFER = 16 * 1024 * 1024
MAX_WAITING = 50_000
"""Datagrams on their way: 100 MB/s for a second, and then a queue that is full."""


def main(port: int, host: str, target: int, delay: float, loss: float, burst: float) -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, BUFFER)
    sock.bind(("", port))
    sock.setblocking(False)
    waiting: deque[tuple[float, bytes]] = deque()
    chance = random.Random(port)
    bad = False
    # Into a burst so often that so much is lost; out of it once in its length.
    enter, leave = loss / burst / max(1e-9, 1 - loss), 1 / burst
    while True:
        rest = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        ready, _, _ = select.select([sock], [], [], rest)
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            try:
                sock.sendto(waiting[0][1], (host, target))
            except BlockingIOError:
                break
            waiting.popleft()
        for _ in range(64 if ready else 0):
            try:
                datagram = sock.recv(65_535)
            except BlockingIOError:
                break
            if burst > 1:
                bad = chance.random() >= leave if bad else chance.random() < enter
            else:
                bad = chance.random() < loss
            if not bad and len(waiting) < MAX_WAITING:
                waiting.append((now + delay, datagram))


if __name__ == "__main__":
    main(
        int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]) / 1e3,
        float(sys.argv[5]) / 100, float(sys.argv[6]) if len(sys.argv) > 6 else 1.0,
    )  # fmt: skip

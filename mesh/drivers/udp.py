"""The daemon's own datagrams on asyncio-dgram: liveness probes out and in.

The library's receive queue has no bound of its own; it cannot grow here because the reader
takes everything that waits before the loop reads the socket again, once a turn. Errors of the
socket surface on a later call (a network that has no way there): they are counted, and that call,
which may be for another peer, is made again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import asyncio_dgram
import asyncio_dgram.aio

from mesh.drivers.tasks import Supervisor
from mesh.names import Endpoint

log = logging.getLogger(__name__)

MAX_WAITING = 1024
"""Datagrams waiting for the socket; more are dropped, as the network would."""

V4_MAPPED = "::ffff:"


def endpoint_of(address: tuple[Any, ...]) -> Endpoint:
    """A socket address as an endpoint, IPv4 addresses in their own form."""
    host, port = str(address[0]), int(address[1])
    return Endpoint(host.removeprefix(V4_MAPPED) if "." in host else host, port)


def bound_socket(port: int) -> socket.socket:
    """A UDP socket on every address of the host; IPv4 only where the kernel has no IPv6.

    Raises OSError when the port is taken.
    """
    try:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        host = "::"
    except OSError:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        host = "0.0.0.0"  # noqa: S104  # a peer is reached on every address it has
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


class ProbeSocket:
    """One UDP port: ``send`` never blocks, ``receive`` is called for every datagram."""

    def __init__(self, receive: Callable[[Endpoint, bytes], None]) -> None:
        self._receive = receive
        self._waiting: asyncio.Queue[tuple[Endpoint, bytes]] = asyncio.Queue(MAX_WAITING)
        self._supervisor = Supervisor()
        self._stream: asyncio_dgram.aio.DatagramServer | None = None
        self._mapped = False
        self.dropped = 0

    async def start(self, sock: socket.socket) -> None:
        self._mapped = sock.family == socket.AF_INET6
        stream = await asyncio_dgram.from_socket(sock)
        assert isinstance(stream, asyncio_dgram.aio.DatagramServer)
        self._stream = stream
        self._supervisor.spawn(self._read(), "probe reader")
        self._supervisor.spawn(self._write(), "probe writer")

    def send(self, endpoint: Endpoint, data: bytes) -> None:
        try:
            self._waiting.put_nowait((endpoint, data))
        except asyncio.QueueFull:
            self.dropped += 1

    async def close(self) -> None:
        await self._supervisor.close()
        if self._stream is not None:
            self._stream.close()

    async def _read(self) -> None:
        assert self._stream is not None
        while True:
            try:
                data, address = await self._stream.recv()
            except asyncio_dgram.TransportClosed:
                return
            except OSError:
                continue
            assert isinstance(address, tuple)
            self._receive(endpoint_of(address), bytes(data))

    async def _write(self) -> None:
        assert self._stream is not None
        while True:
            endpoint, data = await self._waiting.get()
            host = endpoint.host
            if self._mapped and ":" not in host:
                host = V4_MAPPED + host
            try:
                await self._send(data, (host, endpoint.port))
            except asyncio_dgram.TransportClosed:
                return

    async def _send(self, data: bytes, address: tuple[str, int]) -> None:
        """Send one. The library raises what befell an earlier one, and then did not send this."""
        assert self._stream is not None
        while True:
            try:
                return await self._stream.send(data, address)
            except OSError:
                self.dropped += 1

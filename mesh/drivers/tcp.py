"""Control connections on asyncio: octets to the router and back, nothing decided here."""

from __future__ import annotations

import asyncio
import socket
from typing import Protocol

from mesh.connection.maker import Target
from mesh.drivers.udp import endpoint_of
from mesh.names import Endpoint

DIAL_TIMEOUT = 10.0
"""Seconds for the name to resolve and the other end to answer."""

LINGER = 5.0
"""Seconds a closed connection may take to send what was written before it is cut."""

HIGH_WATER = 1 << 20
"""Octets waiting for a peer to read before its gossip is merged instead of sent."""


class StreamOwner(Protocol):
    """What a stream tells of itself."""

    def opened(self, stream: Stream) -> None: ...
    def received(self, conn: int, data: bytes) -> None: ...
    def flow(self, conn: int, *, paused: bool) -> None: ...
    def lost(self, conn: int) -> None: ...


class Stream(asyncio.Protocol):
    """One TCP connection under the number ``conn``, dialled for ``target`` or accepted."""

    def __init__(self, owner: StreamOwner, conn: int, target: Target | None) -> None:
        self._owner = owner
        self.conn, self.target = conn, target
        self.remote = Endpoint("", 0)
        self._transport: asyncio.Transport | None = None
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=HIGH_WATER)
        peer = transport.get_extra_info("peername")
        if not peer:
            transport.abort()  # gone between accept and now
            return
        self.remote = endpoint_of(peer)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        # What comes after we closed is read away: unread octets would reset the connection, and
        # the reason of the refusal would be lost with it.
        if not self._closing:
            self._owner.received(self.conn, data)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if not self._closing:
            self._owner.flow(self.conn, paused=True)

    def resume_writing(self) -> None:
        if not self._closing:
            self._owner.flow(self.conn, paused=False)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._owner.lost(self.conn)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._closing:
            self._transport.write(data)

    def close(self) -> None:
        """Send what was written, then close; nothing is reported any more."""
        if self._transport is None:
            return
        self._closing = True
        transport = self._transport
        try:
            transport.write_eof()
        except OSError:
            transport.abort()
            return
        asyncio.get_running_loop().call_later(LINGER, transport.abort)


async def dial(owner: StreamOwner, conn: int, target: Target) -> str | None:
    """Connect to a target, its name resolved now; the reason when that fails.

    On success the owner was told ``opened`` with a stream that carries ``target``.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIAL_TIMEOUT):
            await loop.create_connection(
                lambda: Stream(owner, conn, target),
                target.host,
                target.port,
                happy_eyeballs_delay=0.25,
            )
    except TimeoutError:
        return "timed-out"
    except (socket.gaierror, UnicodeError):  # no name at all: an empty label, a long one
        return "name-not-found"
    except ConnectionRefusedError:
        return "connection-refused"
    except OSError:
        return "unreachable"
    return None

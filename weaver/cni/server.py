"""The socket that the CNI executables talk to, and what they left while nobody listened."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

from mesh.drivers.tasks import Supervisor
from weaver.cni import frame
from weaver.cni.errors import CniError, Code
from weaver.cni.handler import Handler, Reason, refusal
from weaver.cni.spool import DIRECTORY, Spool, file_name
from weaver.daemon.attach import Attacher

log = logging.getLogger(__name__)

READ_TIMEOUT = 10.0
"""Seconds for a whole request to arrive; it is in the socket's buffer as a rule."""

MAX_CALLS = 512
"""Calls under way at once: more than the pods of a host, each with its own."""

DRAIN_INTERVAL = 10.0
"""Seconds between looks at the spool, for a DEL that came while we were starting, or could not be
carried out yet."""

NEVER = (Code.VERSION, Code.ENVIRONMENT, Code.DECODE, Code.BAD_CONFIG)
"""Errors of the call itself: it will not be better next time."""

CLOSE_TIMEOUT = 5.0
"""Seconds that calls under way are waited for at the end."""


class CniServer:
    """``not_ready``, ``cannot_allocate``: as ``Handler`` has them."""

    def __init__(self, attacher: Attacher, not_ready: Reason, cannot_allocate: Reason) -> None:
        self._handler = Handler(attacher, not_ready, cannot_allocate)
        self._supervisor = Supervisor()
        self._calls: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._spool: Spool | None = None

    async def start(self, path: Path) -> None:
        """Listen on ``path``, for root only. Raises OSError."""
        self._spool = Spool(path.parent / DIRECTORY)
        self._spool.prepare()
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one call, at start
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._connected, str(path), backlog=512)
        finally:
            os.umask(before)
        self._supervisor.spawn(self._drain(self._spool), "spooled CNI deletions")

    async def close(self) -> None:
        """Stop listening; calls under way end, or are cancelled when they take too long."""
        if self._server is not None:
            self._server.close()
        if self._calls:
            await asyncio.wait(self._calls, timeout=CLOSE_TIMEOUT)
        await self._supervisor.close()

    # ---- calls

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = self._supervisor.spawn(self._serve(reader, writer), "CNI call")
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                environ, stdin = await self._read(reader)
            code, out = await self._handle(environ, stdin)
            writer.write(bytes((code,)) + out)
            await writer.drain()
        except CniError as err:
            code, out = refusal(b"", err)
            writer.write(bytes((code,)) + out)
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            log.info("cni client gone", extra={"reason": "client-gone"})
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
        if len(self._calls) > MAX_CALLS:
            raise CniError(Code.TRY_AGAIN, "too many calls at once", "too-many-calls")
        environ, stdin = frame.sizes(await reader.readexactly(frame.HEAD))
        lines = await reader.readexactly(environ)
        return frame.environ_of(lines), await reader.readexactly(stdin)

    async def _handle(self, environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        if environ.get("CNI_COMMAND") == "ADD":
            await self._replay(environ)
        try:
            code, out = await self._handler.handle(environ, stdin)
        except Exception:
            log.exception("cni call failed")
            said = "this is a bug of weaver; its log has the traceback"
            return refusal(stdin, CniError(Code.INTERNAL, said, "internal"))
        if code:
            log.warning("cni call refused", extra={"reason": "cni", "error": out.decode()})
        return code, out

    # ---- the spool

    async def _replay(self, environ: Mapping[str, str]) -> None:
        """An ADD comes after the DEL of the same interface that was left for us."""
        assert self._spool is not None
        container, ifname = environ.get("CNI_CONTAINERID", ""), environ.get("CNI_IFNAME", "")
        name = file_name(container, ifname)
        if name is not None and (found := self._spool.read(name)) is not None:
            await self._carry_out(self._spool, name, *found)

    async def _drain(self, spool: Spool) -> None:
        while True:
            for name, environ, stdin in spool:
                await self._carry_out(spool, name, environ, stdin)
            await asyncio.sleep(DRAIN_INTERVAL)

    async def _carry_out(
        self, spool: Spool, name: str, environ: Mapping[str, str], stdin: bytes
    ) -> None:
        code, out = await self._handler.handle(environ, stdin)
        if code == 0:
            spool.drop(name)
            log.info("spooled DEL done", extra={"container": environ.get("CNI_CONTAINERID", "")})
            return
        log.warning("spooled DEL failed", extra={"reason": "cni", "error": out.decode()})
        if json.loads(out)["code"] in NEVER:
            spool.drop(name)

"""The socket that the CNI executables talk to."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from weaver.cni import result
from weaver.cni.config import MAX_STDIN
from weaver.cni.errors import CniError, Code
from weaver.cni.handler import Handler
from weaver.daemon.attach import Attacher

log = logging.getLogger(__name__)

MAX_ENVIRON = 64 * 1024
READ_TIMEOUT = 10.0


class CniServer:
    def __init__(self, attacher: Attacher, not_ready: Callable[[], str | None]) -> None:
        self._handler = Handler(attacher, not_ready)
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one call, at start
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, str(path))
        finally:
            os.umask(before)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                environ, stdin = await self._read(reader)
            code, out = await self._handler.handle(environ, stdin)
        except (asyncio.IncompleteReadError, TimeoutError, ConnectionError):
            writer.close()
            return
        except CniError as err:
            code, out = 1, json.dumps(result.failed("1.0.0", err)).encode()
        except Exception:
            log.exception("cni call failed")
            bug = CniError(Code.INTERNAL, "this is a bug of weaver; its log has the traceback")
            code, out = 1, json.dumps(result.failed("1.0.0", bug)).encode()
        try:
            writer.write(bytes((code,)) + out)
            await writer.drain()
        except ConnectionError:
            log.info("cni client gone", extra={"reason": "client-gone"})
        finally:
            writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> tuple[dict[str, str], bytes]:
        head = await reader.readexactly(8)
        sizes = int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
        if sizes[0] > MAX_ENVIRON:
            raise CniError(Code.ENVIRONMENT, f"an environment of more than {MAX_ENVIRON} octets")
        lines = (await reader.readexactly(sizes[0])).decode(errors="replace").split("\n")
        environ = dict(line.partition("=")[::2] for line in lines)
        if sizes[1] > MAX_STDIN:
            left = sizes[1]
            while left:  # read it away, so that the client hears the answer
                left -= len(await reader.readexactly(min(left, 65536)))
            raise CniError(Code.DECODE, f"a configuration of more than {MAX_STDIN} octets")
        return environ, await reader.readexactly(sizes[1])

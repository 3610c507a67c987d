"""The socket that dockerd finds its plugin by."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from aiohttp import web

from mesh.errors import OperatorError
from weaver.docker.driver import Driver
from weaver.docker.messages import MAX_BODY, Json, read

log = logging.getLogger(__name__)

CONTENT_TYPE = "application/vnd.docker.plugins.v1.1+json"


class DockerServer:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._runner: web.AppRunner | None = None

    async def start(self, path: Path) -> None:
        """Listen on ``path``, for root only. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # noqa: ASYNC240  # one call, at start
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/{method}", self._called)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        before = os.umask(0o177)
        try:
            await web.UnixSite(self._runner, str(path)).start()
        finally:
            os.umask(before)

    async def close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _called(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        try:
            answer = await self._answer(method, await request.read())
        except web.HTTPRequestEntityTooLarge:
            return _said({"Err": f"a request has at most {MAX_BODY} octets"}, 400)
        except OperatorError as err:
            log.warning("docker call refused", extra={"reason": err.reason, "error": str(err)})
            return _said({"Err": f"weaver: {err} ({err.reason})"}, 400)
        except Exception:
            log.exception("docker call failed", extra={"method": method})
            return _said({"Err": "this is a bug of weaver; its log has the traceback"}, 500)
        return _said(answer, 200)

    async def _answer(self, method: str, data: bytes) -> Json:
        handler = self._driver.methods.get(method)
        if handler is None:
            raise OperatorError(f"there is no {method}", "not-found")
        return await handler(read(data))


def _said(answer: Json, status: int) -> web.Response:
    return web.json_response(answer, status=status, content_type=CONTENT_TYPE)

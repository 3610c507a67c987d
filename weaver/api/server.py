"""The HTTP server: loopback port and Unix socket, one table of routes, one form of error.

Whoever may open the socket (mode 0600) may do everything. The loopback port is every local user's
and every browser's, so there Host and Origin must be ours, and what writes needs the token file's
token.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import secrets
import socket as unix
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from mesh.errors import OperatorError
from mesh.names import Endpoint
from weaver.api.handlers import Handlers
from weaver.api.routes import ROUTES, Route
from weaver.daemon.facade import Facade

log = logging.getLogger(__name__)

MAX_BODY = 1 << 20
MAX_TEXT = 4096
"""Characters of one field: a path's length. What cannot be printed (a lone surrogate, say) cannot
be stored either."""

STATUS = {
    "not-ready": 503,
    "starting": 503,
    "no-token": 401,
    "wrong-token": 403,
    "wrong-host": 403,
    "wrong-origin": 403,
    "not-found": 404,
    "not-attached": 404,
    "method-not-allowed": 405,
    "peer-alive": 409,
    "address-in-use": 409,
    "in-use": 409,
    "too-large": 413,
    "internal-error": 500,
    "no-space": 507,
}
"""HTTP status of a reason; any other is 400."""

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def error(reason: str, message: str) -> web.Response:
    body = {"error": {"reason": reason, "message": message}}
    return web.json_response(body, status=STATUS.get(reason, 400))


async def read_body(request: web.Request, route: Route) -> dict[str, Any]:
    """The JSON object of a request, its fields of the types the table names."""
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge as err:
        raise OperatorError(f"a body has at most {MAX_BODY} octets", "too-large") from err
    try:
        body = json.loads(data) if data else {}
    except (ValueError, RecursionError) as err:
        raise OperatorError(f"the body is not JSON: {err}", "bad-request") from err
    if not isinstance(body, dict):
        raise OperatorError("the body is not a JSON object", "bad-request")
    known = {name: (kind, required) for name, kind, required in route.body}
    for name, value in body.items():
        if name not in known:
            raise OperatorError(f"unknown field {name!r}", "bad-request")
        kind = known[name][0]
        if value is not None and (
            not isinstance(value, _TYPES[kind]) or (kind == "integer" and isinstance(value, bool))
        ):
            raise OperatorError(f"{name} is not of type {kind}", "bad-request")
        if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
            raise OperatorError(
                f"{name} is not printable text of at most {MAX_TEXT} characters", "bad-request"
            )
    for name, (_, required) in known.items():
        if required and body.get(name) in (None, "", []):
            raise OperatorError(f"{name} is missing", "bad-request")
    return body


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except OperatorError as err:
        return error(err.reason, str(err))
    except web.HTTPNotFound:
        return error("not-found", f"there is no {request.path}")
    except web.HTTPMethodNotAllowed as err:
        allowed = ", ".join(sorted(err.allowed_methods))
        return error("method-not-allowed", f"{request.path} allows {allowed}")
    except web.HTTPException as err:
        return error("bad-request", err.reason)
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("request failed", extra={"path": request.path})
        return error("internal-error", "this is a bug; the log has its traceback")


def guard(token: str, host: str, port: int) -> Any:  # noqa: ANN401  # aiohttp's middleware type
    """Refuse what a foreign web page or another local user could have sent."""
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", str(Endpoint(host, port))}
    origins = {f"http://{host}" for host in hosts}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Host", "").lower() not in hosts:
            return error("wrong-host", "the Host header names another host")
        origin = request.headers.get("Origin")
        if origin is not None and origin not in origins:
            return error("wrong-origin", "requests of other sites are refused")
        if request.method not in ("GET", "HEAD"):
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not given:
                return error("no-token", "writing here needs the token; the socket does not")
            if not hmac.compare_digest(given.encode(), token.encode()):
                return error("wrong-token", "that is not the token")
        return await handler(request)

    return check


def make_app(facade: Facade, middlewares: list[Any]) -> web.Application:
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY)
    handlers = Handlers(facade)
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _bind(handlers, route))
    return app


def _bind(handlers: Handlers, route: Route) -> Handler:
    method = getattr(handlers, route.handler)

    async def handle(request: web.Request) -> web.StreamResponse:
        if route.writes:
            return web.json_response(await method(await read_body(request, route)))
        answer = await method(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.json_response(answer)

    return handle


def load_token(path: Path) -> str:
    """The token in ``path``, made at first use, mode 0600. Raises OperatorError."""
    try:
        if path.exists() and (token := path.read_text().strip()):
            return token
        token = secrets.token_urlsafe(32)
        whole = path.with_name(path.name + ".new")
        whole.unlink(missing_ok=True)
        fd = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(token + "\n")
        whole.replace(path)
    except (OSError, UnicodeDecodeError) as err:
        why = getattr(err, "strerror", None) or err
        raise OperatorError(f"cannot use {path}: {why}", "token-unusable") from err
    return token


def make_way(socket: Path) -> None:
    """The socket's directory exists, and no dead daemon's socket is in the way.

    Raises OperatorError "run-dir-unusable", and "socket-in-use" when a living one's is.
    """
    try:
        socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(os.fsencode(socket)) == 0:
                raise OperatorError(f"another weaver answers on {socket}", "socket-in-use")
        socket.unlink(missing_ok=True)
    except OSError as err:
        raise OperatorError(
            f"cannot use {socket.parent}: {err.strerror}", "run-dir-unusable"
        ) from err


class ApiServer:
    def __init__(self, facade: Facade) -> None:
        self._facade = facade
        self._runners: list[web.AppRunner] = []

    async def start(self, socket: Path, http: tuple[str, int] | None, token_file: Path) -> None:
        """Raises OperatorError "port-taken" when an address cannot be had."""
        make_way(socket)
        runner = await self._runner(make_app(self._facade, [errors_as_json]))
        before = os.umask(0o177)
        try:
            await web.UnixSite(runner, str(socket)).start()
        except OSError as err:
            raise OperatorError(f"cannot use {socket}: {err.strerror}", "run-dir-unusable") from err
        finally:
            os.umask(before)
        if http is None:
            return
        host, port = http
        middlewares = [errors_as_json, guard(load_token(token_file), host, port)]
        runner = await self._runner(make_app(self._facade, middlewares))
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as err:
            # asyncio's own sentence names the address once more; the error's number says it all.
            why = os.strerror(err.errno) if err.errno and err.errno > 0 else err.strerror
            raise OperatorError(f"HTTP {host}:{port}: {why}", "port-taken") from err

    async def _runner(self, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        self._runners.append(runner)
        return runner

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()

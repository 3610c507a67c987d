"""What each route does: translate between HTTP and the facade, and nothing else."""

from __future__ import annotations

import asyncio
import json
from dataclasses import fields
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from mesh.errors import OperatorError
from weaver.api.metrics import metrics_text
from weaver.api.routes import openapi
from weaver.daemon.attach import AttachRequest
from weaver.daemon.facade import Facade
from weaver.daemon.network import Shape
from weaver.status import status_text

DEFAULT_INTERFACE = "ethwe"
MAX_TEXTS = 1024
"""Of one list."""

MAX_TEXT = 4096
"""Characters of one of them."""

KEEPALIVE = 15.0
"""Seconds between comments on an idle event stream, so that dead listeners are found."""

Body = dict[str, Any]


class Handlers:
    """One method a route, named as in the table."""

    def __init__(self, facade: Facade) -> None:
        self._facade = facade

    # ---- reading

    async def status_text(self, _: web.Request) -> web.Response:
        return web.Response(text=status_text(self._facade.status()))

    async def healthz(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(self, _: web.Request) -> web.Response:
        reason = self._facade.not_ready()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        body = metrics_text(self._facade.status())
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def openapi(self, _: web.Request) -> Any:  # noqa: ANN401
        return openapi()

    async def version(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.version()

    async def status(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.status()

    async def peers(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.part("peers")

    async def connections(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.part("connections")

    async def targets(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.part("targets")

    async def links(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.part("links")

    async def routes(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.part("routes")

    async def channels(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.part("channels")

    async def attachments(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.attachments()

    async def report(self, _: web.Request) -> Any:  # noqa: ANN401
        return json.loads(json.dumps(self._facade.report(), default=str))

    async def ipam(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.ipam()

    async def ipam_list(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.ipam_list()

    async def ipam_who(self, request: web.Request) -> Any:  # noqa: ANN401
        return self._facade.ipam_who(request.match_info["address"])

    async def ipam_check(self, _: web.Request) -> Any:  # noqa: ANN401
        return await self._facade.ipam_check()

    async def ipam_history(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.ipam_history()

    async def ipam_ring(self, _: web.Request) -> Any:  # noqa: ANN401
        return self._facade.ipam_ring()

    async def events(self, request: web.Request) -> web.StreamResponse:
        log = self._facade.daemon.events
        queue = log.listen()
        if queue is None:
            raise OperatorError("too many listen already", "too-many-listeners")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            await response.prepare(request)
            for event in list(log.past):
                await response.write(_event(event))
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), KEEPALIVE)
                    await response.write(_event(event))
                except TimeoutError:
                    await response.write(b": alive\n\n")
        except ConnectionError:
            return response
        finally:
            log.leave(queue)

    # ---- orders

    async def connect(self, body: Body) -> Any:  # noqa: ANN401
        return self._facade.connect(_texts(body["peers"]))

    async def forget(self, body: Body) -> Any:  # noqa: ANN401
        return self._facade.forget(_texts(body["peers"]))

    async def reload(self, _: Body) -> Any:  # noqa: ANN401
        return await self._facade.reload()

    async def attach(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.attach(
            AttachRequest(
                container=body["container"],
                ifname=_interface(body),
                netns=body["netns"],
                asked=tuple(_texts(body.get("addresses") or [], "addresses")),
                ranges=tuple(_texts(body.get("ranges") or [], "ranges")),
                mac=body.get("mac"),
                mtu=body.get("mtu"),
            )
        )

    async def detach(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.detach(body["container"], body.get("interface"))

    async def shape(self, body: Body) -> Any:  # noqa: ANN401
        numbers = {field.name: body.get(field.name) or 0 for field in fields(Shape)}
        return await self._facade.shape(body["container"], body.get("interface"), Shape(**numbers))

    async def expose(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.expose(body.get("address"))

    async def hide(self, _: Body) -> Any:  # noqa: ANN401
        return await self._facade.hide()

    async def ipam_allocate(self, body: Body) -> Any:  # noqa: ANN401
        ranges = _texts(body.get("ranges") or [], "ranges")
        return await self._facade.ipam_allocate(body["container"], _interface(body), ranges)

    async def ipam_claim(self, body: Body) -> Any:  # noqa: ANN401
        force = bool(body.get("force"))
        return await self._facade.ipam_claim(
            body["container"], _interface(body), body["address"], force=force
        )

    async def ipam_free(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.ipam_free(body["container"], _interface(body))

    async def ipam_add_range(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.ipam_add_range(body["range"])

    async def ipam_collect(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.ipam_collect(bool(body.get("dry_run")))

    async def ipam_reclaim(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.ipam_reclaim(body["peer"], bool(body.get("force")))

    async def ipam_resolve(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.ipam_resolve(body["address"])

    async def stop(self, _: Body) -> Any:  # noqa: ANN401
        return self._facade.stop()

    async def reset(self, body: Body) -> Any:  # noqa: ANN401
        return await self._facade.reset(bool(body.get("force")))


def _interface(body: Body) -> str:
    value = body.get("interface") or DEFAULT_INTERFACE
    assert isinstance(value, str)
    return value


def _texts(values: list[Any], what: str = "peers") -> list[str]:
    if len(values) > MAX_TEXTS or not all(
        isinstance(value, str) and len(value) <= MAX_TEXT and value.isprintable()
        for value in values
    ):
        raise OperatorError(f"{what} are at most {MAX_TEXTS} printable texts", "bad-request")
    return values


def _event(event: dict[str, object]) -> bytes:
    return f"data: {json.dumps(event, default=str)}\n\n".encode()

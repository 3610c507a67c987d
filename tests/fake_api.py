"""An API server with nodes and nothing else, good or bad. Errors and events have the form that
Kubernetes 1.20 gave them. ``python -m tests.fake_api ADDRESS PORT``: a good one, for real daemons;
PUT and DELETE of a node are a test's own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

from mesh.names import PeerName
from weaver.kubernetes.nodes import ANNOTATION

EXPIRED = {
    "kind": "Status",
    "apiVersion": "v1",
    "metadata": {},
    "status": "Failure",
    "message": "too old resource version: 1 (9)",
    "reason": "Expired",
    "code": 410,
}


class FakeApi:
    """Nodes in a dictionary, a log of events, and every way to be a bad server."""

    def __init__(self) -> None:
        self.nodes: dict[str, dict[str, Any]] = {}
        self.log: list[bytes] = []
        self.version = 100
        self.token = "first"
        self.asked: list[str] = []
        self.trouble = ""
        """down, stall, garbage, cut, expired, expired-event, empty-watch: until it is over."""
        self.page_size = 2
        self._news = asyncio.Condition()

    async def start(self, port: int, host: str = "127.0.0.1") -> None:
        app = web.Application()
        app.router.add_put("/api/v1/nodes/{name}", self._put)
        app.router.add_delete("/api/v1/nodes/{name}", self._delete)
        app.router.add_get("/api/v1/nodes", self._get)
        app.router.add_patch("/api/v1/nodes/{name}", self._patch)
        app.router.add_patch("/api/v1/nodes/{name}/status", self._patch_status)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port).start()

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def put(self, name: str, address: str, peer: PeerName | None = None) -> None:
        kind = "MODIFIED" if name in self.nodes else "ADDED"
        annotations = {} if peer is None else {ANNOTATION: str(peer)}
        self.nodes[name] = {
            "metadata": {"name": name, "annotations": annotations},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }
        await self._happened(kind, name)

    async def remove(self, name: str) -> None:
        await self._happened("DELETED", name)
        del self.nodes[name]

    async def troubled(self, trouble: str) -> None:
        self.trouble = trouble
        async with self._news:
            self._news.notify_all()

    async def _happened(self, kind: str, name: str) -> None:
        self.version += 1
        thing = self.nodes[name]
        thing["metadata"]["resourceVersion"] = str(self.version)
        self.log.append(json.dumps({"type": kind, "object": thing}).encode() + b"\n")
        async with self._news:
            self._news.notify_all()

    # ---- what is asked

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.query_string)
        if (refused := self._refused(request)) is not None:
            return refused
        if request.query.get("watch"):
            return await self._watched(request)
        if self.trouble == "garbage":
            return web.Response(body=b"<html>a proxy's error page</html>")
        begin = int(request.query.get("continue") or 0)
        end = begin + self.page_size
        names = sorted(self.nodes)
        meta = {"resourceVersion": str(self.version)}
        if end < len(names):
            meta["continue"] = str(end)
        items = [self.nodes[name] for name in names[begin:end]]
        return web.json_response({"kind": "NodeList", "metadata": meta, "items": items})

    def _refused(self, request: web.Request) -> web.Response | None:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.json_response({"code": 401, "reason": "Unauthorized"}, status=401)
        if self.trouble == "down":
            return web.Response(status=500, text="etcdserver: leader changed")
        if self.trouble == "expired" and request.query.get("watch"):
            return web.json_response(EXPIRED, status=410)
        return None

    async def _watched(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        at = len(self.log) - (self.version - int(request.query["resourceVersion"]))
        assert at >= 0
        while True:
            match self.trouble:
                case "stall":
                    pass
                case "garbage":
                    await answer.write(b'{"type": "ADDED", "obj')
                    await answer.write(b"\n")
                    return answer
                case "cut":
                    assert request.transport is not None
                    request.transport.abort()
                    return answer
                case "expired-event":
                    event = {"type": "ERROR", "object": EXPIRED}
                    await answer.write(json.dumps(event).encode() + b"\n")
                    return answer
                case "empty-watch" | "down":
                    return answer
                case _:
                    while at < len(self.log):
                        half = len(self.log[at]) // 2  # as it may arrive
                        await answer.write(self.log[at][:half])
                        await answer.write(self.log[at][half:])
                        at += 1
            async with self._news:
                await self._news.wait()

    async def _put(self, request: web.Request) -> web.Response:
        await self.put(request.match_info["name"], (await request.read()).decode())
        return web.Response()

    async def _delete(self, request: web.Request) -> web.Response:
        await self.remove(request.match_info["name"])
        return web.Response()

    async def _patch(self, request: web.Request) -> web.Response:
        return await self._patched(request, "metadata")

    async def _patch_status(self, request: web.Request) -> web.Response:
        return await self._patched(request, "status")

    async def _patched(self, request: web.Request, part: str) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        assert request.content_type == "application/strategic-merge-patch+json"
        name, body = request.match_info["name"], await request.json()
        assert list(body) == [part]
        self.nodes[name][part] |= body[part]
        await self._happened("MODIFIED", name)
        return web.json_response(self.nodes[name])


async def serve(host: str, port: int) -> None:
    api = FakeApi()
    api.token, api.page_size = "", 100
    await api.start(port, host)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))

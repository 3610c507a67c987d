"""A daemon that is a pod of every node: it keeps the mesh as the list of nodes is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from random import Random
from typing import Protocol

from mesh.connection.maker import Target
from mesh.errors import OperatorError
from mesh.names import PeerName
from weaver.kubernetes.client import NODES, ApiError, ApiServer
from weaver.kubernetes.follower import Follower, ListPage, WaitUntil, WatchFrom
from weaver.kubernetes.nodes import (
    ANNOTATION,
    CONDITION,
    REASON,
    Node,
    gone,
    leads,
    reduce,
    remembered,
    targets,
)

log = logging.getLogger(__name__)

LOOK_INTERVAL = 10.0
"""Seconds between looks whether something is left to do that could not be done before."""

GRACE = 20.0
"""Seconds for which a node must have been gone before its peer's space is taken: who deletes and
makes it anew at once keeps it."""

REST = 45.0
"""Seconds after which the addresses of a node that is gone may be given out again: the cluster
deleted its pods with it, and it has been out of reach that long."""


class Mesh(Protocol):
    """What is asked of the daemon."""

    @property
    def us(self) -> PeerName: ...
    @property
    def port(self) -> int: ...
    def not_ready(self) -> str | None: ...
    def connect(self, peers: frozenset[Target]) -> None: ...
    def forget(self, peers: frozenset[Target]) -> None: ...
    async def reclaim(self, peer: PeerName, rest: float) -> None: ...
    def load_nodes(self) -> dict[str, str]: ...
    def save_nodes(self, known: dict[str, str]) -> None: ...


class Agent:
    """``run`` until cancelled. ``node`` is the name of the node we run on."""

    def __init__(
        self, mesh: Mesh, api: ApiServer, node: str, rng: Random, now: Callable[[], float]
    ) -> None:
        self._mesh, self._api, self._node, self._now = mesh, api, node, now
        self.follower: Follower[Node] = Follower(reduce, rng)
        self._known = mesh.load_nodes()
        self._connected: frozenset[Target] = frozenset()
        self._gone_since: dict[str, float] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        async with self._api, asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep())

    # ---- hearing

    async def _follow(self) -> None:
        while True:
            match self.follower.next(self._now()):
                case WaitUntil(when):
                    await asyncio.sleep(when - self._now())
                case ListPage(token):
                    await self._list(token)
                case WatchFrom(version):
                    await self._watch(version)

    async def _list(self, token: str) -> None:
        try:
            page = await self._api.page(NODES, token)
        except ApiError as err:
            self._failed(err)
            return
        if self.follower.listed(page, self._now()):
            self._changed.set()

    async def _watch(self, version: str) -> None:
        try:
            async with aclosing(self._api.watch(NODES, version)) as lines:
                async for line in lines:
                    changed = self.follower.line(line, self._now())
                    if changed is None:
                        log.warning("nodes listed anew", extra={"reason": "watch-given-up"})
                        return
                    if changed:
                        self._changed.set()
        except ApiError as err:
            self._failed(err)
            return
        self.follower.ended(self._now())

    def _failed(self, err: ApiError) -> None:
        log.warning("api server failed", extra={"reason": err.reason, "error": str(err)})
        self.follower.failed(err.reason, self._now(), status=err.status)

    # ---- doing

    async def _keep(self) -> None:
        """Act on each change, and now and then on what is left."""
        while True:
            try:
                async with asyncio.timeout(LOOK_INTERVAL):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            if self.follower.synced:
                self._connect()
                await self._tell()
                await self._take_over()

    def _connect(self) -> None:
        wanted = targets(self.follower.objects, self._node, self._mesh.port)
        if new := wanted - self._connected:
            self._mesh.connect(new)
        if old := self._connected - wanted:
            self._mesh.forget(old)
        self._connected = wanted

    async def _tell(self) -> None:
        """Who we are, and that pods can be started here."""
        own = self.follower.objects.get(self._node)
        if own is None:
            log.warning("no such node", extra={"reason": "unknown-node", "node": self._node})
            return
        path = f"{NODES}/{self._node}"
        try:
            if own.peer != str(self._mesh.us):
                body = {"metadata": {"annotations": {ANNOTATION: str(self._mesh.us)}}}
                await self._api.patch(path, body)
            if not own.is_told and self._mesh.not_ready() is None:
                condition = {
                    "type": CONDITION,
                    "status": "False",
                    "reason": REASON,
                    "message": "weaver carries pods' traffic",
                }
                await self._api.patch(f"{path}/status", {"status": {"conditions": [condition]}})
        except ApiError as err:
            log.warning("node not told", extra={"reason": err.reason, "error": str(err)})

    async def _take_over(self) -> None:
        nodes = self.follower.objects
        known = remembered(self._known, nodes)
        lost = gone(known, nodes)
        now = self._now()
        self._gone_since = {peer: self._gone_since.get(peer, now) for peer in lost}
        if leads(str(self._mesh.us), nodes):
            for peer in lost:
                for_ = now - self._gone_since[peer]
                if for_ >= GRACE and await self._took_over(peer, REST - for_):
                    del known[peer]
        if known != self._known:
            self._known = known
            self._mesh.save_nodes(known)

    async def _took_over(self, peer: str, rest: float) -> bool:
        """Whether nothing is left to do: it is done, or there was nothing."""
        try:
            await self._mesh.reclaim(PeerName.parse(peer), max(0.0, rest))
        except OperatorError as err:
            if err.reason == "peer-alive":
                self._gone_since[peer] = self._now()
            log.info("space not taken over", extra={"peer": peer, "reason": err.reason})
            return err.reason == "owns-nothing"
        log.info("space taken over", extra={"peer": peer, "reason": "node-deleted"})
        return True

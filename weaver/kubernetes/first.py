"""What a daemon must know of its cluster before it starts: whom to connect to, how many elect.

A daemon that believes itself alone would divide the range alone, and its mesh could not be joined
with the others' any more. So it is not started before the nodes are listed; or, where that takes
too long, only as an observer, which goes on with what it has and waits for others' space otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from random import Random

from mesh.errors import OperatorError
from weaver.config import Config
from weaver.kubernetes.client import NODES, ApiError, ApiServer
from weaver.kubernetes.follower import Follower, ListPage, WaitUntil
from weaver.kubernetes.nodes import Node, reduce, targets

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait for the API server. A control plane that starts with its first node needs 10;
pods of a node that was rebooted while it is down shall not wait for ever."""


async def with_nodes(
    config: Config, api: ApiServer, rng: Random, now: Callable[[], float]
) -> Config:
    """The configuration with peers and electors of the cluster, as far as it can be known."""
    async with api:
        try:
            async with asyncio.timeout(PATIENCE):
                nodes = await _listed(api, rng, now)
        except TimeoutError:
            log.warning("nodes not listed", extra={"reason": "api-unreachable"})
            return replace(config, observer=not config.seed)
    if config.node not in nodes:
        known = " ".join(sorted(nodes)[:5])
        raise OperatorError(f"no node is called {config.node}, but {known} …", "unknown-node")
    others = sorted(targets(nodes, config.node, config.port), key=str)
    return replace(
        config,
        peers=tuple(dict.fromkeys((*config.peers, *others))),
        init_peer_count=config.init_peer_count or len(nodes),
    )


async def _listed(api: ApiServer, rng: Random, now: Callable[[], float]) -> Mapping[str, Node]:
    follower: Follower[Node] = Follower(reduce, rng)
    while not follower.synced:
        asked = follower.next(now())
        if isinstance(asked, WaitUntil):
            await asyncio.sleep(asked.when - now())
        elif isinstance(asked, ListPage):
            try:
                follower.listed(await api.page(NODES, asked.token), now())
            except ApiError as err:
                log.warning("api server failed", extra={"reason": err.reason, "error": str(err)})
                follower.failed(err.reason, now(), status=err.status)
    return follower.objects

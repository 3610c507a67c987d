"""The API server, as a pod speaks to it: aiohttp, the service account's token and authority."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from mesh.errors import OperatorError
from weaver.kubernetes.follower import MAX_LINE, PAGE

Json = dict[str, Any]

NODES = "/api/v1/nodes"

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ANSWER_TIMEOUT = 30.0
"""Seconds for a whole answer that is no watch."""

WATCH_TIME = 240
"""Seconds that we ask a watch to last: the server ends it then, having sent a bookmark."""

SILENCE = WATCH_TIME + 30.0
"""Seconds without an octet in a watch after which the server is not there any more."""

MAX_ANSWER = 64 << 20
"""Octets of one page: 500 nodes of 30 KiB are 15 MB."""


class ApiError(Exception):
    """``reason`` is a stable word; ``status`` what HTTP said, if it came so far."""

    def __init__(self, reason: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.reason, self.status = reason, status


class ApiServer:
    """Of the cluster that this process is a pod of, or at ``url``. An async context manager."""

    def __init__(self, url: str, account: Path = ACCOUNT) -> None:
        self._url, self._account = url.rstrip("/"), account

    async def __aenter__(self) -> Self:
        """Raises OperatorError "no-service-account"."""
        try:
            authority = self._account / "ca.crt"
            context = ssl.create_default_context(
                cafile=str(authority) if authority.exists() else None
            )
        except OSError as err:
            raise OperatorError(f"{self._account}: {err}", "no-service-account") from err
        connector = aiohttp.TCPConnector(ssl=context, limit=8)
        self._session = aiohttp.ClientSession(connector=connector, read_bufsize=1 << 18)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def page(self, path: str, token: str) -> object:
        """A page of a list. Raises ApiError."""
        query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
        return await self._answer("GET", path, params=query)

    async def patch(self, path: str, body: Json) -> None:
        """A strategic merge patch. Raises ApiError."""
        kind = "application/strategic-merge-patch+json"
        data = json.dumps(body).encode()
        await self._answer("PATCH", path, data=data, headers={"Content-Type": kind})

    async def watch(self, path: str, version: str) -> AsyncGenerator[bytes, None]:
        """The lines of a watch until it ends. Raises ApiError."""
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_TIME),
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=ANSWER_TIMEOUT, sock_read=SILENCE)
        try:
            async with self._session.get(
                self._url + path, params=query, headers=self._headers(), timeout=timeout
            ) as answer:
                await _demand_success(answer)
                async for line in _lines(answer.content):
                    yield line
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise _explained(err) from err

    async def _answer(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **more: Any,  # noqa: ANN401  # aiohttp's
    ) -> object:
        timeout = aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)
        own = {**self._headers(), **(headers or {})}
        try:
            async with self._session.request(
                method, self._url + path, headers=own, timeout=timeout, **more
            ) as answer:
                await _demand_success(answer)
                data = await _at_most(answer.content, MAX_ANSWER)
        except (aiohttp.ClientError, TimeoutError, OSError) as err:
            raise _explained(err) from err
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as err:
            raise ApiError("garbage", "the answer is no JSON") from err

    def _headers(self) -> dict[str, str]:
        """With the token as it is now: it expires within hours, and its file is written anew."""
        try:
            token = (self._account / "token").read_text().strip()
        except OSError:
            return {}
        return {"Authorization": f"Bearer {token}"} if token else {}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE:
            raise ApiError("garbage", f"a line of more than {MAX_LINE} octets")


async def _at_most(content: aiohttp.StreamReader, limit: int) -> bytes:
    data = bytearray()
    async for piece in content.iter_any():
        data += piece
        if len(data) > limit:
            raise ApiError("garbage", f"an answer of more than {limit} octets")
    return bytes(data)


async def _demand_success(answer: aiohttp.ClientResponse) -> None:
    if answer.status < 300:
        return
    said = (await _at_most(answer.content, 1 << 16))[:300].decode(errors="replace")
    reasons = {401: "unauthorized", 403: "forbidden", 410: "expired", 429: "too-many-requests"}
    reason = reasons.get(answer.status, "api-error")
    raise ApiError(reason, f"{answer.status}: {said}", answer.status)


def _explained(err: Exception) -> ApiError:
    if isinstance(err, TimeoutError | asyncio.TimeoutError):
        return ApiError("api-silent", "no answer in time")
    return ApiError("api-unreachable", str(err) or type(err).__name__)

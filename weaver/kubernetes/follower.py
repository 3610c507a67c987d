"""Following all objects of one kind in the Kubernetes API: what to ask next, and what is there.

Pure: a driver asks, and tells what it heard. First everything is listed, page by page; then changes
are watched from the version that the list had, and, whenever a watch ends, from where it ended. A
version that the server has forgotten (410, as a status or within a watch) means to list again. What
is not understood is not guessed at: the watch is given up and everything listed again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

PAGE = 500
"""Objects of one page of a list."""

MAX_OBJECTS = 20_000
"""Objects that are followed: four times the nodes that Kubernetes supports."""

MAX_LINE = 4 << 20
"""Octets of one event; etcd keeps no object of more than 1.5 MiB."""

FIRST_BACKOFF, MAX_BACKOFF = 1.0, 30.0
"""Seconds until the next attempt after the first failure, doubled with each, and at most."""

SHORT_WATCH = 5.0
"""Seconds: a watch that ends sooner, having said nothing, counts as a failure."""

GONE = 410


@dataclass(frozen=True, slots=True)
class ListPage:
    """``token`` of the page before; empty for the first."""

    token: str = ""


@dataclass(frozen=True, slots=True)
class WatchFrom:
    version: str


@dataclass(frozen=True, slots=True)
class WaitUntil:
    when: float


Ask = ListPage | WatchFrom | WaitUntil


class Follower(Generic[T]):
    """``reduce`` keeps of an object what is needed, under its name; None: nothing of it.

    ``objects`` is what the server said last; it stays while the server cannot be reached.
    ``synced`` says whether it has ever been whole. ``faults`` counts failures by reason.
    """

    def __init__(self, reduce: Callable[[Json], T | None], rng: Random) -> None:
        self._reduce, self._rng = reduce, rng
        self.objects: dict[str, T] = {}
        self.synced = False
        self.faults: dict[str, int] = {}
        self._version = ""
        self._token = ""
        self._pages: dict[str, T] = {}
        self._failures = 0
        self._not_before = 0.0
        self._watch_began = 0.0
        self._heard = False

    def next(self, now: float) -> Ask:
        if now < self._not_before:
            return WaitUntil(self._not_before)
        if not self._version:
            return ListPage(self._token)
        self._watch_began, self._heard = now, False
        return WatchFrom(self._version)

    def listed(self, page: object, now: float) -> bool:
        """A page of the list came; whether what there is has changed."""
        try:
            version, token, found = self._read_page(page)
        except (TypeError, KeyError, AttributeError):
            self._fail("garbage", now, relist=True)
            return False
        self._pages |= found
        if len(self._pages) > MAX_OBJECTS:
            self._fail("too-many-objects", now, relist=True)
            return False
        self._token = token
        if token:
            return False
        changed = self._pages != self.objects or not self.synced
        self.objects, self._pages = self._pages, {}
        self._version, self.synced = version, True
        return changed

    def line(self, data: bytes, now: float) -> bool | None:
        """A line of a watch came; whether it changed anything, or None: give the watch up."""
        try:
            event = json.loads(data)
            kind, thing = event["type"], event["object"]
            if kind == "ERROR":
                code = thing.get("code")
                self._fail("expired" if code == GONE else "watch-error", now, relist=True)
                return None
            meta = thing["metadata"]
            version = meta["resourceVersion"]
            if not isinstance(version, str) or not version:
                raise TypeError("no version")
            changed = kind != "BOOKMARK" and self._changed(kind, meta["name"], thing)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self._fail("garbage", now, relist=True)
            return None
        self._version = version
        self._failures, self._heard = 0, True
        return changed

    def ended(self, now: float) -> None:
        """The watch ended as all do: it goes on where it ended."""
        if not self._heard and now - self._watch_began < SHORT_WATCH:
            self._fail("watch-short", now)

    def failed(self, reason: str, now: float, *, status: int | None = None) -> None:
        """An answer that was none, or that did not come."""
        gone = status == GONE
        self._fail("expired" if gone else reason, now, relist=gone or bool(self._token))

    def _changed(self, kind: str, name: object, thing: Json) -> bool:
        if not isinstance(name, str):
            raise TypeError("a name that is no text")
        before = self.objects.get(name)
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            raise ValueError(kind)
        after = None if kind == "DELETED" else self._reduce(thing)
        if after is None:
            self.objects.pop(name, None)
        elif len(self.objects) < MAX_OBJECTS or before is not None:
            self.objects[name] = after
        return before != self.objects.get(name)

    def _read_page(self, page: object) -> tuple[str, str, dict[str, T]]:
        if not isinstance(page, dict):
            raise TypeError("not an object")
        meta = page["metadata"]
        version, token = meta["resourceVersion"], meta.get("continue") or ""
        if not isinstance(version, str) or not version or not isinstance(token, str):
            raise TypeError("no version")
        found: dict[str, T] = {}
        for thing in page.get("items") or ():
            name = thing["metadata"]["name"]
            if not isinstance(name, str):
                raise TypeError("a name that is no text")
            kept = self._reduce(thing)
            if kept is not None:
                found[name] = kept
        return version, token, found

    def _fail(self, reason: str, now: float, *, relist: bool = False) -> None:
        self.faults[reason] = self.faults.get(reason, 0) + 1
        if relist:
            self._version = self._token = ""
            self._pages = {}
        delay = min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(self._failures, 10))
        # The first expiry is everyday; the first failure may be a server that restarts.
        self._failures += 1
        self._not_before = now + delay * self._rng.uniform(0.5, 1.0)

"""Following a list: pages, events, bookmarks, what expires, what lies, how long we wait then."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaver.kubernetes import follower as module
from weaver.kubernetes.follower import Follower, ListPage, WaitUntil, WatchFrom

NOTHING: dict[str, int] = {}


def made() -> Follower[str]:
    return Follower(lambda thing: str(thing["spec"]), Random(1))


def thing(name: str, spec: str, version: str = "5") -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": version}, "spec": spec}


def page(*things: Any, version: str = "10", token: str = "") -> dict[str, Any]:
    meta = {"resourceVersion": version} | ({"continue": token} if token else {})
    return {"metadata": meta, "items": list(things)}


def event(kind: str, what: object) -> bytes:
    return json.dumps({"type": kind, "object": what}).encode()


def watching() -> Follower[str]:
    one = made()
    assert one.next(0) == ListPage()
    assert one.listed(page(thing("a", "1")), 0)
    assert one.next(0) == WatchFrom("10")
    return one


def test_a_list_of_several_pages_counts_when_it_is_whole() -> None:
    one = made()
    assert one.next(0) == ListPage()
    assert not one.listed(page(thing("a", "1"), token="next"), 0)
    assert (one.objects, one.synced) == ({}, False)
    assert one.next(0) == ListPage("next")
    assert one.listed(page(thing("b", "2"), version="11"), 0)
    assert (one.objects, one.synced) == ({"a": "1", "b": "2"}, True)
    assert one.next(0) == WatchFrom("11")


def test_events_change_what_there_is() -> None:
    one = watching()
    assert one.line(event("ADDED", thing("b", "2", "11")), 1) is True
    assert one.line(event("MODIFIED", thing("b", "2", "12")), 1) is False  # nothing we keep
    assert one.line(event("MODIFIED", thing("a", "3", "13")), 1) is True
    assert one.line(event("DELETED", thing("b", "2", "14")), 1) is True
    assert one.line(event("DELETED", thing("nobody", "", "15")), 1) is False
    assert one.objects == {"a": "3"}
    one.ended(1)
    assert one.next(1) == WatchFrom("15")


def test_a_bookmark_moves_only_the_version() -> None:
    one = watching()
    assert one.line(event("BOOKMARK", {"metadata": {"resourceVersion": "99"}}), 1) is False
    one.ended(1)
    assert (one.next(1), one.objects) == (WatchFrom("99"), {"a": "1"})


@pytest.mark.parametrize("way", ["event", "status"])
def test_an_expired_version_means_to_list_again_and_forgets_nothing_meanwhile(way: str) -> None:
    one = watching()
    if way == "event":
        status = {"kind": "Status", "code": 410, "reason": "Expired"}
        assert one.line(event("ERROR", status), 1) is None
    else:
        one.failed("expired", 1, status=410)
    assert one.faults == {"expired": 1}
    assert one.objects == {"a": "1"}
    waiting = one.next(1)
    assert isinstance(waiting, WaitUntil)
    assert 1.5 <= waiting.when <= 2
    assert one.next(2) == ListPage()
    assert one.listed(page(thing("b", "2"), version="20"), 2)
    assert one.objects == {"b": "2"}  # a was deleted while nobody told us


def test_a_list_that_expires_between_two_pages_begins_anew() -> None:
    one = made()
    one.listed(page(thing("a", "1"), token="next"), 0)
    one.failed("expired", 0, status=410)
    assert one.next(9) == ListPage()
    one.listed(page(thing("b", "2")), 9)
    assert one.objects == {"b": "2"}


def test_failures_wait_longer_each_time_up_to_a_bound_and_success_forgets_them() -> None:
    one = watching()
    now, waits = 0.0, []
    for _ in range(12):
        one.failed("api-unreachable", now)
        asked = one.next(now)
        assert isinstance(asked, WaitUntil)
        waits.append(asked.when - now)
        now = asked.when
    assert waits[0] <= 1
    assert max(waits) <= 30
    assert waits[-1] >= 15
    assert one.next(now) == WatchFrom("10")  # where it was: nothing is listed for it
    assert one.line(event("ADDED", thing("b", "2", "11")), now) is True
    one.failed("api-unreachable", now)
    asked = one.next(now)
    assert isinstance(asked, WaitUntil)
    assert asked.when - now <= 1


def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause() -> None:
    one = watching()
    one.ended(0.1)
    assert isinstance(one.next(0.1), WaitUntil)
    one = watching()
    one.ended(240)
    assert one.next(240) == WatchFrom("10")


GARBAGE = [
    b"{",
    b"7",
    b"[]",
    b"null",
    b"\xff",
    b"[" * 100_000,
    event("ADDED", 7),
    event("ADDED", {}),
    event("ADDED", {"metadata": 7}),
    event("ADDED", {"metadata": {"resourceVersion": "11"}, "spec": ""}),
    event("ADDED", {"metadata": {"name": "b", "resourceVersion": 11}, "spec": ""}),
    event("ADDED", {"metadata": {"name": 7, "resourceVersion": "11"}, "spec": ""}),
    event("ADDED", {"metadata": {"name": "b", "resourceVersion": "11"}}),
    event("INVENTED", thing("b", "2", "11")),
    event("BOOKMARK", {"metadata": {}}),
    event("BOOKMARK", {"metadata": {"resourceVersion": ""}}),
    b'{"type": "ADDED"}',
]


@pytest.mark.parametrize("line", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_not_understood_ends_the_watch_and_changes_nothing(line: bytes) -> None:
    one = watching()
    assert one.line(line, 1) is None
    assert one.faults == {"garbage": 1}
    assert one.objects == {"a": "1"}
    assert one.next(10) == ListPage()


NO_PAGES: list[object] = [
    None, 7, [], {}, {"metadata": {}}, {"metadata": {"resourceVersion": ""}},
    page(7), page({}), page(thing("a", "1"), {"metadata": {"name": 7}, "spec": ""}),
    {"metadata": {"resourceVersion": "1", "continue": 7}},
    {"metadata": {"resourceVersion": "1"}, "items": 7},
]  # fmt: skip


@pytest.mark.parametrize("what", NO_PAGES, ids=range(len(NO_PAGES)))
def test_a_page_that_is_none_changes_nothing(what: object) -> None:
    one = made()
    assert one.listed(what, 0) is False
    assert (one.objects, one.synced, one.faults) == ({}, False, {"garbage": 1})
    assert isinstance(one.next(0), WaitUntil)
    assert one.next(9) == ListPage()


def test_more_objects_than_can_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OBJECTS", 2)
    one = made()
    one.listed(page(*(thing(name, "1") for name in "abc")), 0)
    assert (one.objects, one.faults) == ({}, {"too-many-objects": 1})
    one = watching()
    for number, name in enumerate("bcd"):
        one.line(event("ADDED", thing(name, "1", f"1{number}")), 1)
    assert sorted(one.objects) == ["a", "b"]


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(GARBAGE))))
def test_no_line_raises(lines: list[bytes]) -> None:
    one = watching()
    for line in lines:
        assert one.line(line, 1) in (None, True, False)

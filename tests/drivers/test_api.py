"""The HTTP server on a real socket and a real port, in front of a daemon's stand-in."""

from __future__ import annotations

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mesh.errors import OperatorError
from tests.drivers.test_mesh_driver import free_port
from weaver.api.routes import ROUTES, openapi
from weaver.api.schemas import ROWS
from weaver.api.server import MAX_BODY, ApiServer, load_token, make_app, make_way
from weaver.daemon.events import EventLog
from weaver.daemon.facade import Facade


class StandIn:
    """What handlers ask of a facade, answered with what they were given."""

    def __init__(self) -> None:
        self.events = EventLog()
        self.daemon = self

    def not_ready(self) -> str | None:
        return None

    def version(self) -> Any:
        return {"version": "9"}

    def part(self, name: str) -> Any:
        return [name]

    def ipam_list(self) -> Any:
        return []

    def connect(self, peers: list[str]) -> Any:
        if peers == ["bug"]:
            raise ZeroDivisionError
        return {"targets": peers}

    async def detach(self, container: str, ifname: str | None) -> Any:
        raise OperatorError(f"{container} is not attached", "not-attached")


class Api:
    def __init__(self, port: int, socket: Path, token: str) -> None:
        self.port, self.socket, self.token = port, socket, token
        self.facade = StandIn()

    async def ask(
        self, method: str, path: str, *, unix: bool = True, data: Any = None, **headers: str
    ) -> tuple[int, Any]:
        connector = aiohttp.UnixConnector(str(self.socket)) if unix else aiohttp.TCPConnector()
        url = f"http://localhost:{self.port}{path}"
        body = io.BytesIO(data) if isinstance(data, bytes) else data and json.dumps(data)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, url, data=body, headers=headers) as response,
        ):
            text = await response.text()
            is_json = "json" in response.headers["Content-Type"]
            return response.status, json.loads(text) if is_json else text


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    made = Api(free_port(), tmp_path / "weaver.sock", "")
    server = ApiServer(made.facade)  # type: ignore[arg-type]  # what handlers use of it
    await server.start(made.socket, ("127.0.0.1", made.port), tmp_path / "token")
    made.token = (tmp_path / "token").read_text().strip()
    yield made
    await server.close()


async def test_the_socket_and_the_token_are_their_owners_alone(api: Api, tmp_path: Path) -> None:
    assert api.socket.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "reason"),
    [
        ("GET", "/v1/nothing", None, 404, "not-found"),
        ("POST", "/v1/peers", None, 405, "method-not-allowed"),
        ("POST", "/v1/connect", b"{", 400, "bad-request"),
        ("POST", "/v1/connect", b"[" * 100_000, 400, "bad-request"),
        ("POST", "/v1/connect", b"[]", 400, "bad-request"),
        ("POST", "/v1/connect", {}, 400, "bad-request"),
        ("POST", "/v1/connect", {"peers": "x"}, 400, "bad-request"),
        ("POST", "/v1/connect", {"peers": [1]}, 400, "bad-request"),
        ("POST", "/v1/connect", {"peers": ["x"], "more": 1}, 400, "bad-request"),
        ("POST", "/v1/connect", b"x" * (MAX_BODY + 1), 413, "too-large"),
        ("POST", "/v1/ipam/allocate", {"container": "\ud800"}, 400, "bad-request"),
        ("POST", "/v1/ipam/allocate", {"container": "a\0b"}, 400, "bad-request"),
        ("POST", "/v1/ipam/allocate", {"container": "x" * 5000}, 400, "bad-request"),
        (
            "POST",
            "/v1/attachments",
            {"container": "a", "netns": "b", "mtu": True},
            400,
            "bad-request",
        ),
        ("DELETE", "/v1/attachments", {"container": "a"}, 404, "not-attached"),
        ("POST", "/v1/connect", {"peers": ["bug"]}, 500, "internal-error"),
    ],
)
async def test_what_is_wrong_is_one_json_error(
    api: Api, method: str, path: str, data: Any, status: int, reason: str
) -> None:
    got, answer = await api.ask(method, path, data=data)
    assert (got, answer["error"]["reason"]) == (status, reason)
    assert await api.ask("POST", "/v1/connect", data={"peers": ["a"]}) == (200, {"targets": ["a"]})


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Host": "evil.example"}, 403, "wrong-host"),
        ({"Origin": "http://evil.example"}, 403, "wrong-origin"),
        ({}, 401, "no-token"),
        ({"Authorization": "Bearer wrong"}, 403, "wrong-token"),
        ({"Authorization": "Bearer "}, 401, "no-token"),
        ({"Authorization": "Basic wrong"}, 401, "no-token"),
    ],
)
async def test_the_port_refuses_what_others_could_send(
    api: Api, headers: dict[str, str], status: int, reason: str
) -> None:
    data = {"peers": ["a"]}
    got, answer = await api.ask("POST", "/v1/connect", unix=False, data=data, **headers)
    assert (got, answer["error"]["reason"]) == (status, reason)
    bearer = f"Bearer {api.token}"
    good = await api.ask("POST", "/v1/connect", unix=False, data=data, Authorization=bearer)
    assert good == (200, {"targets": ["a"]})


async def test_reading_on_the_port_needs_no_token_but_our_host(api: Api) -> None:
    assert await api.ask("GET", "/v1/version", unix=False) == (200, {"version": "9"})
    assert (await api.ask("GET", "/v1/version", unix=False, Host="evil.example"))[0] == 403
    assert await api.ask("GET", "/healthz", unix=False) == (200, "ok\n")
    assert await api.ask("GET", "/readyz", unix=False) == (200, "ok\n")


@pytest.mark.parametrize("before", ["", "\n", None])
def test_a_token_is_made_whole_and_kept(tmp_path: Path, before: str | None) -> None:
    """An empty file, as a full disk left it, would lock everybody out for good."""
    file = tmp_path / "api-token"
    if before is not None:
        file.write_text(before)
    token = load_token(file)
    assert len(token) > 32
    assert load_token(file) == token
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_a_token_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError) as caught:
        load_token(tmp_path)
    assert caught.value.reason == "token-unusable"


async def test_a_living_daemons_socket_is_left_alone(api: Api) -> None:
    with pytest.raises(OperatorError) as caught:
        make_way(api.socket)
    assert caught.value.reason == "socket-in-use"
    assert await api.ask("GET", "/healthz") == (200, "ok\n")


def test_a_dead_daemons_socket_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "run" / "weaver.sock"
    make_way(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    make_way(path)
    assert not path.exists()
    with pytest.raises(OperatorError) as caught:
        make_way(Path("/dev/null/weaver.sock"))
    assert caught.value.reason == "run-dir-unusable"


async def test_events_are_streamed(api: Api) -> None:
    api.facade.events.add("before", {})
    connector = aiohttp.UnixConnector(str(api.socket))
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://localhost/v1/events") as response,
    ):
        first = json.loads((await response.content.readline()).removeprefix(b"data: "))
        await response.content.readline()
        api.facade.events.add("after", {"peer": "x"})
        second = json.loads((await response.content.readline()).removeprefix(b"data: "))
    assert (first["event"], second["event"], second["peer"]) == ("before", "after", "x")


def test_a_slow_listener_is_told_what_it_lost() -> None:
    log = EventLog()
    queue = log.listen()
    assert queue is not None
    for n in range(5000):
        log.add("many", {"n": n})
    assert queue.qsize() <= 1024
    last = None
    while not queue.empty():
        last = queue.get_nowait()
    assert last is not None
    assert last["event"] == "events lost"


def test_the_description_is_of_the_routes_that_there_are() -> None:
    app = make_app(StandIn(), [])  # type: ignore[arg-type]  # never asked here
    served = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    described = {
        (method.upper(), path) for path, methods in openapi()["paths"].items() for method in methods
    }
    assert served == described == {(route.method, route.path) for route in ROUTES}


def test_the_description_says_what_rows_are_made_of() -> None:
    """Every field of every row; of those that may be missing, that they may."""
    described = openapi()
    for path, row in ROWS.items():
        answer = described["paths"][path]["get"]["responses"]["200"]["content"]
        assert answer["application/json"]["schema"]["items"] == {
            "$ref": f"#/components/schemas/{row.__name__}"
        }
        schema = described["components"]["schemas"][row.__name__]
        names = [field.name for field in fields(row)]
        assert list(schema["properties"]) == schema["required"] == names
    link = described["components"]["schemas"]["LinkStatus"]["properties"]
    assert link["cipher"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert link["hops"] == {"type": "integer"}
    assert link["rtt"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert json.loads(json.dumps(described)) == described


def test_the_facade_has_what_the_stand_in_has() -> None:
    ours = {name for name in vars(StandIn) if not name.startswith("_")}
    assert ours <= {name for name in dir(Facade) if not name.startswith("_")}

"""Attaching: nothing half done stays, nothing is done twice, everything survives a crash."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from ipam.effects import AllocationKey
from mesh.errors import OperatorError
from tests.unit.network_twin import IpamTwin, NetworkTwin, pools
from weaver.daemon.attach import Attacher, AttachRequest, host_name
from weaver.daemon.attach_store import AttachmentStore
from weaver.daemon.network import Shape

WEB = AttachRequest("web", "eth0", "/ns/web", network="net")
KEY = AllocationKey("web", "eth0")


class Host:
    """An attacher between twins; ``restart`` is kill -9 and a new start on the same file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "attachments.db"
        self.network, self.ipam = NetworkTwin(), IpamTwin()
        self.network.namespaces = {"/ns/web": set(), "/ns/db": set()}
        self.restart()

    def restart(self) -> None:
        self.store = AttachmentStore(self.path)
        self.attacher = Attacher(pools(self.ipam), self.network, self.store, 1420)

    @property
    def is_clean(self) -> bool:
        return not (
            self.network.pairs or self.ipam.held or self.store.load() or self.attacher.list()
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


async def test_attach_and_detach(host: Host) -> None:
    row = await host.attacher.attach(WEB)
    assert (row.addresses, row.mtu, row.ready) == (("10.32.0.1/24",), 1420, True)
    assert host.attacher.list() == [row]
    assert host.network.bridge == {row.host}
    assert await host.attacher.detach("web", "eth0") == 1
    assert host.is_clean
    assert await host.attacher.detach("web", "eth0") == 0


async def test_attach_twice_answers_the_same(host: Host) -> None:
    assert await host.attacher.attach(WEB) == await host.attacher.attach(WEB)
    assert len(host.network.pairs) == 1


async def test_what_is_broken_is_made_anew_with_its_address(host: Host) -> None:
    first = await host.attacher.attach(WEB)
    host.network.bridge.clear()
    assert await host.attacher.attach(WEB) == first
    assert host.network.bridge == {first.host}


async def test_a_live_attachment_is_not_moved(host: Host) -> None:
    first = await host.attacher.attach(WEB)
    elsewhere = AttachRequest("web", "eth0", "/ns/db")
    with pytest.raises(OperatorError) as caught:
        await host.attacher.attach(elsewhere)
    assert caught.value.reason == "interface-exists"
    assert host.attacher.list() == [first]
    host.network.kill("/ns/web")  # the container came back under its name
    moved = await host.attacher.attach(elsewhere)
    assert (moved.netns, moved.addresses) == ("/ns/db", first.addresses)


async def test_another_runtimes_detach_of_the_same_name_is_not_this_ones(host: Host) -> None:
    row = await host.attacher.attach(WEB)
    assert await host.attacher.detach("web", "eth0", "/ns/db") == 0
    assert host.attacher.list() == [row]
    host.network.kill("/ns/web")  # nobody is there to be kept
    assert await host.attacher.detach("web", "eth0", "/ns/db") == 1
    assert host.is_clean


async def test_a_bound_is_remembered_and_only_of_whom_it_was_said(host: Host) -> None:
    await host.attacher.attach(WEB)
    other = await host.attacher.attach(AttachRequest("web", "net1", "/ns/web"))
    bound = Shape(egress_rate=8_000_000)
    assert await host.attacher.shape("web", "eth0", bound) == 1
    assert await host.attacher.shape("nobody", None, bound) == 0
    host.restart()
    found = {row.ifname: row.shape for row in host.attacher.list()}
    assert found == {"eth0": bound, "net1": other.shape}
    assert await host.attacher.shape("web", None, Shape()) == 2


async def test_who_is_not_masked_is_told_and_forgotten_with_the_pod(host: Host) -> None:
    await host.attacher.attach(WEB)
    await host.attacher.expose()
    assert not host.network.plain
    row = await host.attacher.attach(AttachRequest("plain", "eth0", "/ns/db", masquerade=False))
    assert host.network.plain == (row.addresses[0].partition("/")[0],)
    await host.attacher.detach("plain")
    assert not host.network.plain


@pytest.mark.parametrize("method", ["attach"])
async def test_a_failure_leaves_nothing(host: Host, method: str) -> None:
    def fail(called: str) -> None:
        if called == method:
            raise OperatorError("the kernel said no", "kernel-refused")

    host.network.before = fail
    with pytest.raises(OperatorError):
        await host.attacher.attach(WEB)
    assert host.is_clean
    host.network.before = lambda _method: None
    await host.attacher.attach(WEB)


async def test_a_failed_undo_stays_recorded_for_the_next_start(host: Host) -> None:
    def fail(called: str) -> None:
        raise OperatorError("the helper is gone", "helper-failed")

    host.network.before = fail
    with pytest.raises(OperatorError):
        await host.attacher.attach(WEB)
    assert host.attacher.list() == []  # nobody is shown what is not there
    host.network.before = lambda _method: None
    host.restart()
    await host.attacher.reconcile()
    assert host.is_clean


async def test_a_cancelled_attach_leaves_nothing(host: Host) -> None:
    host.ipam.before = asyncio.Event().wait
    attaching = asyncio.ensure_future(host.attacher.attach(WEB))
    await asyncio.sleep(0)
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    assert host.is_clean


async def test_detach_waits_for_the_attach_it_ends(host: Host) -> None:
    allowed = asyncio.Event()
    host.ipam.before = allowed.wait
    attaching = asyncio.ensure_future(host.attacher.attach(WEB))
    await asyncio.sleep(0)
    detaching = asyncio.ensure_future(host.attacher.detach("web", "eth0"))
    await asyncio.sleep(0)
    allowed.set()
    await attaching
    await detaching
    assert host.is_clean


async def test_attaches_of_one_key_make_one_attachment(host: Host) -> None:
    rows = await asyncio.gather(*(host.attacher.attach(WEB) for _ in range(8)))
    assert len({row.addresses for row in rows}) == 1
    assert len(host.network.pairs) == 1


async def test_crash_before_anything_was_made_leaves_an_intent_that_the_start_ends(
    host: Host,
) -> None:
    class KilledError(BaseException):
        pass

    async def killed(_key: object) -> None:
        raise KilledError

    host.attacher._undo = killed  # type: ignore[method-assign,assignment]  # a killed process undoes nothing

    def kill(called: str) -> None:
        raise KilledError

    host.network.before = kill
    with pytest.raises(KilledError):
        await host.attacher.attach(WEB)
    host.network.before = lambda _method: None
    assert host.ipam.holds(KEY)
    host.restart()
    await host.attacher.reconcile()
    assert host.is_clean


async def test_start_keeps_the_living_and_frees_the_dead(host: Host) -> None:
    web = await host.attacher.attach(WEB)
    await host.attacher.attach(AttachRequest("db", "eth0", "/ns/db"))
    host.network.kill("/ns/db")
    host.network.bridge.clear()  # somebody removed the bridge and it was made again
    host.restart()
    await host.attacher.reconcile()
    assert host.attacher.list() == [web]
    assert host.network.bridge == {web.host}
    assert set(host.ipam.held) == {KEY}


async def test_exposure_survives_a_restart(host: Host) -> None:
    cidr = await host.attacher.expose()
    assert await host.attacher.expose() == cidr
    host.network.bridge_addresses = ()
    host.restart()
    await host.attacher.reconcile()
    assert host.attacher.exposed == cidr
    assert host.network.bridge_addresses == cidr
    assert await host.attacher.hide() == cidr
    assert host.network.bridge_addresses == ()
    assert host.ipam.held == {}
    host.restart()
    await host.attacher.reconcile()
    assert host.attacher.exposed == ()


async def test_exposing_another_address_gives_the_first_back(host: Host) -> None:
    await host.attacher.expose(["10.32.0.7"])
    assert await host.attacher.expose(["10.32.0.9"]) == ("10.32.0.9/24",)
    assert (host.network.bridge_addresses, len(host.ipam.held)) == (("10.32.0.9/24",), 1)


async def test_addresses_from_elsewhere_are_used_as_they_are(host: Host) -> None:
    request = AttachRequest("web", "eth0", "/ns/web", addresses=("192.0.2.5/24",))
    row = await host.attacher.attach(request)
    assert (row.addresses, host.ipam.held) == (("192.0.2.5/24",), {})


async def test_collect_spares_the_valid_and_other_networks_and_goes_on_after_a_failure(
    host: Host,
) -> None:
    for container, network in (("a", "net"), ("b", "net"), ("c", "net"), ("d", "other")):
        host.network.namespaces[f"/ns/{container}"] = set()
        netns = f"/ns/{container}"
        await host.attacher.attach(AttachRequest(container, "eth0", netns, network=network))
    failures = iter([OperatorError("busy", "kernel-refused")])

    def fail_once(called: str) -> None:
        if called == "delete" and (failure := next(failures, None)) is not None:
            raise failure

    host.network.before = fail_once
    with pytest.raises(OperatorError):
        await host.attacher.collect("net", {("b", "eth0")}, leases=False)
    assert [row.container for row in host.attacher.list()] == ["a", "b", "d"]
    await host.attacher.collect("net", {("b", "eth0")}, leases=False)
    assert [row.container for row in host.attacher.list()] == ["b", "d"]


def test_host_names_fit_and_differ() -> None:
    names = {host_name(f"c{n}", i) for n in range(200) for i in ("eth0", "eth1")}
    assert len(names) == 400
    assert all(len(name) == 15 and name.startswith("vw") for name in names)
    assert host_name("a", "b") == host_name("a", "b")
    assert host_name("a,b", "c") != host_name("a", "b,c")


@pytest.mark.parametrize(
    ("octets", "reason"),
    [(b"no database" * 100, "store-corrupt"), (b"", "store-corrupt"), (None, "store-version")],
)
def test_a_store_that_is_not_ours_is_left_alone(
    tmp_path: Path, octets: bytes | None, reason: str
) -> None:
    path = tmp_path / "attachments.db"
    if octets is None:
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version=99")
        db.close()
    else:
        path.write_bytes(octets)
    before = path.read_bytes()
    with pytest.raises(OperatorError) as caught:
        AttachmentStore(path)
    assert caught.value.reason == reason
    assert path.read_bytes() == before
    AttachmentStore(tmp_path / "another.db").close()


@pytest.mark.parametrize(
    "change",
    [
        {"container": 1},
        {"ifname": []},
        {"netns": None},
        {"host": 5},
        {"mac": {}},
        {"addresses": ["x"]},
        {"addresses": "10.0.0.1"},
        {"routes": [["a"]]},
        {"gateways": "10.0.0.1"},
        {"gateways": [1]},
        {"routes": [[1, 2]]},
        {"mtu": "x"},
        {"ready": 1},
        {"more": 1},
    ],
    ids=str,
)
async def test_rows_with_nonsense_in_them(host: Host, change: dict[str, object]) -> None:
    await host.attacher.attach(WEB)
    with sqlite3.connect(host.path) as db:
        (text,) = db.execute("SELECT row FROM attachment").fetchone()
        db.execute("UPDATE attachment SET row = ?", (json.dumps({**json.loads(text), **change}),))
    db.close()
    with pytest.raises(OperatorError) as caught:
        AttachmentStore(host.path).load()
    assert caught.value.reason == "store-corrupt"


def test_an_exposed_address_that_is_none(tmp_path: Path) -> None:
    store = AttachmentStore(tmp_path / "attachments.db")
    store.exposed = ("nonsense",)
    with pytest.raises(OperatorError) as caught:
        store.load()
    assert caught.value.reason == "store-corrupt"


async def test_pods_follow_the_host_s_mtu_but_for_those_that_asked_for_theirs(host: Host) -> None:
    await host.attacher.attach(WEB)
    await host.attacher.attach(AttachRequest("db", "eth0", "/ns/db", mtu=1300))
    host.network.namespaces[""] = set()
    plugged = AttachRequest(
        "dock", "eth0", "", mac="02:00:00:00:00:09", addresses=("10.32.0.9/24",)
    )
    await host.attacher.attach(plugged)

    def mtus() -> dict[str, int]:
        return {row.container: row.mtu for row in host.attacher.list()}

    assert await host.attacher.resize(1450) == 1420, "what its runtime took away stays as it was"
    assert mtus() == {"web": 1450, "db": 1300, "dock": 1420}
    made = {host.network.pairs[row.host].mtu for row in host.attacher.list()}
    assert made == {1450, 1300, 1420}
    host.restart()
    assert mtus() == {"web": 1450, "db": 1300, "dock": 1420}
    assert await host.attacher.resize(1400) == 1400, "more than wanted harms nobody"
    assert mtus()["web"] == 1400


async def test_a_pod_that_cannot_be_resized_keeps_nobody_from_it(host: Host) -> None:
    await host.attacher.attach(WEB)
    await host.attacher.attach(AttachRequest("db", "eth0", "/ns/db"))
    del host.network.namespaces["/ns/web"]
    assert await host.attacher.resize(1400) == 1400
    assert {row.container: row.mtu for row in host.attacher.list()} == {"web": 1420, "db": 1400}


def test_rows_of_the_first_schema_go_on(tmp_path: Path) -> None:
    """A pod had one gateway, or none."""
    path = tmp_path / "attachments.db"
    old = {
        "container": "web",
        "ifname": "eth0",
        "netns": "/ns/web",
        "host": "vw0123456789abc",
        "host_mac": None,
        "mac": None,
        "addresses": ["10.32.0.1/24"],
        "gateway": "10.32.0.9",
        "mtu": 1400,
        "routes": [["0.0.0.0/0", "10.32.0.9"]],
        "network": "net",
        "ready": True,
    }
    with sqlite3.connect(path) as db:
        db.executescript("""
CREATE TABLE attachment (
    container TEXT, ifname TEXT, row TEXT NOT NULL, PRIMARY KEY (container, ifname)
);
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE lease (
    container TEXT, ifname TEXT, network TEXT NOT NULL, PRIMARY KEY (container, ifname)
);
PRAGMA user_version=1;
""")
        for row in (old, {**old, "container": "db", "gateway": None}):
            db.execute(
                "INSERT INTO attachment VALUES (?, 'eth0', ?)", (row["container"], json.dumps(row))
            )
        db.execute("INSERT INTO fact VALUES ('exposed', '10.32.0.9/24')")
    db.close()
    for _ in range(2):
        store = AttachmentStore(path)
        rows = store.load()
        assert rows["web", "eth0"].gateways == ("10.32.0.9",)
        assert rows["web", "eth0"].addresses == ("10.32.0.1/24",)
        assert rows["db", "eth0"].gateways == ()
        assert store.exposed == ("10.32.0.9/24",)
        store.close()

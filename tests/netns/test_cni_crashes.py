"""What dies in the middle of a call, what is long or many, and each version's exact answers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.cni_host import CniHost, Json, Pod, address, conf, host, ip, wait_for

pytestmark = pytest.mark.netns

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
ROUTES = [{"dst": "192.0.2.0/24", "gw": "10.32.0.9"}]


@pytest.fixture
def alone() -> Iterator[CniHost]:
    with host() as made:
        yield made


@pytest.mark.parametrize("version", VERSIONS)
def test_c1_c8_every_command_in_every_version(alone: CniHost, version: str) -> None:
    """The whole of each answer, not parts of it."""
    pod = alone.pod("exact")
    config = conf(version, ipam={"type": "weaver-ipam", "routes": ROUTES})
    said = pod.add(config)
    outside, inside = said["interfaces"]
    link = pod.link()
    assert link is not None
    of_the_pod = {"name": "eth0", "mac": link["address"], "sandbox": pod.netns}
    address_of_the_pod: Json = {"address": f"{alone.leases()['exact,eth0']}/12", "interface": 1}
    if version.startswith("0."):
        address_of_the_pod["version"] = "4"
    if version == "1.1.0":
        of_the_pod["mtu"] = link["mtu"]
    (host_end,) = alone.veths()
    shown = json.loads(ip("-n", alone.namespace, "-j", "link", "show", host_end))[0]
    assert outside == {"name": host_end, "mac": shown["address"]}
    assert inside == of_the_pod
    assert {k: v for k, v in said.items() if k != "interfaces"} == {
        "cniVersion": version,
        "ips": [address_of_the_pod],
        "routes": ROUTES,
        "dns": {},
    }
    checked = pod.check(said, config)
    if version == "0.3.1":
        assert checked.error(1) == {
            "cniVersion": version,
            "code": 1,
            "msg": "config version does not allow CHECK",
        }
    else:
        checked.nothing()
    ours = conf(version, ipam={"type": "weaver-ipam", "routes": ROUTES})
    other = alone.pod("addressed")
    given = other.add(ours, plugin="weaver-ipam")
    lease: Json = {"address": f"{alone.leases()['addressed,eth0']}/12"}
    if version.startswith("0."):
        lease["version"] = "4"
    assert given == {"cniVersion": version, "ips": [lease], "routes": ROUTES, "dns": {}}
    if version != "0.3.1":
        other.check(given, ours, plugin="weaver-ipam").nothing()
    for plugin, of in (("weaver-net", pod), ("weaver-ipam", other)):
        of.delete({**config, "prevResult": said}, plugin=plugin)
        told = alone.call("VERSION", {"cniVersion": version}, plugin=plugin).result()
        assert told == {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    assert (alone.leases(), alone.veths()) == ({}, set())


def test_the_executables_load_nothing_that_is_not_built_in(alone: CniHost) -> None:
    """And name the interpreter itself, not a wrapper that looks for it."""
    for plugin in ("weaver-net", "weaver-ipam"):
        first, *_ = (alone.bin / plugin).read_text().splitlines()
        python, options = first.removeprefix("#!").split(" ")
        assert options == "-IS"
        assert Path(python).read_bytes()[:4] == b"\x7fELF"
        done = subprocess.run(
            [python, "-IS", "-X", "importtime", str(alone.bin / plugin)],
            capture_output=True,
            text=True,
            env={"CNI_COMMAND": "VERSION"},
            input="{}",
            check=True,
        )
        loaded = re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE)
        bare = subprocess.run(
            [python, "-IS", "-X", "importtime", "-c", ""],
            capture_output=True,
            text=True,
            check=True,
        )
        added = set(loaded) - set(re.findall(r"\| +(\S+)$", bare.stderr, re.MULTILINE))
        assert added <= set(sys.builtin_module_names) | {"_socket"}, added


def test_c15_thirty_parallel_adds(alone: CniHost) -> None:
    pods = [alone.pod(f"many-{n}") for n in range(30)]
    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        results = list(pool.map(Pod.add, pods))
        assert len({address(result) for result in results}) == 30
        assert len(alone.veths()) == 30
        assert [pod.link() is not None for pod in pods] == [True] * 30
        list(pool.map(Pod.delete, pods))
    assert (alone.leases(), alone.veths()) == ({}, set())


def test_the_helper_dies_and_the_next_call_has_another(alone: CniHost) -> None:
    pod, other = alone.pod("before"), alone.pod("after")
    result = pod.add()
    first = helper_of(alone)
    os.kill(first, signal.SIGKILL)
    other.add()
    assert helper_of(alone) != first
    pod.check(result).nothing()
    for one in (pod, other):
        one.delete()
    assert (alone.leases(), alone.veths()) == ({}, set())


@pytest.mark.parametrize("kills", [1, 2])
def test_the_helper_dies_in_mid_add(alone: CniHost, kills: int) -> None:
    """Another one does it; one more death is said to be tried again, and nothing is left."""
    pod = alone.pod("half")
    pod.add()
    pod.delete()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        helper = helper_of(alone)
        os.kill(helper, signal.SIGSTOP)
        adding = pool.submit(pod.call, "ADD")
        wait_for(lambda: alone.leases() != {}, alone.leases)
        os.kill(helper, signal.SIGKILL)
        if kills == 1:
            assert address(adding.result().result()) in alone.leases().values()
            assert pod.link() is not None
            pod.delete()
        else:
            wait_for(lambda: helpers_of(alone) not in ([], [helper]), lambda: helpers_of(alone))
            os.kill(helper_of(alone), signal.SIGKILL)
            assert adding.result().error(11)["details"] == "helper-failed"
    assert (alone.leases(), alone.veths(), pod.link()) == ({}, set(), None)
    pod.add()
    pod.delete()


def test_daemon_killed_in_mid_add_and_del_before_it_is_back(alone: CniHost) -> None:
    pod = alone.pod("never")
    with alone.steered("ipam-waits"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        adding = pool.submit(pod.call, "ADD")
        wait_for(lambda: rows(alone) == 1, lambda: rows(alone))
        alone.kill()
        adding.result().error(11)
    pod.delete()
    alone.start()
    wait_for(lambda: not spooled(alone), lambda: spooled(alone))
    assert (alone.leases(), alone.veths(), rows(alone)) == ({}, set(), 0)


def test_helper_done_and_daemon_killed_before_it_heard(alone: CniHost) -> None:
    """Everything is made, and nobody knows of it but the intent."""
    pod = alone.pod("made")
    pod.add()
    pod.delete()
    server = alone.pid()
    with alone.steered("ipam-waits"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        adding = pool.submit(pod.call, "ADD")
        wait_for(lambda: rows(alone) == 1, lambda: rows(alone))
        os.kill(helper_of(alone), signal.SIGSTOP)
        (alone.directory / "ipam-waits").unlink()
        wait_for(lambda: alone.leases() != {}, alone.leases)
        orphan = helper_of(alone)
        os.kill(server, signal.SIGSTOP)
        os.kill(orphan, signal.SIGCONT)
        wait_for(lambda: pod.link() is not None, alone.veths)
        alone.kill()
        adding.result().error(11)
    wait_for(lambda: not Path(f"/proc/{orphan}").exists(), lambda: "the helper outlives its daemon")
    alone.start()
    assert (alone.leases(), alone.veths(), rows(alone), pod.link()) == ({}, set(), 0, None)
    pod.add()
    pod.delete()


@pytest.mark.parametrize("size", [64, 153, 239])
def test_long_container_names(alone: CniHost, size: int) -> None:
    """containerd's `ctr` makes names of 153 octets at most; a file's name takes 239 of ours."""
    pod = alone.pod("c" * size)
    ifname = "fifteen-octets."
    result = pod.add(CNI_IFNAME=ifname)
    pod.check(result, CNI_IFNAME=ifname).nothing()
    alone.kill()
    pod.delete(CNI_IFNAME=ifname)
    assert spooled(alone) == [f"{pod.container},{ifname}"]
    alone.start()
    wait_for(lambda: not spooled(alone), lambda: spooled(alone))
    assert (alone.leases(), alone.veths()) == ({}, set())


def test_a_del_that_cannot_be_recorded_is_to_be_asked_again(alone: CniHost) -> None:
    pod = alone.pod("c" * 300)
    pod.add()
    alone.kill()
    assert "recorded" in pod.call("DEL").error(11)["msg"]
    alone.start()
    pod.delete()
    assert (alone.leases(), alone.veths()) == ({}, set())


def test_recorded_nonsense_is_dropped_and_what_follows_is_done(alone: CniHost) -> None:
    pod, other = alone.pod("nonsense"), alone.pod("sense")
    for one in (pod, other):
        one.add()
    alone.kill()
    pod.call("DEL", b"{torn").nothing()
    other.delete()
    (alone.directory / "run" / "cni-del" / ".77").write_bytes(b"torn")
    (alone.directory / "run" / "cni-del" / "torn").write_bytes(b"\0\0")
    alone.start()
    wait_for(lambda: not spooled(alone), lambda: spooled(alone))
    assert set(alone.leases()) == {"nonsense,eth0"}
    pod.delete()


def rows(host: CniHost) -> int:
    """Attachments and intents on disk."""
    with sqlite3.connect(f"file:{host.directory}/attachments.db?mode=ro", uri=True) as db:
        (count,) = db.execute("SELECT count(*) FROM attachment").fetchone()
    db.close()
    return int(count)


def spooled(host: CniHost) -> list[str]:
    return sorted(path.name for path in (host.directory / "run" / "cni-del").iterdir())


def helpers_of(host: CniHost) -> list[int]:
    """The processes that enter namespaces for the server: one, or none."""
    pid = host.pid()
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = []
    for child in children:
        with contextlib.suppress(OSError):  # gone meanwhile
            if b"_helper" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def helper_of(host: CniHost) -> int:
    (helper,) = helpers_of(host)
    return helper

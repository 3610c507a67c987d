"""Every field of a call wrong in turn: the specification's code, the field's name, nothing left."""

from __future__ import annotations

import concurrent.futures
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.netns.census import Census, assert_settles, census, settled
from tests.netns.cni_host import CniHost, Json, Pod, address, conf, host, ip, wait_for

pytestmark = pytest.mark.netns

FAR = "10.33.0.9"


@dataclass(frozen=True)
class Bad:
    """One thing wrong: of the configuration (``config``), or of the environment (``environ``)."""

    says: str
    code: int
    config: Json = field(default_factory=dict)
    environ: dict[str, str | None] = field(default_factory=dict)
    command: str = "ADD"

    def __str__(self) -> str:
        return f"{self.command}-{self.config or self.environ}"[:70]


def _configured(key: str, *values: object, code: int = 7, says: str | None = None) -> list[Bad]:
    """A key with each of these values, at the end of a dotted path."""
    rows = []
    for value in values:
        *outer, last = key.split(".")
        config: Json = {last: value}
        for name in reversed(outer):
            config = {name: config}
        rows.append(Bad(says or last, code, config=config))
    return rows


def _in_environment(name: str, *values: str | None, code: int = 4) -> list[Bad]:
    return [Bad(name, code, environ={name: value}) for value in values]


def _in_args(*values: str, says: str, code: int = 7) -> list[Bad]:
    return [Bad(says, code, environ={"CNI_ARGS": value}) for value in values]


CONFIGURATIONS = [
    *_configured("cniVersion", "9.9.9", "1.0", "", 1, None, [], {}, code=1, says="incompatible"),
    *_configured("name", "", "-a", "a/b", "a b", "é", 7, None, [], {}, True),
    *_configured("mtu", "1400", 575, 65001, -1, 1.5, True, [], {}),
    *_configured("isDefaultGateway", "true", 1, [], {}),
    *_configured("ipam", "weaver-ipam", 1, [], True),
    *_configured("ipam.type", "../bridge", "a b", 7, [1], {"a": 1}, says="ipam.type"),
    *_configured("ipam.type", "no-such-plugin", says="no IPAM plugin"),
    *_configured("ipam.gateway", "x", 7.5, [], {}, "10.32.0.300"),
    *_configured("ipam.routes", 1, "x", {"a": 1}, [1], [[]], [{}], [{"dst": 5.5}], [{"dst": "x"}]),
    *_configured("ipam.routes", [{"dst": "192.0.2.0/24", "gw": "x"}], says="ipam.routes"),
    *_configured("ipam.routes", [{"dst": "192.0.2.0/24", "gw": 1.5}], says="ipam.routes"),
    *_configured("runtimeConfig", 1, "x", [], True),
    *_configured("runtimeConfig.ips", "10.33.0.9", 1, {}, [1], [None]),
    *_configured("runtimeConfig.ips", ["x"], ["192.0.2.1"], says="address|range"),
    *_configured("runtimeConfig.ips", ["10.33.1.1", "10.33.1.2"], code=2),
    *_configured("runtimeConfig.mac", "x", 1, [], {}, "02:00:00:00:00", says="MAC"),
    *_configured("runtimeConfig.mac", "01:00:00:00:00:01", "00:00:00:00:00:00", says="MAC"),
    *_configured("args", 1, "x", []),
    *_configured("args.cni", 1, "x", []),
    *_configured("args.cni.ips", "10.33.0.9", ["x"], says="ips|address"),
    *_configured("args.cni.mac", "x", 1, says="MAC"),
    *_configured("prevResult", 1, "x", [], True),
    *_configured("prevResult.interfaces", 1, "x", {"a": 1}, [1]),
    *_configured("prevResult.ips", 1, "x", {"a": 1}, [1]),
    *_configured("prevResult.routes", 1, "x", {"a": 1}, [1]),
    *_configured("prevResult.dns", 1, "x", [1]),
]

NOT_NAMES = ("", "-a", ".a", "a/b", "a b", "a:b", "é", "a\nb", "../a")
NOT_INTERFACES = ("", ".", "..", "a/b", "a:b", "a b", "sixteen-octets-x", "eth0\n")
NOT_NAMESPACES = (
    "relative",
    "/run/netns/no-such",
    "/etc/passwd",
    "/proc/self/ns/mnt",
    "/proc/999999999/ns/net",
    "/run/netns",
    "/dev/null",
    "/proc/1/ns/user",
)

ENVIRONMENTS = [
    *_in_environment("CNI_COMMAND", "add", "ADD ", "FOO"),
    *_in_environment("CNI_CONTAINERID", None, *NOT_NAMES),
    *_in_environment("CNI_IFNAME", None, *NOT_INTERFACES),
    *_in_environment("CNI_PATH", None, ""),
    *_in_environment("CNI_NETNS", None, ""),
    *[Bad(path, 8, environ={"CNI_NETNS": path}) for path in NOT_NAMESPACES],
    *_in_environment("CNI_ARGS", "IP", "FOO=1", "ip=10.33.0.9", "=a", "IgnoreUnknown=0;FOO=1"),
    *_in_args("IP=x", "IP=10.33.0", "IP=10.33.0.9/99", "IP=192.0.2.1", says="address|range"),
    *_in_args("MAC=x", "MAC=02:00:00:00:00", "MAC=ff:ff:ff:ff:ff:ff", says="MAC"),
    *_in_args("IP=10.33.1.1,10.33.1.2", says="ips", code=2),
    *_in_args("IgnoreUnknown=1;A=" + "a" * 70_000, says="environment", code=4),
]

NOT_ATTACHMENTS: tuple[object, ...] = (
    None, 1, "x", {}, [1], [None], [[]], [{}], [{"containerID": "a"}], [{"ifname": "eth0"}],
    [{"containerID": 1, "ifname": "eth0"}], [{"containerID": "a", "ifname": None}],
)  # fmt: skip

COLLECTIONS = [
    Bad("valid-attachments", 7, config={"cni.dev/valid-attachments": value}, command="GC")
    for value in NOT_ATTACHMENTS
]


@pytest.fixture(scope="module")
def made() -> Iterator[CniHost]:
    with host() as one:
        yield one


@pytest.fixture(scope="module")
def pod(made: CniHost) -> Pod:
    return made.pod("bad-input")


@pytest.fixture(scope="module")
def before(made: CniHost, pod: Pod) -> Census:
    """After one good ADD and DEL: what comes only once, such as the helper's sockets, is there."""
    pod.add()
    pod.delete()
    return settled(made)


@pytest.mark.parametrize("bad", [*CONFIGURATIONS, *COLLECTIONS], ids=str)
def test_each_key_of_a_configuration(made: CniHost, pod: Pod, before: Census, bad: Bad) -> None:
    said = pod.call(bad.command, {**conf("1.1.0"), **bad.config}).error(bad.code)
    _names(bad, said)
    assert_settles(made, before)


@pytest.mark.parametrize("bad", ENVIRONMENTS, ids=str)
def test_each_variable_of_the_environment(
    made: CniHost, pod: Pod, before: Census, bad: Bad
) -> None:
    known = {"CNI_CONTAINERID": pod.container, "CNI_NETNS": pod.netns}
    given = {k: v for k, v in {**known, **bad.environ}.items() if v is not None}
    lacking = tuple(k for k, v in bad.environ.items() if v is None)
    command = given.pop("CNI_COMMAND", "ADD")
    said = made.call(command, conf("0.4.0"), drop=lacking, **given).error(bad.code)
    assert said["cniVersion"] == "0.4.0"
    _names(bad, said)
    assert_settles(made, before)


def test_after_all_that_a_pod_is_attached(made: CniHost, pod: Pod, before: Census) -> None:
    pod.check(pod.add()).nothing()
    assert census(made) != before  # the census sees a pod
    pod.delete()
    assert_settles(made, before)


def test_stdin_that_is_cut_anywhere(made: CniHost, pod: Pod, before: Census) -> None:
    """Whole only at its end: nothing is read into what is there of it."""
    whole = json.dumps(conf("1.0.0", mtu=1300, ipam={"type": "weaver-ipam"})).encode()
    for end in range(0, len(whole), 7):
        pod.call("ADD", whole[:end]).error(6)
    assert_settles(made, before)


def test_stdin_that_is_slow(made: CniHost, pod: Pod, before: Census) -> None:
    """An octet at a time, and then nothing for a while: nobody else waits for it."""
    whole = json.dumps(conf()).encode()
    slow = pod.spawn("ADD")
    assert slow.stdin is not None
    for octet in whole[:20]:
        slow.stdin.write(bytes((octet,)))
        slow.stdin.flush()
    other = made.pod("meanwhile")
    other.add()
    other.delete()
    slow.stdin.write(whole[20:])
    slow.stdin.close()
    slow.stdin = None
    out, _ = slow.communicate(timeout=20)
    assert (slow.returncode, json.loads(out)["cniVersion"]) == (0, "1.0.0")
    pod.delete()
    made.forget(other)
    assert_settles(made, before)


def test_a_caller_who_leaves_in_the_middle(made: CniHost, pod: Pod, before: Census) -> None:
    slow = pod.spawn("ADD")
    assert slow.stdin is not None
    slow.stdin.write(b'{"cniVersion"')
    slow.stdin.flush()
    slow.kill()
    slow.communicate()
    assert_settles(made, before)


def test_ten_mebibytes(made: CniHost, pod: Pod, before: Census) -> None:
    memory = _resident(made.pid())
    for command in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        big = b'{"cniVersion":"1.1.0","name":"weaver","x":"' + b"a" * (10 << 20) + b'"}'
        assert "octets" in pod.call(command, big).error(6)["msg"]
    assert _resident(made.pid()) - memory < 8 << 20
    assert_settles(made, before)


def test_a_namespace_that_goes_in_the_middle(made: CniHost, before: Census) -> None:
    gone = made.pod("gone")
    with made.steered("ipam-waits"), concurrent.futures.ThreadPoolExecutor(1) as pool:
        adding = pool.submit(gone.call, "ADD")
        wait_for(lambda: census(made)["rows"] != [], lambda: "the ADD never began")
        made.forget(gone)
        (made.directory / "ipam-waits").unlink()
        adding.result().error(8)
    gone.delete()
    assert_settles(made, before)


def test_an_interface_of_that_name(made: CniHost, pod: Pod) -> None:
    ip("-n", pod.namespace, "link", "add", "eth0", "type", "bridge")
    with_it = settled(made)
    assert "eth0 exists" in pod.call("ADD").error(104)["msg"]
    assert_settles(made, with_it)
    ip("-n", pod.namespace, "link", "del", "eth0")


def test_two_runtimes_with_one_container_id(made: CniHost, pod: Pod, before: Census) -> None:
    """The second is refused; its DEL is not the first's, whose pod lives on."""
    other = Pod(made, pod.container, made.pod("other-runtime").namespace)
    with_other = settled(made)
    result = pod.add()
    attached = settled(made)
    other.call("ADD").error(104)
    other.delete()
    assert_settles(made, attached)
    pod.check(result).nothing()
    pod.delete()
    assert_settles(made, with_other)
    made.forget(other)
    assert_settles(made, before)


def test_two_runtimes_at_once(made: CniHost, pod: Pod, before: Census) -> None:
    """One of the two is answered, the other refused, whichever came first."""
    other = Pod(made, pod.container, made.pod("at-once").namespace)
    for _ in range(5):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            said = list(pool.map(lambda one: one.call("ADD"), (pod, other)))
        assert sorted(one.status for one in said) == [0, 1]
        winner, loser = (pod, other) if said[0].status == 0 else (other, pod)
        assert (winner.link() is not None, loser.link()) == (True, None)
        loser.delete()
        assert winner.link() is not None
        winner.delete()
    made.forget(other)
    assert_settles(made, before)


def test_status_and_version_read_no_names(made: CniHost, before: Census) -> None:
    nonsense: Json = {"CNI_CONTAINERID": "-", "CNI_NETNS": "dummy"}
    made.call("STATUS", conf("1.1.0"), **nonsense, drop=("CNI_IFNAME",)).error(4)
    made.call("VERSION", conf("1.1.0"), **nonsense).result()
    assert_settles(made, before)


def test_addresses_asked_for_that_are_taken(made: CniHost, pod: Pod, before: Census) -> None:
    holder = made.pod("holder")
    with_holder = settled(made)
    assert address(holder.add(CNI_ARGS=f"IP={FAR}")) == FAR
    held = settled(made)
    said = pod.call("ADD", CNI_ARGS=f"IP={FAR}").error(101)
    assert said["details"] == "address-in-use"
    assert_settles(made, held)
    holder.delete()
    assert_settles(made, with_holder)
    made.forget(holder)
    assert_settles(made, before)


def _names(bad: Bad, said: Json) -> None:
    text = f"{said['msg']} {said.get('details', '')}"
    assert any(word in text for word in bad.says.split("|")), said


def _resident(pid: int) -> int:
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, check=True)
    return int(done.stdout) * 1024


def test_this_process_keeps_no_file_of_a_namespace() -> None:
    """What the tests themselves hold open would hide a leak."""
    held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{fd}")]  # fmt: skip
    assert not [name for name in held if name.startswith("net:[")]

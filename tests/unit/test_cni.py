"""The pure parts of CNI: what is asked, what is answered, in which version."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import OperatorError
from weaver.cni import frame, result
from weaver.cni.config import VERSIONS, Call, parse
from weaver.cni.errors import CniError, Code, explained
from weaver.daemon import nat
from weaver.daemon.attach_store import Attachment

ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "web",
    "CNI_NETNS": "/run/netns/web",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
    "PLUGIN": "weaver-net",
}
ROW = Attachment(
    container="web",
    ifname="eth0",
    netns="/run/netns/web",
    host="vw0123456789abc",
    host_mac="02:00:00:00:00:01",
    mac="02:00:00:00:00:02",
    addresses=("10.32.0.5/12",),
    gateways=("10.32.0.1",),
    mtu=1420,
    routes=(("0.0.0.0/0", "10.32.0.1"), ("192.0.2.0/24", None)),
    ready=True,
)
INTERFACES = [
    {"name": "vw0123456789abc", "mac": "02:00:00:00:00:01"},
    {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/web"},
]
ROUTES = [{"dst": "0.0.0.0/0", "gw": "10.32.0.1"}, {"dst": "192.0.2.0/24"}]


def call(environ: dict[str, str] | None = None, **config: Any) -> Call:
    whole = {"cniVersion": "1.1.0", "name": "net", "type": "weaver-net", **config}
    return parse({**ENVIRON, **(environ or {})}, json.dumps(whole).encode())


def refused(code: Code, environ: dict[str, str] | None = None, **config: Any) -> str:
    with pytest.raises(CniError) as caught:
        call(environ, **config)
    assert caught.value.code == code
    call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.3.1", {"version": "4", "address": "10.32.0.5/12"}),
        ("0.4.0", {"version": "4", "address": "10.32.0.5/12"}),
        ("1.0.0", {"address": "10.32.0.5/12"}),
        ("1.1.0", {"address": "10.32.0.5/12"}),
    ],
)
def test_result_of_add(version: str, expected: dict[str, str]) -> None:
    host, pod = INTERFACES
    mtu = {"mtu": 1420} if version == "1.1.0" else {}
    assert result.added(version, ROW, {}) == {
        "cniVersion": version,
        "interfaces": [host, pod | mtu],
        "ips": [expected | {"gateway": "10.32.0.1", "interface": 1}],
        "routes": ROUTES,
        "dns": {},
    }


def test_result_of_ipam_has_no_interfaces() -> None:
    assert result.addressed("0.4.0", ["fd00::5/64"], (), ()) == {
        "cniVersion": "0.4.0",
        "ips": [{"version": "6", "address": "fd00::5/64"}],
        "routes": [],
        "dns": {},
    }


BOTH = replace(
    ROW,
    addresses=("10.32.0.5/12", "fd00:32::5/64"),
    gateways=("10.32.0.1", "fd00:32::1"),
    routes=(("0.0.0.0/0", "10.32.0.1"), ("::/0", "fd00:32::1")),
)


@pytest.mark.parametrize("version", VERSIONS)
def test_result_of_add_with_both_families(version: str) -> None:
    """docs/ipam.md R25: each address with the gateway of its own range."""
    early = version in ("0.3.1", "0.4.0")
    four = {"address": "10.32.0.5/12", "gateway": "10.32.0.1", "interface": 1}
    six = {"address": "fd00:32::5/64", "gateway": "fd00:32::1", "interface": 1}
    said = result.added(version, BOTH, {})
    assert said["ips"] == [
        {**four, **({"version": "4"} if early else {})},
        {**six, **({"version": "6"} if early else {})},
    ]
    assert said["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.32.0.1"},
        {"dst": "::/0", "gw": "fd00:32::1"},
    ]
    given = result.addressed(version, BOTH.addresses, BOTH.gateways, ())
    assert [ip["gateway"] for ip in given["ips"]] == ["10.32.0.1", "fd00:32::1"]
    assert [ip.get("version") for ip in given["ips"]] == (["4", "6"] if early else [None, None])


def test_two_addresses_of_one_family_have_each_the_gateway_of_its_range() -> None:
    row = replace(
        ROW, addresses=("10.32.0.5/12", "10.96.0.5/16"), gateways=("10.32.0.1", "10.96.0.1")
    )
    ips = result.added("1.0.0", row, {})["ips"]
    assert [ip["gateway"] for ip in ips] == ["10.32.0.1", "10.96.0.1"]


@pytest.mark.parametrize(
    "ranges", ["10.32.0.0/12", [7], ["x"], ["10.32.0.1/12"], {"subnet": "10.32.0.0/12"}, [[]]]
)
def test_ranges_that_are_none(ranges: object) -> None:
    refused(Code.BAD_CONFIG, ipam={"type": "weaver-ipam", "ranges": ranges})


def test_ranges_and_addresses_of_several_ranges_are_asked_for() -> None:
    asked = call(
        {"CNI_ARGS": "IP=10.32.0.7,fd00:32::7"},
        ipam={"ranges": ["10.32.0.0/12", "FD00:32::/64", "10.32.0.0/12"]},
    )
    assert asked.asked == ("10.32.0.7", "fd00:32::7")
    assert asked.ranges == ("10.32.0.0/12", "fd00:32::/64")
    many = [f"10.32.0.{n}" for n in range(1, 10)]
    refused(Code.UNSUPPORTED_FIELD, runtimeConfig={"ips": many})


def test_rules_of_nat_for_several_ranges() -> None:
    """One a range; what is spared of another family is no part of it, for nft would refuse it."""
    ranges = ["10.32.0.0/12", "fd00:32::/64"]
    plain = ["10.32.0.9", "fd00:32::9"]
    made = nat.masquerade(ranges, "weave", plain)["nftables"]
    rules = [step["add"]["rule"]["expr"] for step in made if "rule" in step.get("add", {})]
    spared = [expr[0]["match"] for expr in rules]
    assert [match["right"]["set"] for match in spared] == [["10.32.0.9"], ["fd00:32::9"]]
    assert [match["left"]["payload"]["protocol"] for match in spared] == ["ip", "ip6"]
    shown = {"nftables": [step["add"] for step in made[2:]]}
    assert nat.is_whole(shown, ranges, plain)
    assert not nat.is_whole(shown, ranges[:1], plain)
    assert not nat.is_whole(shown, ranges, plain[:1])


def test_delegated_routes_without_a_gateway_get_the_addresss() -> None:
    given_ = result.read_delegated(
        {
            "ips": [
                {"address": "192.0.2.5/24", "gateway": "192.0.2.1"},
                {"address": "fd00::5/64", "gateway": "fd00::1"},
            ],
            "routes": [
                {"dst": "0.0.0.0/0"},
                {"dst": "::/0"},
                {"dst": "9.9.9.0/24", "gw": "192.0.2.9"},
            ],
        }
    )
    assert given_.addresses == ("192.0.2.5/24", "fd00::5/64")
    assert given_.routes == (
        ("0.0.0.0/0", "192.0.2.1"),
        ("::/0", "fd00::1"),
        ("9.9.9.0/24", "192.0.2.9"),
    )


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"ips": []},
        {"ips": [{}]},
        {"ips": 7},
        {"ips": ["192.0.2.5/24"]},
        {"ips": [{"address": "x"}]},
        {"ips": [{"address": "192.0.2.5/24"}], "routes": [{"gw": "192.0.2.1"}]},
    ],
)
def test_delegated_nonsense_is_the_delegates_fault(said: dict[str, Any]) -> None:
    with pytest.raises(CniError) as caught:
        result.read_delegated(said)
    assert caught.value.code == Code.DELEGATE
    assert result.read_delegated({"ips": [{"address": "192.0.2.5/24"}]}).routes == ()


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_missing_variables_are_named(command: str) -> None:
    with pytest.raises(CniError) as caught:
        parse({"CNI_COMMAND": command}, b"{}")
    assert caught.value.code == Code.ENVIRONMENT
    assert "CNI_PATH" in str(caught.value)
    assert ("CNI_NETNS" in str(caught.value)) == (command in ("ADD", "CHECK"))


@pytest.mark.parametrize(
    ("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
def test_commands_exist_since_a_version(command: str, since: str) -> None:
    for version in VERSIONS:
        environ = {"CNI_COMMAND": command}
        if version < since:
            assert command in refused(Code.VERSION, environ, cniVersion=version)
        else:
            assert call(environ, cniVersion=version).command == command


def test_what_a_pod_may_ask_for_and_who_wins() -> None:
    everywhere = {
        "runtimeConfig": {"ips": ["10.32.0.9/12"], "mac": "02:00:00:00:00:0A"},
        "args": {"cni": {"ips": ["10.32.0.8"], "mac": "02:00:00:00:00:0b"}},
    }
    by_args = {"CNI_ARGS": "IP=10.32.0.7;MAC=02:00:00:00:00:0c;K8S_POD_NAME=x"}
    asked = call(by_args, **everywhere)
    assert (asked.asked, asked.mac) == (("10.32.0.9",), "02:00:00:00:00:0a")
    asked = call(by_args, args=everywhere["args"])
    assert (asked.asked, asked.mac) == (("10.32.0.8",), "02:00:00:00:00:0b")
    asked = call(by_args)
    assert (asked.asked, asked.mac) == (("10.32.0.7",), "02:00:00:00:00:0c")
    assert (call().asked, call().mac, call().mtu) == ((), None, None)


@pytest.mark.parametrize(
    ("text", "fine"),
    [("FOO=1", False), ("IgnoreUnknown=1;FOO=1", True), ("IgnoreUnknown=true;FOO=1", True),
     ("IgnoreUnknown=0;FOO=1", False), ("FOO", False), (";;", True), ("K8S_POD_UID=", True)],
)  # fmt: skip
def test_cni_args(text: str, fine: bool) -> None:
    if fine:
        call({"CNI_ARGS": text})
    else:
        refused(Code.ENVIRONMENT, {"CNI_ARGS": text})


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("mtu", True, Code.BAD_CONFIG),
        ("mtu", 575, Code.BAD_CONFIG),
        ("mtu", 65001, Code.BAD_CONFIG),
        ("mac", {"runtimeConfig": {"mac": 5}}, Code.BAD_CONFIG),
        ("mac", {"runtimeConfig": {"mac": "02:00"}}, Code.BAD_CONFIG),
        ("mac", {"args": {"cni": {"mac": "00:00:00:00:00:00"}}}, Code.BAD_CONFIG),
        ("mac", {"runtimeConfig": {"mac": "01:00:5e:00:00:01"}}, Code.BAD_CONFIG),
        ("asked", {"runtimeConfig": {"ips": "10.32.0.1"}}, Code.BAD_CONFIG),
        ("asked", {"runtimeConfig": {"ips": [1]}}, Code.BAD_CONFIG),
        ("asked", {"runtimeConfig": {"ips": ["x"]}}, Code.BAD_CONFIG),
        ("ranges", {"ipam": {"ranges": ["x"]}}, Code.BAD_CONFIG),
        ("wants_gateway", {"isDefaultGateway": 1}, Code.BAD_CONFIG),
        ("ipam", {"ipam": "host-local"}, Code.BAD_CONFIG),
        ("ipam_type", {"ipam": {"type": "../x"}}, Code.BAD_CONFIG),
        ("gateway", {"ipam": {"gateway": "x"}}, Code.BAD_CONFIG),
        ("routes", {"ipam": {"routes": [{"gw": "10.0.0.1"}]}}, Code.BAD_CONFIG),
        ("routes", {"ipam": {"routes": 7}}, Code.BAD_CONFIG),
        ("previous", {"prevResult": []}, Code.BAD_CONFIG),
        ("valid_attachments", {}, Code.BAD_CONFIG),
    ],
)
def test_values_that_cannot_be(key: str, value: Any, code: Code) -> None:
    config = value if isinstance(value, dict) else {key: value}
    with pytest.raises(CniError) as caught:
        getattr(call(**config), key)
    assert caught.value.code == code
    if key != "valid_attachments":
        getattr(call(), key)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
KEYS = ["mtu", "ipam", "runtimeConfig", "args", "isDefaultGateway", "prevResult", "name",
        "cniVersion", "cni.dev/valid-attachments"]  # fmt: skip
PROPERTIES = ["mtu", "mac", "asked", "ranges", "wants_gateway", "ipam", "ipam_type", "gateway",
              "routes", "previous", "valid_attachments"]  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.text(max_size=20))
def test_no_configuration_raises_anything_but_cni_errors(config: Any, args: str) -> None:
    try:
        asked = call({"CNI_ARGS": args}, **config)
    except CniError:
        return
    for name in PROPERTIES:
        try:
            getattr(asked, name)
        except CniError as err:
            assert err.code in (Code.BAD_CONFIG, Code.UNSUPPORTED_FIELD)  # noqa: PT017


@given(st.binary(max_size=200))
def test_no_octets_raise_anything_but_cni_errors(stdin: bytes) -> None:
    with pytest.raises(CniError) as caught:
        parse(ENVIRON, stdin)
    assert caught.value.code in (Code.DECODE, Code.VERSION, Code.BAD_CONFIG)


def test_a_frame_is_taken_apart_as_it_is_written() -> None:
    octets = b"\0\0\0\x13" + b"\0\0\0\x02" + b"PLUGIN=weaver\nCNI_A="[:19] + b"{}"
    assert frame.split(octets) == ({"PLUGIN": "weaver"}, b"{}")
    for wrong in (octets[:-1], octets + b"x", octets[:7], b"", b"\xff" * 20):
        with pytest.raises(CniError):
            frame.split(wrong)


@pytest.mark.parametrize(
    ("reason", "code"),
    [("netns-own", 8), ("no-quorum", 11), ("store-full", 5), ("no-space", 101), ("novel", 100)],
)
def test_reasons_have_codes(reason: str, code: int) -> None:
    err = explained(OperatorError("words", reason))
    assert (err.code, str(err), err.details) == (code, "words", reason)


PLAIN = ["10.32.0.10", "10.32.0.9"]
RANGES = ["10.32.0.0/12"]


@pytest.mark.parametrize("plain", [[], ["10.32.0.9"], PLAIN])
def test_rules_are_whole_only_as_they_were_made(plain: list[str]) -> None:
    made = nat.masquerade(["10.32.0.0/12"], "weave", plain)["nftables"]
    shown = {"nftables": [step["add"] for step in made[2:]]}
    assert nat.is_whole(shown, RANGES, plain)
    assert nat.is_whole(shown, RANGES, plain[::-1])
    assert not nat.is_whole(shown, RANGES, [*plain, "10.32.0.11"])
    assert not nat.is_whole({"nftables": shown["nftables"][:2]}, RANGES, plain)
    assert not nat.is_whole({"nftables": [*shown["nftables"], shown["nftables"][2]]}, RANGES, plain)
    shown["nftables"][2]["rule"]["expr"].pop()
    assert not nat.is_whole(shown, RANGES, plain)
    nothings: tuple[object, ...] = (None, {}, [], {"nftables": []})
    for nonsense in nothings:
        assert not nat.is_whole(nonsense, RANGES, plain)


def test_nat_replaces_its_table_and_touches_no_other() -> None:
    steps = nat.masquerade(["10.32.0.0/12"], "weave")["nftables"]
    assert [next(iter(step)) for step in steps] == ["add", "delete", "add", "add", "add"]
    tables = {
        body.get("table", body.get("name"))
        for step in steps
        for order in step.values()
        for body in order.values()
    }
    assert tables == {"weaver"}
    source, device, verdict = steps[-1]["add"]["rule"]["expr"]
    assert source["match"]["right"] == {"prefix": {"addr": "10.32.0.0", "len": 12}}
    assert (device["match"]["op"], device["match"]["right"]) == ("!=", "weave")
    assert verdict == {"masquerade": None}
    ipv6 = nat.masquerade(["fd00::/64"], "weave")["nftables"][-1]["add"]["rule"]["expr"][0]
    assert ipv6["match"]["left"]["payload"]["protocol"] == "ip6"

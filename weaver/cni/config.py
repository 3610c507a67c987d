"""What a runtime asks: environment and network configuration, checked (SPEC.md sections 1, 2)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from typing import Any

from ipam.by_range import MAX_RANGES
from weaver.cni.errors import CniError, Code
from weaver.daemon.network import MAX_RATE, MIN_RATE, Shape

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
CHECK_SINCE = "0.4.0"
GC_SINCE = "1.1.0"
MAX_STDIN = 1 << 20
"""Octets of a configuration; the largest real ones are some tens of KiB."""

MIN_MTU, MAX_MTU = 576, 65000
OWN_IPAM = "weaver-ipam"
VALID_ATTACHMENTS = "cni.dev/valid-attachments"

_BANDWIDTH = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")

Json = dict[str, Any]
Route = tuple[str, str | None]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")
_UNPRINTABLE = "\N{REPLACEMENT CHARACTER}"
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_KNOWN_ARGS = frozenset({
    "IP", "MAC", "IgnoreUnknown",
    "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_INFRA_CONTAINER_ID", "K8S_POD_UID",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a plugin. Names are checked; properties check what they read."""

    plugin: str
    command: str
    version: str
    container: str
    netns: str
    ifname: str
    path: str
    config: Json
    args: Mapping[str, str]
    environ: Mapping[str, str]
    raw: bytes

    @property
    def name(self) -> str:
        return str(self.config.get("name", ""))

    @property
    def mtu(self) -> int | None:
        value = self.config.get("mtu")
        if value in (None, 0):
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise CniError(Code.BAD_CONFIG, f"mtu {value!r} is not a number")
        if not MIN_MTU <= value <= MAX_MTU:
            raise CniError(Code.BAD_CONFIG, f"mtu {value} is not {MIN_MTU} to {MAX_MTU}")
        return value

    @property
    def mac(self) -> str | None:
        """By the mac capability, args.cni.mac, or CNI_ARGS, in this order."""
        found = self._asked("mac", "")
        if found == "":
            found = self.args.get("MAC")
        if not found and isinstance(found, str | None):
            return None
        if not isinstance(found, str) or not _MAC.fullmatch(found):
            raise CniError(Code.BAD_CONFIG, f"not a MAC address: {found!r}")
        if int(found[:2], 16) & 1 or not int(found.replace(":", ""), 16):
            raise CniError(Code.BAD_CONFIG, f"no interface can have the MAC address {found}")
        return found.lower()

    @property
    def asked(self) -> tuple[str, ...]:
        """The addresses asked for: by the ips capability, args.cni.ips, or CNI_ARGS."""
        found = self._asked("ips", [])
        if found == []:
            found = [ip for ip in self.args.get("IP", "").split(",") if ip]
        if not isinstance(found, list) or not all(isinstance(ip, str) for ip in found):
            raise CniError(Code.BAD_CONFIG, f"ips {found!r} is not a list of addresses")
        try:
            asked = dict.fromkeys(str(ip_interface(text).ip) for text in found)
        except ValueError as err:
            raise CniError(Code.BAD_CONFIG, f"ips {found!r}: not all are addresses") from err
        if len(asked) > MAX_RANGES:
            raise CniError(Code.UNSUPPORTED_FIELD, f"ips {found!r}: one address a range is given")
        return tuple(asked)  # podman asks twice for the same

    @property
    def is_host(self) -> bool:
        """mode: "host" asks for an address of the host's own, not for a pod's interface."""
        value = self.config.get("mode")
        if value not in (None, "bridge", "host"):
            raise CniError(Code.BAD_CONFIG, f"mode {value!r} is neither bridge nor host")
        return value == "host"

    @property
    def wants_gateway(self) -> bool | None:
        return self._flag("isDefaultGateway")

    @property
    def hairpin(self) -> bool:
        return bool(self._flag("hairpinMode"))

    @property
    def masquerade(self) -> bool:
        """ipMasq: whether the world sees the host in the pod's place."""
        return self._flag("ipMasq") is not False

    def _flag(self, key: str) -> bool | None:
        """None where the configuration does not say."""
        value = self.config.get(key)
        if value is not None and not isinstance(value, bool):
            raise CniError(Code.BAD_CONFIG, f"{key} {value!r} is not true or false")
        return value

    @property
    def shape(self) -> Shape:
        """What the interface may carry: by the bandwidth capability, in bits. A burst says nothing
        without its rate, and a rate has one of ours where it names none."""
        runtime = _section(self.config, "runtimeConfig") or {}
        asked = _section(runtime, "bandwidth") or {}
        numbers = [asked.get(key) or 0 for key in _BANDWIDTH]
        for key, value in zip(_BANDWIDTH, numbers, strict=True):
            if type(value) is not int or not 0 <= value <= MAX_RATE:
                said = f"bandwidth: {key} {value!r} is not a number of bits up to {MAX_RATE}"
                raise CniError(Code.BAD_CONFIG, said)
            if key.endswith("Rate") and 0 < value < MIN_RATE:
                raise CniError(Code.BAD_CONFIG, f"bandwidth: {key} {value} is less than {MIN_RATE}")
        return Shape(*numbers)

    @property
    def ipam(self) -> Json:
        return _section(self.config, "ipam") or {}

    @property
    def ipam_type(self) -> str:
        kind = self.ipam.get("type") or OWN_IPAM
        if not isinstance(kind, str) or not _NAME.fullmatch(kind):
            raise CniError(Code.BAD_CONFIG, f"invalid ipam.type: {kind!r}")
        return kind

    @property
    def ranges(self) -> tuple[str, ...]:
        """ipam.ranges: the mesh's ranges that a pod has an address of each, instead of the first
        of each family."""
        found = self.ipam.get("ranges")
        if found is None:
            return ()
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            raise CniError(Code.BAD_CONFIG, f"ipam.ranges {found!r} is not a list of ranges")
        try:
            return tuple(dict.fromkeys(str(ip_network(text)) for text in found))
        except ValueError as err:
            raise CniError(Code.BAD_CONFIG, f"ipam.ranges {found!r}: not all are ranges") from err

    @property
    def gateway(self) -> str | None:
        """ipam.gateway: the address pods are told to send through."""
        value = self.ipam.get("gateway")
        try:
            return None if value is None else str(ip_interface(value).ip)
        except ValueError as err:
            raise CniError(Code.BAD_CONFIG, f"ipam.gateway: {value!r} is no address") from err

    @property
    def routes(self) -> tuple[Route, ...]:
        """ipam.routes: destinations, each with its gateway where it names one."""
        return read_routes(self.ipam.get("routes"), Code.BAD_CONFIG, "ipam.routes")

    @property
    def previous(self) -> Json | None:
        """prevResult, whose parts are at least of the kind that they must be."""
        value = _section(self.config, "prevResult")
        if value is None:
            return None
        for part in ("interfaces", "ips", "routes"):
            entries = value.get(part) or []
            if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
                raise CniError(Code.BAD_CONFIG, f"prevResult: {part} is not a list of objects")
        if not isinstance(value.get("dns") or {}, dict):
            raise CniError(Code.BAD_CONFIG, "prevResult: dns is not an object")
        return value

    @property
    def valid_attachments(self) -> frozenset[tuple[str, str]]:
        value = self.config.get(VALID_ATTACHMENTS)
        # Absent is not the same as empty, which would free everything.
        if not isinstance(value, list):
            raise CniError(Code.BAD_CONFIG, f"{VALID_ATTACHMENTS} is not a list")
        found: set[tuple[str, str]] = set()
        for entry in value:
            match entry:
                case {"containerID": str(container), "ifname": str(ifname)}:
                    found.add((container, ifname))
                case _:  # leaving it out would free what is in use
                    raise CniError(Code.BAD_CONFIG, f"{VALID_ATTACHMENTS}: no attachment: {entry}")
        return frozenset(found)

    def _asked(self, key: str, nothing: object) -> object:
        """runtimeConfig.key, else args.cni.key, else ``nothing``."""
        args = _section(self.config, "args") or {}
        for source in (_section(self.config, "runtimeConfig"), _section(args, "cni")):
            found = None if source is None else source.get(key)
            if found is not None and found != nothing:
                return found
        return nothing


def parse(environ: Mapping[str, str], stdin: bytes) -> Call:
    """Check a call. Raises CniError with the specification's code."""
    command = environ.get("CNI_COMMAND", "")
    if command not in _REQUIRED:
        raise CniError(Code.ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    if command == "VERSION":
        return _version_call(environ, stdin)
    missing = [name for name in _REQUIRED[command] if not environ.get(name)]
    if missing:
        raise CniError(Code.ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    config = _config(stdin)
    version = _check_version(command, config)
    _check_names(environ, config)
    call = _call(environ, config, version, _args(environ.get("CNI_ARGS", "")), stdin)
    if command == "ADD":
        _check_values(call)
    return call


def said_version(stdin: bytes) -> str | None:
    """The version that a configuration names, which may be wrong in every other respect."""
    try:
        value = json.loads(stdin).get("cniVersion")
    except (ValueError, AttributeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def read_routes(value: object, code: Code, what: str) -> tuple[Route, ...]:
    """A list of CNI's route objects. Raises CniError with ``code``."""
    routes: list[Route] = []
    try:
        for entry in [] if value is None else value:  # type: ignore[attr-defined]  # found out here
            gateway = entry.get("gw")
            routes.append((
                str(ip_network(entry["dst"], strict=False)),
                None if not gateway else str(ip_interface(gateway).ip),
            ))  # fmt: skip
    except (TypeError, AttributeError, KeyError, ValueError) as err:
        raise CniError(code, f"{what} is not a list of routes", str(err)[:200]) from err
    return tuple(routes)


def _check_values(call: Call) -> None:
    """What is wrong of a network that is to be made is said before anything is touched; what is
    to be taken down is taken down all the same."""
    for _ in (
        call.mtu,
        call.mac,
        call.asked,
        call.ranges,
        call.wants_gateway,
        call.ipam_type,
        call.shape,
    ):
        pass
    for _ in (call.gateway, call.routes, call.previous, call.hairpin, call.masquerade):
        pass
    _ = call.is_host


def _section(config: Json, key: str) -> Json | None:
    value = config.get(key)
    if value is not None and not isinstance(value, dict):
        raise CniError(Code.BAD_CONFIG, f"{key} is not an object")
    return value


def _version_call(environ: Mapping[str, str], stdin: bytes) -> Call:
    """VERSION asks nothing of its environment, which runtimes fill with dummies."""
    version = said_version(stdin) or VERSIONS[-1]
    return _call(environ, {}, version, {}, stdin)


def _call(
    environ: Mapping[str, str], config: Json, version: str, args: Mapping[str, str], raw: bytes
) -> Call:
    return Call(
        plugin=environ.get("PLUGIN", "weaver-net"),
        command=environ["CNI_COMMAND"],
        version=version,
        container=environ.get("CNI_CONTAINERID", ""),
        netns=environ.get("CNI_NETNS", ""),
        ifname=environ.get("CNI_IFNAME", ""),
        path=environ.get("CNI_PATH", ""),
        config=config,
        args=args,
        environ={k: v for k, v in environ.items() if k.startswith("CNI_")},
        raw=raw,
    )


def _config(stdin: bytes) -> Json:
    if len(stdin) > MAX_STDIN:
        raise CniError(Code.DECODE, f"a configuration of more than {MAX_STDIN} octets")
    try:
        config = json.loads(stdin)
    except (ValueError, RecursionError) as err:
        raise CniError(Code.DECODE, "the configuration is not JSON", str(err)[:200]) from err
    if not isinstance(config, dict):
        raise CniError(Code.DECODE, "the configuration is not a JSON object")
    return config


def _check_version(command: str, config: Json) -> str:
    version = config.get("cniVersion", "0.1.0")  # what its absence means (SPEC.md section 1)
    if not isinstance(version, str) or version not in VERSIONS:
        details = f"config is {version!r}, plugin supports {list(VERSIONS)}"
        raise CniError(Code.VERSION, "incompatible CNI versions", details)
    since = {"CHECK": CHECK_SINCE, "GC": GC_SINCE, "STATUS": GC_SINCE}.get(command, "")
    if VERSIONS.index(version) < (VERSIONS.index(since) if since else 0):
        raise CniError(Code.VERSION, f"config version does not allow {command}")
    return version


def _check_names(environ: Mapping[str, str], config: Json) -> None:
    name = config.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CniError(Code.BAD_CONFIG, f"missing or invalid network name: {name!r}")
    container, ifname = environ.get("CNI_CONTAINERID"), environ.get("CNI_IFNAME")
    if container and not _NAME.fullmatch(container):
        raise CniError(Code.ENVIRONMENT, f"invalid CNI_CONTAINERID: {container!r}")
    if ifname and (
        len(ifname.encode()) > 15
        or ifname in (".", "..")
        or any(c in "/:" + _UNPRINTABLE or c.isspace() for c in ifname)
    ):
        raise CniError(Code.ENVIRONMENT, f"invalid CNI_IFNAME: {ifname!r}")


def _args(text: str) -> dict[str, str]:
    """CNI_ARGS; a key nobody knows is an error unless IgnoreUnknown says otherwise."""
    args: dict[str, str] = {}
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if pair and not (key and equals):
            raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: invalid pair {pair!r}")
        if key:
            args[key] = value
    unknown = sorted(args.keys() - _KNOWN_ARGS)
    if unknown and args.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: unknown args {unknown}")
    return args

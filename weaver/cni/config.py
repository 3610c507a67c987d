"""What a runtime asks: environment and network configuration, checked (SPEC.md sections 1, 2)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from weaver.cni.errors import CniError, Code

VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")
MAX_STDIN = 1 << 20
"""Octets of a configuration; the largest real ones are some tens of KiB."""

_CONTAINER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"),
    "GC": ("CNI_PATH",),
    "STATUS": ("CNI_PATH",),
    "VERSION": (),
}
_MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a plugin, parsed."""

    plugin: str
    command: str
    version: str
    container: str
    netns: str
    ifname: str
    path: str
    config: dict[str, Any]
    args: dict[str, str]
    raw: bytes

    @property
    def name(self) -> str:
        return str(self.config.get("name", ""))

    @property
    def mtu(self) -> int | None:
        value = self.config.get("mtu")
        if value in (None, 0):
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 576 <= value <= 65000:
            raise CniError(Code.BAD_CONFIG, f"mtu {value!r} is not 576 to 65000")
        return value

    @property
    def mac(self) -> str | None:
        runtime = self.config.get("runtimeConfig") or {}
        value = self.args.get("MAC") or (runtime.get("mac") if isinstance(runtime, dict) else None)
        if value is None:
            return None
        if not isinstance(value, str) or not _MAC.fullmatch(value):
            raise CniError(Code.BAD_CONFIG, f"not a MAC address: {value!r}")
        return value.lower()

    @property
    def address(self) -> str | None:
        """The address asked for: by CNI_ARGS, the ips capability, or args.cni.ips."""
        if "IP" in self.args:
            return self.args["IP"].split(",")[0]
        runtime, args = self.config.get("runtimeConfig"), self.config.get("args")
        cni = args.get("cni") if isinstance(args, dict) else None
        for source in (runtime, cni):
            ips = source.get("ips") if isinstance(source, dict) else None
            if isinstance(ips, list) and ips:
                return str(ips[0])
        return None


def parse(environ: dict[str, str], stdin: bytes) -> Call:
    """Check a call. Raises CniError with the specification's code."""
    command = environ.get("CNI_COMMAND", "")
    if command not in _REQUIRED:
        raise CniError(Code.ENVIRONMENT, f"unknown CNI_COMMAND: {command}")
    missing = [name for name in _REQUIRED[command] if not environ.get(name)]
    if missing:
        raise CniError(Code.ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
    config = _config(stdin)
    version = config.get("cniVersion", "0.1.0" if command != "VERSION" else VERSIONS[-1])
    if command != "VERSION":
        if version not in VERSIONS:
            details = f"config is {version!r}, plugin supports {list(VERSIONS)}"
            raise CniError(Code.VERSION, "incompatible CNI versions", details)
        _check_names(environ, config)
        if command in ("GC", "STATUS") and version != "1.1.0":
            raise CniError(Code.VERSION, f"config version does not allow {command}")
        if command == "CHECK" and version < "0.4.0":
            raise CniError(Code.VERSION, "config version does not allow CHECK")
    return Call(
        plugin=environ.get("PLUGIN", "weaver-net"),
        command=command,
        version=str(version),
        container=environ.get("CNI_CONTAINERID", ""),
        netns=environ.get("CNI_NETNS", ""),
        ifname=environ.get("CNI_IFNAME", ""),
        path=environ.get("CNI_PATH", ""),
        config=config,
        args=_args(environ.get("CNI_ARGS", "")) if command != "VERSION" else {},
        raw=stdin,
    )


def _config(stdin: bytes) -> dict[str, Any]:
    if len(stdin) > MAX_STDIN:
        raise CniError(Code.DECODE, f"a configuration of more than {MAX_STDIN} octets")
    try:
        config = json.loads(stdin or b"")
    except (ValueError, RecursionError) as err:
        raise CniError(Code.DECODE, "the configuration is not JSON", str(err)[:200]) from err
    if not isinstance(config, dict):
        raise CniError(Code.DECODE, "the configuration is not a JSON object")
    return config


def _check_names(environ: dict[str, str], config: dict[str, Any]) -> None:
    name = config.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CniError(Code.BAD_CONFIG, f"missing or invalid network name: {name!r}")
    container, ifname = environ.get("CNI_CONTAINERID"), environ.get("CNI_IFNAME")
    if container and not _CONTAINER.fullmatch(container):
        raise CniError(Code.ENVIRONMENT, f"invalid CNI_CONTAINERID: {container!r}")
    if ifname and (
        len(ifname.encode()) > 15
        or ifname in (".", "..")
        or any(c in "/:" or c.isspace() for c in ifname)
    ):
        raise CniError(Code.ENVIRONMENT, f"invalid CNI_IFNAME: {ifname!r}")


def _args(text: str) -> dict[str, str]:
    """CNI_ARGS; a key nobody knows is an error unless IgnoreUnknown says otherwise."""
    if not text:
        return {}
    args: dict[str, str] = {}
    for pair in text.split(";"):
        key, equals, value = pair.partition("=")
        if not equals:
            raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: invalid pair {pair!r}")
        args[key] = value
    unknown = [k for k in args if k not in ("IP", "MAC", "IgnoreUnknown") and "K8S_" not in k]
    if unknown and args.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        raise CniError(Code.ENVIRONMENT, f"CNI_ARGS: unknown args {unknown}")
    return args

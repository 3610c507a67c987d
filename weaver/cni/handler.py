"""ADD, DEL, CHECK, GC, STATUS, VERSION, for both plugins."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

from mesh.errors import OperatorError
from weaver.cni import result
from weaver.cni.config import VERSIONS, Call, parse
from weaver.cni.errors import CniError, Code, explained
from weaver.daemon.attach import Attacher, AttachRequest

OWN_IPAM = "weaver-ipam"
DELEGATE_TIMEOUT = 30.0
Json = dict[str, Any]


class Handler:
    """``not_ready`` says why the daemon cannot serve now, or None."""

    def __init__(self, attacher: Attacher, not_ready: Callable[[], str | None]) -> None:
        self._attacher, self._not_ready = attacher, not_ready

    async def handle(self, environ: dict[str, str], stdin: bytes) -> tuple[int, bytes]:
        """(exit code, standard output). Never raises."""
        version = VERSIONS[2]
        try:
            call = parse(environ, stdin)
            version = call.version
            answer = await self._answer(call)
        except CniError as err:
            return 1, json.dumps(result.failed(_said_version(stdin) or version, err)).encode()
        except OperatorError as err:
            return 1, json.dumps(result.failed(version, explained(err))).encode()
        return 0, b"" if answer is None else json.dumps(answer).encode()

    async def _answer(self, call: Call) -> Json | None:
        match call.command:
            case "VERSION":
                version = call.config.get("cniVersion", VERSIONS[-1])
                return {"cniVersion": version, "supportedVersions": list(VERSIONS)}
            case "ADD":
                self._demand_ready(Code.TRY_AGAIN)
                return await (self._ipam_add(call) if self._is_ipam(call) else self._add(call))
            case "DEL":
                await (self._ipam_del(call) if self._is_ipam(call) else self._del(call))
            case "CHECK":
                self._demand_ready(Code.TRY_AGAIN)
                await (self._ipam_check(call) if self._is_ipam(call) else self._check(call))
            case "STATUS":
                self._demand_ready(Code.NOT_AVAILABLE)
            case "GC":
                await self._gc(call)
            case _:
                raise CniError(Code.ENVIRONMENT, f"unknown CNI_COMMAND: {call.command}")
        return None

    @staticmethod
    def _is_ipam(call: Call) -> bool:
        return call.plugin == OWN_IPAM

    def _demand_ready(self, code: Code) -> None:
        if (reason := self._not_ready()) is not None:
            raise CniError(code, f"weaver is not ready: {reason}", reason)

    # ---- weaver-net

    async def _add(self, call: Call) -> Json:
        delegate = _delegate(call)
        addresses: tuple[str, ...] | None = None
        routes: tuple[tuple[str, str | None], ...] = ()
        if delegate is not None:
            said = await _run_delegate(delegate, call, "ADD")
            addresses = tuple(ip["address"] for ip in said.get("ips", []))
            routes = tuple((r["dst"], r.get("gw")) for r in said.get("routes", []))
        request = AttachRequest(
            container=call.container,
            ifname=call.ifname,
            netns=call.netns,
            address=call.address if delegate is None else None,
            mac=call.mac,
            mtu=call.mtu,
            addresses=addresses,
            routes=routes,
            default_route=bool(call.config.get("isDefaultGateway", True)) and delegate is None,
        )
        held = self._attacher.get(call.container, call.ifname)
        if held is not None and held.netns == call.netns:
            raise CniError(Code.KERNEL, f"{call.ifname} exists in {call.netns}", "interface-exists")
        try:
            row = await self._attacher.attach(request)
        except OperatorError:
            if delegate is not None:
                await _run_delegate(delegate, call, "DEL")
            raise
        return result.added(call.version, row)

    async def _del(self, call: Call) -> None:
        await self._attacher.detach(call.container, call.ifname)
        if (delegate := _delegate(call)) is not None:
            await _run_delegate(delegate, call, "DEL")

    async def _check(self, call: Call) -> None:
        previous = call.config.get("prevResult")
        if not isinstance(previous, dict):
            raise CniError(Code.BAD_CONFIG, "CHECK needs prevResult")
        wrong = list(await self._attacher.check(call.container, call.ifname, call.netns))
        row = self._attacher.get(call.container, call.ifname)
        said = {ip.get("address") for ip in previous.get("ips", []) if isinstance(ip, dict)}
        if row is not None:
            wrong += [f"prevResult lacks {cidr}" for cidr in row.addresses if cidr not in said]
        if wrong:
            raise CniError(Code.CHECK_FAILED, "; ".join(wrong), "check-failed")
        if (delegate := _delegate(call)) is not None:
            await _run_delegate(delegate, call, "CHECK")

    async def _gc(self, call: Call) -> None:
        """Detach everything of ours that the runtime no longer knows."""
        valid = call.config.get("cni.dev/valid-attachments") or []
        keep = {(v.get("containerID"), v.get("ifname")) for v in valid if isinstance(v, dict)}
        for row in self._attacher.list():
            if (row.container, row.ifname) not in keep:
                await self._attacher.detach(row.container, row.ifname)

    # ---- weaver-ipam

    async def _ipam_add(self, call: Call) -> Json:
        cidr = await self._attacher.allocate(call.container, call.ifname, call.address)
        exposed = self._attacher.exposed
        gateway = None if exposed is None else exposed.partition("/")[0]
        return result.addressed(call.version, cidr, gateway)

    async def _ipam_del(self, call: Call) -> None:
        await self._attacher.release(call.container, call.ifname)

    async def _ipam_check(self, call: Call) -> None:
        if not self._attacher.has_address(call.container, call.ifname):
            raise CniError(Code.CHECK_FAILED, f"{call.container} has no address", "check-failed")


def _said_version(stdin: bytes) -> str | None:
    """The version an erroneous configuration asked for, where one can be made out."""
    try:
        value = json.loads(stdin[:65536]).get("cniVersion")
    except (ValueError, AttributeError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def _delegate(call: Call) -> str | None:
    """The path of another IPAM plugin that the configuration names, or None for our own."""
    ipam = call.config.get("ipam")
    kind = ipam.get("type") if isinstance(ipam, dict) else None
    if kind in (None, "", OWN_IPAM):
        return None
    if not isinstance(kind, str) or "/" in kind:
        raise CniError(Code.BAD_CONFIG, f"invalid ipam.type: {kind!r}")
    found = shutil.which(kind, path=call.path)
    if found is None:
        raise CniError(Code.BAD_CONFIG, f"no IPAM plugin {kind} in CNI_PATH")
    return found


async def _run_delegate(path: str, call: Call, command: str) -> Json:
    """Run another plugin with the same configuration; its result."""
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": call.container,
        "CNI_NETNS": call.netns,
        "CNI_IFNAME": call.ifname,
        "CNI_PATH": call.path,
        "CNI_ARGS": ";".join(f"{k}={v}" for k, v in call.args.items()),
    }
    process = await asyncio.create_subprocess_exec(
        path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env=environ,
    )
    try:
        async with asyncio.timeout(DELEGATE_TIMEOUT):
            out, _ = await process.communicate(call.raw)
    except TimeoutError as err:
        process.kill()
        raise CniError(Code.DELEGATE, f"{path} did not answer", "delegate-timeout") from err
    try:
        said = json.loads(out or b"{}")
    except ValueError as err:
        raise CniError(Code.DELEGATE, f"{path} printed no JSON", "delegate-failed") from err
    if process.returncode:
        message = f"{path}: {said.get('msg', 'failed')}"
        raise CniError(Code.DELEGATE, message, "delegate-failed")
    return said if isinstance(said, dict) else {}

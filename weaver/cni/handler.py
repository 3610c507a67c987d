"""ADD, DEL, CHECK, GC, STATUS, VERSION, for both plugins."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network

from mesh.errors import OperatorError
from weaver.cni import hostmode, result
from weaver.cni.config import OWN_IPAM, VERSIONS, Call, Json, Route, parse, said_version
from weaver.cni.delegate import find_delegate, run_delegate
from weaver.cni.errors import CniError, Code, explained
from weaver.daemon.attach import Attacher, AttachRequest

log = logging.getLogger(__name__)

Reason = Callable[[], str | None]

EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}

FALLBACK_VERSION = "1.0.0"
"""Of an error about a call whose own version cannot be made out."""


class Handler:
    """``not_ready`` says why the daemon cannot serve now, ``cannot_allocate`` why an ADD could not
    have an address; or None."""

    def __init__(self, attacher: Attacher, not_ready: Reason, cannot_allocate: Reason) -> None:
        self._attacher = attacher
        self._not_ready, self._cannot_allocate = not_ready, cannot_allocate

    async def handle(self, environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        """(exit status, standard output)."""
        try:
            answer = await self._answer(parse(environ, stdin))
        except CniError as err:
            return refusal(stdin, err)
        except OperatorError as err:
            return refusal(stdin, explained(err))
        return 0, b"" if answer is None else json.dumps(answer).encode()

    async def _answer(self, call: Call) -> Json | None:
        is_ipam = call.plugin == OWN_IPAM
        match call.command:
            case "VERSION":
                return {"cniVersion": call.version, "supportedVersions": list(VERSIONS)}
            case "ADD":
                _demand(self._not_ready, Code.TRY_AGAIN)
                return await (self._ipam_add(call) if is_ipam else self._add(call))
            case "DEL":
                await (self._ipam_del(call) if is_ipam else self._del(call))
            case "CHECK":
                _demand(self._not_ready, Code.TRY_AGAIN)
                await (self._ipam_check(call) if is_ipam else self._check(call))
            case "STATUS":
                delegate = None if is_ipam else find_delegate(call)
                own = delegate is None  # whose addresses are ours
                _demand(self._cannot_allocate if own else self._not_ready, Code.NOT_AVAILABLE)
                if delegate is not None:
                    await run_delegate(delegate, call, "STATUS")
            case _:  # GC: parse lets nothing else through
                await self._gc(call, is_ipam=is_ipam)
        return None

    # ---- weaver-net

    async def _add(self, call: Call) -> Json:
        if call.is_host:
            return await hostmode.add(self._attacher, call)
        delegate = find_delegate(call)
        if delegate is None:
            row = await self._attacher.attach(await self._own_request(call))
            return result.added(call.version, row, {}, call.previous)
        # Whoever asks twice must not have its first attachment's address freed below.
        if await self._attacher.exists(call.container, call.ifname):
            raise CniError(Code.EXISTS, f"{call.ifname} exists already", "interface-exists")
        try:
            given = result.read_delegated(await run_delegate(delegate, call, "ADD"))
            row = await self._attacher.attach(
                _request(call, given.routes, given.gateways, given.addresses)
            )
        except BaseException:
            await self._take_back(delegate, call)
            raise
        return result.added(call.version, row, given.dns, call.previous)

    async def _own_request(self, call: Call) -> AttachRequest:
        """With routes through the bridge's addresses where the configuration wants them."""
        routes, wants = call.routes, call.wants_gateway
        named = {} if call.gateway is None else {_family(call.gateway): call.gateway}
        lacks_gateway = any(via is None and _family(to) not in named for to, via in routes)
        _request(call, routes)  # checks the rest before the host is touched
        chosen = [c.pool.range for c in self._attacher.pools.choose(call.asked, call.ranges)]
        if wants or lacks_gateway:
            await self._attacher.expose()
        for own in self._attacher.gateways:
            if any(ip_address(own) in ip_network(str(range)) for range in chosen):
                named.setdefault(_family(own), own)
        gateways = {family: named[family] for family in sorted(named)}
        routes = tuple((to, via or gateways.get(_family(to))) for to, via in routes)
        if wants is not False:
            have = dict(routes)
            routes += tuple(
                (EVERYWHERE[family], gateway)
                for family, gateway in gateways.items()
                if EVERYWHERE[family] not in have
            )
        if any(via in self._attacher.gateways for _, via in routes):
            self._attacher.holders.shared()
        return _request(call, routes, tuple(gateways.values()))

    async def _take_back(self, delegate: str, call: Call) -> None:
        try:
            await run_delegate(delegate, call, "DEL")
        except CniError as err:
            log.warning("address not given back", extra={"reason": "delegate", "error": str(err)})

    async def _del(self, call: Call) -> None:
        # Whatever the configuration says by now.
        await self._attacher.holders.drop((call.container, call.ifname))
        await self._attacher.detach(call.container, call.ifname, call.netns)
        if (delegate := find_delegate(call)) is not None:
            await run_delegate(delegate, call, "DEL")

    async def _check(self, call: Call) -> None:
        previous = call.previous
        if previous is None:
            raise CniError(Code.BAD_CONFIG, "CHECK needs prevResult")
        if call.is_host:
            hostmode.check(self._attacher, call, previous)
            return
        wrong = await self._attacher.check(call.container, call.ifname, call.netns)
        row = self._attacher.get(call.container, call.ifname)
        if row is not None:
            said = {ip.get("address") for ip in _objects(previous.get("ips"))}
            wrong += [f"prevResult lacks {cidr}" for cidr in row.addresses if cidr not in said]
            sandboxes = {
                interface.get("sandbox")
                for interface in _objects(previous.get("interfaces"))
                if interface.get("name") == call.ifname
            }
            if call.netns not in sandboxes:
                wrong.append(f"prevResult lacks {call.ifname} in {call.netns}")
        if wrong:
            raise CniError(Code.CHECK_FAILED, "; ".join(wrong), "check-failed")
        if (delegate := find_delegate(call)) is not None:
            await run_delegate(delegate, call, "CHECK")

    async def _gc(self, call: Call, *, is_ipam: bool) -> None:
        """Detach what the runtime no longer knows of this network; all of it is tried."""
        failure: OperatorError | CniError | None = None
        try:
            if not is_ipam:
                await self._attacher.holders.collect(call.name, call.valid_attachments)
            await self._attacher.collect(call.name, call.valid_attachments, leases=is_ipam)
        except OperatorError as err:
            failure = err
        if not is_ipam and (delegate := find_delegate(call)) is not None:
            await run_delegate(delegate, call, "GC")
        if failure is not None:
            raise failure

    # ---- weaver-ipam

    async def _ipam_add(self, call: Call) -> Json:
        addresses = await self._attacher.allocate(
            call.container, call.ifname, call.asked, call.name, ranges=call.ranges
        )
        gateways = () if call.gateway is None else (call.gateway,)
        return result.addressed(call.version, addresses, gateways, call.routes)

    async def _ipam_del(self, call: Call) -> None:
        await self._attacher.release(call.container, call.ifname)

    async def _ipam_check(self, call: Call) -> None:
        if not self._attacher.has_address(call.container, call.ifname):
            raise CniError(Code.CHECK_FAILED, f"{call.container} has no address", "check-failed")


def _demand(reason: Reason, code: Code) -> None:
    if (why := reason()) is not None:
        raise CniError(code, f"weaver is not ready: {why}", why)


def refusal(stdin: bytes, err: CniError) -> tuple[int, bytes]:
    """(exit status, standard output) of an error, in the version that was asked for."""
    said = said_version(stdin)
    version = said if said in VERSIONS else FALLBACK_VERSION
    return 1, json.dumps(result.failed(version, err)).encode()


def _request(
    call: Call,
    routes: tuple[Route, ...],
    gateways: tuple[str, ...] = (),
    addresses: tuple[str, ...] | None = None,
) -> AttachRequest:
    own = addresses is None
    return AttachRequest(
        container=call.container,
        ifname=call.ifname,
        netns=call.netns,
        asked=call.asked if own else (),
        ranges=call.ranges if own else (),
        mac=call.mac,
        mtu=call.mtu,
        addresses=addresses,
        gateways=gateways,
        routes=routes,
        exclusive=True,
        network=call.name,
        hairpin=call.hairpin,
        masquerade=call.masquerade,
        shape=call.shape,
    )


def _family(text: str) -> int:
    return 6 if ":" in text else 4


def _objects(value: object) -> list[Json]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

"""All that the API may ask of a daemon, as plain JSON values. Raises OperatorError."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from ipam.address import AddressRange
from ipam.allocator import Allocator
from ipam.effects import AllocationKey
from mesh.connection.maker import DEFAULT_PORT, Target
from mesh.errors import OperatorError
from mesh.names import PeerName
from weaver import __version__
from weaver.daemon.address_view import AddressView
from weaver.daemon.attach import BY_HAND, Attachment, AttachRequest, check_request
from weaver.daemon.daemon import HANDOVER_TIMEOUT, Daemon
from weaver.daemon.network import MAX_RATE, MIN_RATE, Shape

log = logging.getLogger(__name__)

Json = Any


class Facade:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    @property
    def addresses(self) -> AddressView:
        daemon = self.daemon
        return AddressView(
            daemon.ranges,
            nickname=daemon.nickname,
            reachable=lambda: daemon.router.reachable,
            suspects=lambda: daemon.leaks.suspects,
        )

    # ---- reading

    def version(self) -> Json:
        return {"version": __version__}

    def status(self) -> Json:
        daemon = self.daemon
        status = asdict(daemon.router.status(daemon.clock.now()))
        status["links"] = self._with_kernel(status["links"])
        return {
            "version": __version__,
            "ready": self.not_ready() is None,
            "not_ready": self.not_ready(),
            "uptime": daemon.clock.now() - daemon.started_at,
            **status,
            "fastdp": self.fastdp(),
            "pod_mtu": self.pod_mtu(),
            "ipam": self.ipam(),
            "attachments": self.attachments(),
            "exposed": daemon.attacher.exposed,
            "state_fault": daemon.state.fault,
            "worker": {
                "pids": daemon.worker.pids,
                "restarts": daemon.worker.restarts,
                "state": status["us"]["worker"],
            },
        }

    def part(self, name: str) -> Json:
        """One of peers, connections, targets, links, routes, channels."""
        part = asdict(self.daemon.router.status(self.daemon.clock.now()))[name]
        return self._with_kernel(part) if name == "links" else part

    def _with_kernel(self, links: Json) -> Json:
        """What the kernel counted beside what the worker counted."""
        counted = self.daemon.steering.counters()
        records = self.daemon.router.topology.records
        ids = {str(name): record.short_id for name, record in records.items()}
        for link in links:
            short_id = ids.get(link["peer"])
            entry = None if counted is None or short_id is None else counted.peers.get(short_id)
            link["kernel"] = None if entry is None else asdict(entry)
        return links

    def fastdp(self) -> Json:
        """Whether frames go by the kernel, why not, and what it dropped."""
        daemon = self.daemon
        counted, problem = daemon.steering.counters(), daemon.steering.problem
        return {
            "enabled": daemon.config.fastdp,
            "problem": daemon.router.fastdp.problem,
            "explanation": None if problem is None else str(problem),
            "trusted_subnets": [str(subnet) for subnet in daemon.config.trusted_subnets],
            "drops": {} if counted is None else {str(k): v for k, v in counted.drops.items()},
            "answered": 0 if counted is None else counted.answered,
            "upcalls": 0 if counted is None else counted.upcalls,
            "to_sleeve": 0 if counted is None else counted.to_sleeve,
        }

    def pod_mtu(self) -> Json:
        """The MTU of pods here and what it follows from: ``--mtu``, or the narrowest way out."""
        mtu, found = self.daemon.pod_mtu, self.daemon.pod_mtu.towards
        return {
            "mtu": mtu.value,
            "by": "--mtu" if mtu.is_asked else "underlay",
            "underlay": None if found is None else found[1],
            "towards": None if found is None else found[0],
        }

    def not_ready(self) -> str | None:
        """Why pods cannot be attached now, or None."""
        daemon = self.daemon
        if not daemon.ready:
            return "starting"
        if daemon.ranges.fault is not None:
            return daemon.ranges.fault
        if not daemon.router.links.worker_up:
            return daemon.router.links.worker_reason
        return None

    def cannot_allocate(self) -> str | None:
        """Why no address would be given now, or None: what CNI's STATUS says beforehand. An ADD
        waits a while for a quorum that is not there yet."""
        if (reason := self.not_ready()) is not None:
            return reason
        ranges = self.daemon.ranges
        defaults = {choice.pool.range for choice in ranges.pools.choose()}
        found = (self._cannot_allocate(k.allocator) for k in ranges if k.range in defaults)
        return next((reason for reason in found if reason is not None), None)

    def _cannot_allocate(self, allocator: Allocator) -> str | None:
        reachable = self.daemon.router.reachable
        if allocator.ring.is_seeded:
            return "no-space" if not reachable and not allocator.space.free_count() else None
        return "no-quorum" if 1 + len(reachable) < allocator.election.quorum else None

    def ipam(self) -> Json:
        return self.addresses.ipam()

    def ipam_list(self) -> Json:
        return self.addresses.in_use()

    def ipam_ring(self) -> Json:
        return self.addresses.ring()

    def ipam_who(self, address: str) -> Json:
        return self.addresses.who(address)

    async def ipam_check(self) -> Json:
        return await self.addresses.check()

    def ipam_history(self) -> Json:
        return self.addresses.history()

    def attachments(self) -> Json:
        return [_attachment(row) for row in self.daemon.attacher.list()]

    def report(self) -> Json:
        """Everything there is to say, for a bug report; no secret is in it."""
        return {
            **self.status(),
            "ipam_ring": self.ipam_ring(),
            "ipam_list": self.ipam_list(),
            "events": list(self.daemon.events.past),
        }

    # ---- orders

    def connect(self, peers: list[str]) -> Json:
        targets = self._targets(peers)
        self.daemon.mesh.connect(targets)
        return {"targets": [str(t) for t in targets]}

    def forget(self, peers: list[str]) -> Json:
        targets = self._targets(peers)
        known = {row["target"] for row in self.part("targets")}
        self.daemon.mesh.forget(targets)
        return {
            "targets": [str(t) for t in targets],
            "unknown": [str(t) for t in targets if str(t) not in known],
        }

    async def reload(self) -> Json:
        ring = await asyncio.to_thread(self.daemon.passwords)
        if bool(ring) != self.daemon.router.hub.encrypted:
            raise OperatorError(
                "to begin or cease to use a password needs a restart",
                "password-needs-restart",
            )
        self.daemon.mesh.set_passwords(ring)
        return {"passwords": list(ring.ids)}

    async def reload_on_signal(self) -> None:
        """SIGHUP's reload has nobody to answer to but the log."""
        if not self.daemon.ready:
            log.warning("password file not read", extra={"reason": "starting"})
            return
        try:
            ids = (await self.reload())["passwords"]
            log.info("password file read", extra={"ids": " ".join(ids)})
        except OperatorError as err:
            log.warning("password file not read", extra={"reason": err.reason, "error": str(err)})

    async def attach(self, request: AttachRequest) -> Json:
        check_request(request)
        self._usable()
        return _attachment(await self.daemon.attacher.attach(request))

    async def detach(self, container: str, ifname: str | None) -> Json:
        count = await self.daemon.attacher.detach(container, ifname)
        if not count:
            raise OperatorError(f"{container} is not attached", "not-attached")
        return {"detached": count}

    async def shape(self, container: str, ifname: str | None, shape: Shape) -> Json:
        numbers = asdict(shape).values()
        if any(not 0 <= n <= MAX_RATE for n in numbers) or any(
            0 < rate < MIN_RATE for rate in (shape.ingress_rate, shape.egress_rate)
        ):
            raise OperatorError(f"a rate is 0 (any) or {MIN_RATE} bits and more", "bad-request")
        count = await self.daemon.attacher.shape(container, ifname, shape)
        if not count:
            raise OperatorError(f"{container} is not attached", "not-attached")
        return {"bounded": count}

    async def expose(self, address: str | None) -> Json:
        self._usable()
        asked = () if address is None else (address,)
        addresses = await self.daemon.attacher.expose(asked)
        self.daemon.attacher.holders.shared()
        self.daemon.tell_attached()
        return {"addresses": list(addresses)}

    async def hide(self) -> Json:
        addresses = await self.daemon.attacher.hide()
        self.daemon.tell_attached()
        return {"addresses": list(addresses)}

    async def ipam_allocate(self, container: str, interface: str, ranges: list[str]) -> Json:
        addresses = await self.daemon.attacher.allocate(
            container, interface, (), BY_HAND, ranges=ranges
        )
        return {"addresses": list(addresses)}

    async def ipam_claim(
        self, container: str, interface: str, address: str, *, force: bool
    ) -> Json:
        kept, _ = self.daemon.ranges.of(address)
        addresses = await self.daemon.attacher.allocate(
            container, interface, [address], BY_HAND, ranges=[str(kept.range)], force=force
        )
        return {"addresses": list(addresses)}

    async def ipam_free(self, container: str, interface: str) -> Json:
        key = AllocationKey(container, interface)
        if self.daemon.attacher.uses(key):
            # Freed, it would be given to the next pod while this one still has it.
            raise OperatorError(
                f"{container} is using it; `weaver detach` or `weaver hide` gives it back", "in-use"
            )
        return {"addresses": await self.daemon.attacher.release(container, interface)}

    async def ipam_add_range(self, text: str) -> Json:
        self._usable()
        await self.daemon.add_range(AddressRange.parse(text))
        return {"ranges": [str(range) for range in self.daemon.ranges.pools.ranges]}

    async def ipam_reclaim(self, peer: str, force: bool) -> Json:
        name = self._peer(peer)
        ranges = self.daemon.ranges
        await ranges.reclaim(name, force=force, gaps=force)
        return {"peer": str(name), "owned": sum(k.allocator.space.size for k in ranges)}

    async def ipam_resolve(self, address: str) -> Json:
        kept, number = self.daemon.ranges.of(address)
        await kept.ipam.resolve(number)
        return {"address": kept.range.text(number)}

    async def ipam_collect(self, dry_run: bool) -> Json:
        given, left = await self.daemon.leaks.collect(dry_run=dry_run)
        return {"collected": [s.row for s in given], "suspected": [s.row for s in left]}

    def stop(self) -> Json:
        self.daemon.stopping.set()
        return {}

    async def reset(self, force: bool) -> Json:
        """Give our space to others, take every pod's interface down, then stop."""
        daemon = self.daemon
        for row in daemon.attacher.list():
            await daemon.attacher.detach(row.container, row.ifname)
        await daemon.attacher.hide()
        if not await daemon.ranges.leave(HANDOVER_TIMEOUT) and not force:
            daemon.ranges.stay()
            raise OperatorError(
                "nobody took our space over; --force gives it up", "handover-failed"
            )
        await daemon.worker.close()
        daemon.steering.close()
        daemon.take_fastpath_away()
        await daemon.devices.remove()
        daemon.stopping.set()
        handed = all(kept.allocator.leaving.has_left for kept in daemon.ranges)
        return {"handed_over": handed, "state_dir": str(daemon.config.state_dir)}

    # ---- inside

    def _usable(self) -> None:
        if (reason := self.not_ready()) is not None:
            raise OperatorError(f"not ready: {reason}", reason)

    @staticmethod
    def _targets(peers: list[str]) -> tuple[Target, ...]:
        if not peers:
            raise OperatorError("no address given", "bad-request")
        return tuple(Target.parse(text, DEFAULT_PORT) for text in peers)

    def _peer(self, text: str) -> PeerName:
        """A peer by name or by its only holder's nickname."""
        records = self.daemon.router.topology.records
        named = [n for n, r in records.items() if r.nickname == text]
        if len(named) == 1:
            return named[0]
        if len(named) > 1:
            raise OperatorError(f"{len(named)} peers are called {text}", "ambiguous-nickname")
        try:
            return PeerName.parse(text)
        except ValueError as err:
            raise OperatorError(
                f"no peer is called {text}; one that is gone has the name that `weaver status ipam`"
                " shows",
                "unknown-peer",
            ) from err


def _attachment(row: Attachment) -> Json:
    return {
        **asdict(row),
        "addresses": list(row.addresses),
        "routes": [list(r) for r in row.routes],
    }

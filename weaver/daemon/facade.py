"""All that the API may ask of a daemon, as plain JSON values. Raises OperatorError."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import Any

from ipam.effects import AllocationKey
from mesh.connection.maker import DEFAULT_PORT, Target
from mesh.errors import OperatorError
from mesh.names import PeerName
from weaver import __version__
from weaver.daemon.attach import BY_HAND, Attachment, AttachRequest, check_request
from weaver.daemon.comparison import has_settled
from weaver.daemon.daemon import HANDOVER_TIMEOUT, Daemon
from weaver.daemon.ledger import Ledger
from weaver.daemon.network import MAX_RATE, MIN_RATE, Shape

log = logging.getLogger(__name__)

Json = Any

SETTLE = 1.0
"""Seconds that gossip of a moment ago takes to arrive."""


class Facade:
    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    @property
    def ledger(self) -> Ledger:
        daemon = self.daemon
        return Ledger(
            daemon.ipam.allocator,
            nickname=daemon.nickname,
            reachable=lambda: daemon.router.reachable,
            history=daemon.past,
            leaks=lambda: daemon.leaks.suspects,
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
        if daemon.ipam.fault is not None:
            return daemon.ipam.fault
        if not daemon.router.links.worker_up:
            return daemon.router.links.worker_reason
        return None

    def cannot_allocate(self) -> str | None:
        """Why no address would be given now, or None: what CNI's STATUS says beforehand. An ADD
        waits a while for a quorum that is not there yet."""
        daemon, allocator = self.daemon, self.daemon.ipam.allocator
        if (reason := self.not_ready()) is not None:
            return reason
        if allocator.ring.is_seeded:
            alone = not daemon.router.reachable and not allocator.space.free_count()
            return "no-space" if alone else None
        electors = 1 + len(daemon.router.reachable)
        return "no-quorum" if electors < allocator.election.quorum else None

    def ipam(self) -> Json:
        allocator = self.daemon.ipam.allocator
        ring, space = allocator.ring, allocator.space
        shares = ring.shares()
        return {
            "range": str(allocator.range),
            "cluster": None if ring.id is None else ring.id.cluster.hex(),
            "seeded": ring.is_seeded,
            "quorum": allocator.election.quorum,
            "owned": space.size,
            "used": len(allocator.allocations),
            "free": space.free_count() if ring.is_seeded else 0,
            "rest": allocator.rest,
            "resting": space.resting_count,
            "excluded": space.excluded.texts(),
            "excluded_used": [allocator.range.text(a) for a in space.excluded_used()],
            "slices": len(ring.slices),
            "suspected": [s.row for s in self.daemon.leaks.suspects],
            "gaps": [[allocator.range.text(a), allocator.range.text(b)] for a, b in ring.gaps()],
            "pending": allocator.pending_count,
            "fault": self.daemon.ipam.fault,
            "withheld": allocator.withheld,
            "astray": [allocator.range.text(a) for a in sorted(allocator.estate.astray)],
            "shares": [
                {
                    "peer": str(peer),
                    "nickname": self.daemon.nickname(peer),
                    "addresses": share,
                    "percent": round(100 * share / allocator.range.size, 3),
                    "reachable": peer == allocator.us or peer in self.daemon.router.reachable,
                }
                for peer, share in sorted(shares.items())
            ],
            "conflicts": [
                {
                    "start": allocator.range.text(c.start),
                    "end": allocator.range.text(c.end - 1),
                    "reason": c.reason,
                    "held": f"{c.held.owner} v{c.held.version}",
                    "said": f"{c.said.owner} v{c.said.version}",
                    "source": str(c.source),
                }
                for _, c in sorted(ring.conflicts.items())
            ],
            "lost": [
                {
                    "container": lost.key.container,
                    "interface": lost.key.interface,
                    "address": allocator.range.text(lost.address),
                }
                for lost in self.daemon.ipam.lost
            ],
        }

    def ipam_list(self) -> Json:
        allocator = self.daemon.ipam.allocator
        return [
            {
                "address": allocator.range.text(address),
                "container": key.container,
                "interface": key.interface,
            }
            for key, address in sorted(allocator.allocations.items(), key=lambda row: row[1])
        ]

    def ipam_ring(self) -> Json:
        allocator = self.daemon.ipam.allocator
        return [
            {
                "start": allocator.range.text(s.start),
                "end": allocator.range.text(s.end - 1),
                "size": s.size,
                "owner": str(s.owner),
                "nickname": self.daemon.nickname(s.owner),
                "version": s.version,
                "takeover": s.takeover,
            }
            for _, s in sorted(allocator.ring.slices.items())
        ]

    def ipam_who(self, address: str) -> Json:
        return self.ledger.who(self.daemon.config.range.number(address))

    async def ipam_check(self) -> Json:
        """Asked once more where what is on its way may explain what was seen."""
        daemon = self.daemon
        survey = await daemon.ipam.survey()
        if not has_settled(daemon.ipam.allocator.ring, survey):
            await asyncio.sleep(SETTLE)
            survey = await daemon.ipam.survey()
        return self.ledger.check(survey)

    def ipam_history(self) -> Json:
        return self.ledger.past(1000)

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
        cidr = await self.daemon.attacher.expose(address)
        self.daemon.attacher.holders.shared()
        self.daemon.tell_attached()
        return {"address": cidr}

    async def hide(self) -> Json:
        address = await self.daemon.attacher.hide()
        self.daemon.tell_attached()
        return {"address": address}

    async def ipam_allocate(self, container: str, interface: str) -> Json:
        cidr = await self.daemon.attacher.allocate(container, interface, None, BY_HAND)
        return {"address": cidr}

    async def ipam_claim(
        self, container: str, interface: str, address: str, *, force: bool
    ) -> Json:
        cidr = await self.daemon.attacher.allocate(
            container, interface, address, BY_HAND, force=force
        )
        return {"address": cidr}

    async def ipam_free(self, container: str, interface: str) -> Json:
        key = AllocationKey(container, interface)
        if self.daemon.attacher.uses(key):
            # Freed, it would be given to the next pod while this one still has it.
            raise OperatorError(
                f"{container} is using it; `weaver detach` or `weaver hide` gives it back", "in-use"
            )
        address = await self.daemon.attacher.release(container, interface)
        return {"address": None if address is None else self.daemon.config.range.text(address)}

    async def ipam_reclaim(self, peer: str, force: bool) -> Json:
        name = self._peer(peer)
        await self.daemon.ipam.reclaim(name, force=force, gaps=force)
        return {"peer": str(name), "owned": self.daemon.ipam.allocator.space.size}

    async def ipam_resolve(self, address: str) -> Json:
        number = self.daemon.config.range.number(address)
        await self.daemon.ipam.resolve(number)
        return {"address": self.daemon.config.range.text(number)}

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
        daemon.ipam.leave()
        try:
            async with asyncio.timeout(HANDOVER_TIMEOUT):
                await daemon.ipam.left.wait()
        except TimeoutError as err:
            if not force:
                daemon.ipam.stay()
                raise OperatorError(
                    "nobody took our space over; --force gives it up", "handover-failed"
                ) from err
        await daemon.worker.close()
        daemon.steering.close()
        daemon.take_fastpath_away()
        await daemon.devices.remove()
        daemon.stopping.set()
        handed = daemon.ipam.allocator.leaving.has_left
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

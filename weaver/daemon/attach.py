"""Attaching pods: an address, a veth pair onto the bridge, a row that survives everything.

Keyed by (container, interface): asked twice, it answers twice the same. An attachment is recorded
before anything of it is made and forgotten after all of it is gone, so that a crash in between
leaves something the next start takes down, never a device or an address nobody knows of.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from typing import TypeVar

from ipam.effects import AllocationKey
from mesh.errors import OperatorError
from weaver.config import MIN_MTU_IPV6
from weaver.daemon.attach_request import AttachRequest, check_request, host_name
from weaver.daemon.attach_store import Attachment, AttachmentStore, Key
from weaver.daemon.exposure import EXPOSED, Exposure
from weaver.daemon.holders import Holders
from weaver.daemon.keyed_lock import KeyedLock
from weaver.daemon.network import BRIDGE, NetworkPort, Shape
from weaver.daemon.pools import Pools

__all__ = [
    "BRIDGE",
    "EXPOSED",
    "AttachRequest",
    "Attacher",
    "Attachment",
    "AttachmentStore",
    "check_request",
    "host_name",
]

log = logging.getLogger(__name__)

T = TypeVar("T")

BY_HAND = "weave:hand"
"""The network of addresses that an operator asked for; no name that a configuration may have."""


async def try_all(keys: Iterable[T], action: Callable[[T], Awaitable[None]]) -> None:
    """Give up one after another, all of them; the first failure is raised at the end."""
    failures: list[OperatorError] = []
    for key in keys:
        try:
            await action(key)
        except OperatorError as err:
            failures.append(err)
    if failures:
        raise failures[0]


class Attacher:
    def __init__(
        self,
        pools: Pools,
        network: NetworkPort,
        store: AttachmentStore,
        mtu: int,
        note: Callable[[str, Attachment], None] = lambda what, row: None,
    ) -> None:
        """``note`` is told, in a constant phrase, what became of a pod's interface."""
        self._note = note
        self.pools, self._network, self._store = pools, network, store
        self.mtu = mtu
        self._rows = store.load()
        self._leases = store.leases()
        self._locks = KeyedLock()
        self._exposure = Exposure(pools, network, store, self._plain)
        self.holders = Holders(self, store)
        self.exposure_changed: Callable[[], None] = lambda: None
        """Called when the host has, or may have, other addresses of its own."""

    def list(self) -> builtins.list[Attachment]:
        return [row for _, row in sorted(self._rows.items()) if row.ready]

    def uses(self, key: AllocationKey) -> bool:
        """Whether an interface, or the bridge, has this key's address: it is not to be freed."""
        if key == EXPOSED:
            return bool(self.exposed)
        return (key.container, key.interface) in self._rows

    def rows(self) -> builtins.list[Attachment]:
        """All of them, those that are not ready too."""
        return [*self._rows.values()]

    def row(self, key: Key) -> Attachment | None:
        return self._rows.get(key)

    def leases(self) -> set[Key]:
        """Keys of addresses that somebody else has: other plugins' interfaces, operators."""
        return set(self._leases)

    def is_busy(self, key: Key) -> bool:
        """Whether it is being attached or detached just now."""
        return key in self._locks

    def get(self, container: str, ifname: str) -> Attachment | None:
        row = self._rows.get((container, ifname))
        return row if row is not None and row.ready else None

    @property
    def exposed(self) -> tuple[str, ...]:
        """The bridge's own addresses with their prefixes, while the host is exposed."""
        return self._exposure.addresses

    @property
    def gateways(self) -> tuple[str, ...]:
        """The addresses pods reach the world through, while the host is exposed."""
        return self._exposure.gateways

    # ---- pods

    async def attach(self, request: AttachRequest) -> Attachment:
        """Give a pod its interface. Raises OperatorError; then nothing new is left of it."""
        async with self._locks.held(request.key):
            held = self.get(*request.key)
            if held is not None:
                wrong = await self._faults(held)
                if wrong is not None and (request.exclusive or held.netns != request.netns):
                    raise OperatorError(
                        f"{held.ifname} exists already in {held.netns}", "interface-exists"
                    )
                if wrong == []:
                    return held
            try:
                return await self._attach(request)
            except BaseException:
                await self._undo(request.key)
                raise

    async def _faults(self, row: Attachment) -> builtins.list[str] | None:
        """What is wrong with an attachment; None when the interface or its namespace is gone."""
        try:
            wrong = await self._network.check(row.wiring)
        except OperatorError as err:
            if err.reason.startswith("netns-"):
                return None
            raise
        return None if f"{row.ifname} is missing" in wrong else wrong

    async def _attach(self, request: AttachRequest) -> Attachment:
        intent = Attachment(
            container=request.container,
            ifname=request.ifname,
            netns=request.netns,
            host=host_name(*request.key),
            host_mac=None,
            mac=request.mac,
            addresses=request.addresses or (),
            gateways=request.gateways,
            mtu=request.mtu or self.mtu,
            own_mtu=request.mtu is not None,
            routes=request.routes,
            network=request.network,
            hairpin=request.hairpin,
            masquerade=request.masquerade,
            shape=request.shape,
        )
        self._remember(intent)
        row = intent
        if request.addresses is None:
            choices = self.pools.choose(request.asked, request.ranges)
            if intent.mtu < MIN_MTU_IPV6 and any(c.pool.range.family == 6 for c in choices):
                raise OperatorError(
                    f"an MTU of {intent.mtu}: IPv6 needs {MIN_MTU_IPV6} at least", "bad-mtu"
                )
            row = replace(
                intent, addresses=await self.pools.take(AllocationKey(*request.key), choices)
            )
        made = await self._network.attach(row.wiring)
        ready = replace(row, mac=made.mac, host_mac=made.host_mac, routes=made.routes, ready=True)
        self._remember(ready)
        if not ready.masquerade:
            await self.mend_rules()
        self._note("pod attached", ready)
        return ready

    async def detach(self, container: str, ifname: str | None = None, netns: str = "") -> int:
        """Take a pod's interface down (all of them without a name) and free its address.

        Nothing need be there; the answer says how many there were. It waits for an attaching of
        the same key that is under way. ``netns``: where the caller believes it to be; that of
        another pod under the same key, of another runtime, stays. Raises OperatorError; then it is
        to be asked again.
        """
        if ifname is not None:
            return int(await self._detach((container, ifname), netns))
        keys = [key for key in self._rows if key[0] == container]
        return sum([await self._detach(key) for key in keys])

    async def _detach(self, key: Key, netns: str = "") -> bool:
        async with self._locks.held(key):
            row = self._rows.get(key)
            if row is not None and row.ready and self._network.differ(row.netns, netns):
                log.warning(
                    "not detached", extra={"container": key[0], "reason": "another-namespace"}
                )
                return False
            await self._take_down(key)
        return row is not None

    async def _take_down(self, key: Key) -> None:
        row = self._rows.get(key)
        await self._network.delete([host_name(*key)])
        await self.pools.free(AllocationKey(*key))
        self._forget(key)
        self._drop_lease(key)
        if row is not None and not row.masquerade:
            await self.mend_rules()  # whoever has its address next is not to inherit that
        if row is not None and row.ready:
            self._note("pod detached", row)

    async def give_up(self, key: Key, still: Callable[[], Awaitable[bool]]) -> bool:
        """Take down what nobody will, if ``still`` says so while nobody else works on it; whether
        it did. Raises OperatorError."""
        async with self._locks.held(key):
            if not await still():
                return False
            await self._take_down(key)
            return True

    async def shape(self, container: str, ifname: str | None, shape: Shape) -> int:
        """Bound what a pod's interface carries (all of them without a name) from now on; how many
        there are. Raises OperatorError."""
        keys = [key for key in self._rows if key[0] == container and ifname in (None, key[1])]
        count = 0
        for key in keys:
            async with self._locks.held(key):
                row = self.get(*key)
                if row is not None:
                    changed = replace(row, shape=shape)
                    await self._network.shape(changed.wiring)
                    self._remember(changed)
                    count += 1
        return count

    async def resize(self, mtu: int) -> int:
        """The MTU of pods from now on, of those that are there as well, but for those that asked
        for theirs. The least that one of them has that could not be changed, else ``mtu``."""
        self.mtu = least = mtu
        for key in builtins.list(self._rows):
            async with self._locks.held(key):
                row = self.get(*key)
                if row is None or row.own_mtu or row.mtu == mtu:
                    continue
                if not row.netns:
                    least = min(least, row.mtu)  # a runtime has put it where we cannot see it
                    continue
                changed = replace(row, mtu=mtu)
                try:
                    await self._network.resize(changed.wiring)
                except OperatorError as err:
                    log.info(
                        "MTU of a pod not changed",
                        extra={"container": row.container, "reason": err.reason},
                    )
                    continue
                self._remember(changed)
        return least

    async def exists(self, container: str, ifname: str) -> bool:
        """Whether an attachment's interface is really there."""
        row = self.get(container, ifname)
        return row is not None and await self._faults(row) is not None

    async def check(self, container: str, ifname: str, netns: str) -> builtins.list[str]:
        """What is wrong with an attachment, in sentences."""
        row = self.get(container, ifname)
        if row is None:
            return [f"{container} has no attachment {ifname}"]
        return await self._network.check(replace(row.wiring, netns=netns))

    async def _undo(self, key: Key) -> None:
        """Leave nothing of an attachment that failed; what cannot be undone now stays recorded as
        an intent, for a detach or the next start."""
        try:
            await self._network.delete([host_name(*key)])
            await self.pools.free(AllocationKey(*key))
            self._forget(key)
        except OperatorError as err:
            log.warning("attachment not undone", extra={"container": key[0], "reason": err.reason})

    # ---- addresses for other plugins' interfaces

    async def allocate(
        self,
        container: str,
        ifname: str,
        asked: Collection[str] = (),
        network: str = "",
        *,
        ranges: Collection[str] = (),
        force: bool = False,
    ) -> tuple[str, ...]:
        """Addresses for an interface that somebody else makes, with their prefixes. ``force``:
        also what is excluded."""
        key, wanted = (container, ifname), AllocationKey(container, ifname)
        async with self._locks.held(key):
            choices = self.pools.choose([*asked], [*ranges])
            is_new, had = key not in self._leases, self.pools.holds(wanted)
            if is_new and key not in self._rows:
                self._put_lease(key, network)
            try:
                return await self.pools.take(wanted, choices, force=force)
            except BaseException:
                if not had:
                    await self.pools.free(wanted)
                if is_new:
                    self._drop_lease(key)
                raise

    async def release(self, container: str, ifname: str) -> builtins.list[str]:
        """Give them back, and say which they were; an address that one of our own interfaces has
        is not touched."""
        key = container, ifname
        async with self._locks.held(key):
            freed = []
            if key not in self._rows:
                freed = await self.pools.free(AllocationKey(*key))
            self._drop_lease(key)
            return freed

    def has_address(self, container: str, ifname: str) -> bool:
        """Whether the key has an address, attached or not."""
        return self.pools.holds(AllocationKey(container, ifname))

    async def collect(self, network: str, valid: Collection[Key], *, leases: bool) -> None:
        """Detach all of a network (or free all its leases) but the valid ones.

        Everything is tried; the first failure is raised at the end.
        """

        async def give_up(key: Key) -> None:
            await (self.release(*key) if leases else self._detach(key))

        if leases:
            keys = [key for key, of in self._leases.items() if of == network]
        else:
            keys = [key for key, row in self._rows.items() if row.network == network]
        await try_all([key for key in keys if key not in valid], give_up)

    # ---- the host's own addresses

    async def expose(self, asked: Collection[str] = ()) -> tuple[str, ...]:
        """Put an address of every range on the bridge, those ``asked`` for among them: the host
        reaches pods, pods the world."""
        async with self._locks.held(EXPOSED):
            try:
                return await self._exposure.expose(asked)
            finally:
                self.exposure_changed()

    async def hide(self) -> tuple[str, ...]:
        """Take them back; which they were."""
        async with self._locks.held(EXPOSED):
            try:
                return await self._exposure.hide()
            finally:
                self.exposure_changed()

    # ---- after a start

    async def reconcile(self) -> None:
        """Make rows and devices agree again.

        A pod's namespace takes its interface along when it dies, and with it the host's end: an
        attachment without one is over. What was never finished is taken down.
        """
        rows = tuple(self._rows.values())
        there = await self._network.adopt(self.ports(), self._hairpins())
        for row in rows:
            if row.host in there:
                continue
            log.info("attachment gone", extra={"container": row.container, "reason": "pod-gone"})
            await self._detach(row.key)
        await self._exposure.start()

    def ports(self) -> builtins.list[str]:
        """The host ends of all attachments that are whole."""
        return [row.host for row in self._rows.values() if row.ready]

    async def put_back(self) -> None:
        """Living pods, and the host's own address, onto a bridge that was made anew."""
        await self._network.adopt(self.ports(), self._hairpins())
        await self._exposure.put_back()

    async def mend_rules(self) -> None:
        """See that pods' way out is there, and right, while the host is exposed; and that they
        reach each other whatever others make of forwarding."""
        await self._exposure.mend_rules()

    def _hairpins(self) -> builtins.list[str]:
        return [row.host for row in self._rows.values() if row.hairpin]

    def _plain(self) -> builtins.list[str]:
        """Addresses of pods that the world sees as they are."""
        rows = self._rows.values()
        plain = (a for row in rows if not row.masquerade for a in row.addresses)
        return sorted(cidr.partition("/")[0] for cidr in plain)

    # ---- inside

    def _remember(self, row: Attachment) -> None:
        self._store.put(row)
        self._rows[row.key] = row

    def _put_lease(self, key: Key, network: str) -> None:
        self._store.put_lease(key, network)
        self._leases[key] = network

    def _drop_lease(self, key: Key) -> None:
        if key in self._leases:
            self._store.drop_lease(key)
            del self._leases[key]

    def _forget(self, key: Key) -> None:
        if key in self._rows:
            self._store.drop(key)
            del self._rows[key]

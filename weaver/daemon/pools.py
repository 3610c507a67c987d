"""The ranges that a host has: which of them a pod is given an address of, and all at once.

Each has an allocator, a ring and a store of its own (docs/ipam.md R24). The first of each family
is the one that pods have without asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Protocol

from ipam.address import Address, AddressRange
from ipam.by_range import check_ranges
from ipam.effects import AllocationKey
from mesh.errors import OperatorError

ADDRESS_TIMEOUT = 30.0
"""Seconds to wait for addresses. Longer than the allocator's own patience with its peers, far
shorter than a runtime's with us (kubelet: 4 minutes)."""


class IpamPort(Protocol):
    """What attaching needs of an allocator. Methods raise OperatorError."""

    async def allocate(self, key: AllocationKey) -> Address: ...
    async def claim(
        self, key: AllocationKey, address: Address, *, force: bool = False
    ) -> Address: ...
    async def free(self, key: AllocationKey) -> Address | None: ...
    def holds(self, key: AllocationKey) -> bool: ...


@dataclass(frozen=True, slots=True)
class Pool:
    """One range, and who gives its addresses."""

    range: AddressRange
    ipam: IpamPort


@dataclass(frozen=True, slots=True)
class Choice:
    """A range that a pod is to have an address of; this very one, or any."""

    pool: Pool
    address: Address | None = None


class Pools:
    """In the order that the operator gave them. At least one."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = list(pools)

    def __iter__(self) -> Iterator[Pool]:
        return iter(self._pools)

    def add(self, pool: Pool) -> None:
        """Raises OperatorError "bad-range"."""
        check_ranges([*self.ranges, pool.range])
        self._pools.append(pool)

    @property
    def ranges(self) -> list[AddressRange]:
        return [pool.range for pool in self._pools]

    def of(self, address: str) -> tuple[Pool, Address]:
        """The pool of an address, a prefix behind it allowed. Raises OperatorError: bad-address,
        address-outside-range."""
        try:
            parsed = ip_address(address.partition("/")[0])
        except ValueError as err:
            raise OperatorError(f"not an address: {address!r}", "bad-address") from err
        for pool in self._pools:
            if parsed.version == pool.range.family and int(parsed) in pool.range:
                return pool, Address(int(parsed))
        known = ", ".join(map(str, self.ranges))
        raise OperatorError(f"{address} is not in {known}", "address-outside-range")

    def named(self, text: str) -> Pool:
        """The pool of a range. Raises OperatorError: bad-range, unknown-range."""
        try:
            wanted = str(ip_network(text))
        except ValueError as err:
            raise OperatorError(f"not a range: {text!r} ({err})", "bad-range") from err
        for pool in self._pools:
            if str(pool.range) == wanted:
                return pool
        known = ", ".join(map(str, self.ranges))
        raise OperatorError(f"there is no range {text}, but {known}", "unknown-range")

    def choose(self, addresses: Sequence[str] = (), ranges: Sequence[str] = ()) -> list[Choice]:
        """What a pod is given: an address of each of ``ranges``, or of the first of each family;
        those that it asks for in the place of what it would have of their ranges' family.

        Raises OperatorError.
        """
        asked: dict[AddressRange, Choice] = {}
        for text in addresses:
            pool, address = self.of(text)
            held = asked.setdefault(pool.range, Choice(pool, address))
            if held.address != address:
                raise OperatorError(
                    f"ips: of {pool.range} a pod is given one address, not two",
                    "too-many-addresses",
                )
        if ranges:
            pools = list(dict.fromkeys(map(self.named, ranges)))
            foreign = [c for c in asked.values() if c.pool not in pools]
            if foreign:
                raise OperatorError(
                    f"{foreign[0].pool.range} is none of the ranges asked for",
                    "address-outside-range",
                )
            return [asked.get(pool.range, Choice(pool)) for pool in pools]
        families = {range.family for range in asked}
        defaults: dict[int, Pool] = {}
        for pool in self._pools:
            defaults.setdefault(pool.range.family, pool)
        chosen = [Choice(p) for family, p in defaults.items() if family not in families]
        chosen += asked.values()
        order = self.ranges
        return sorted(chosen, key=lambda c: order.index(c.pool.range))

    async def take(
        self, key: AllocationKey, choices: Sequence[Choice], *, force: bool = False
    ) -> tuple[str, ...]:
        """Those addresses for a key, with their prefixes. Raises OperatorError; the key may have
        some of them then. ``force``: also what is excluded."""
        taken = []
        try:
            async with asyncio.timeout(ADDRESS_TIMEOUT):
                for pool, wanted in ((choice.pool, choice.address) for choice in choices):
                    if wanted is None:
                        address = await pool.ipam.allocate(key)
                    else:
                        address = await pool.ipam.claim(key, wanted, force=force)
                    taken.append(pool.range.cidr(address))
        except TimeoutError as err:
            raise OperatorError("no address was to be had in time", "ipam-timeout") from err
        return tuple(taken)

    async def free(self, key: AllocationKey) -> list[str]:
        """The addresses that a key had, of all ranges. Raises OperatorError."""
        freed = []
        for pool in self._pools:
            address = await pool.ipam.free(key)
            if address is not None:
                freed.append(pool.range.text(address))
        return freed

    def holds(self, key: AllocationKey) -> bool:
        return any(pool.ipam.holds(key) for pool in self._pools)

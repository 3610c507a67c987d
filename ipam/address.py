"""Addresses and ranges of them, IPv4 and IPv6 by the same numbers."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NewType, Self

from mesh.errors import OperatorError

Address = NewType("Address", int)
"""An IP address as a number; its family is its range's."""

FAIRNESS = 16
"""The first slices are equal to one part in so many."""


_UNFIT = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3"),
        *("::/127", "fe80::/10", "ff00::/8"),
    )
)
"""What the kernel keeps for itself, one link, or many: no pod could use an address of these."""


@dataclass(frozen=True, slots=True)
class AddressRange:
    """``[start, end)`` of one family (4 or 6), with the prefix length pods are given."""

    start: Address
    end: Address
    family: int
    prefix: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a CIDR range such as 10.32.0.0/12. Raises OperatorError "bad-range"."""
        try:
            network = ip_network(text)
        except ValueError as err:
            raise OperatorError(f"not a range of addresses: {text!r} ({err})", "bad-range") from err
        if network.num_addresses < 4:
            raise OperatorError(f"a range needs at least 4 addresses: {text}", "bad-range")
        for unfit in _UNFIT:
            if network.version == unfit.version and network.overlaps(unfit):
                raise OperatorError(
                    f"{text} holds addresses that no pod can have: {unfit}", "bad-range"
                )
        start = int(network.network_address)
        end = start + network.num_addresses
        return cls(Address(start), Address(end), network.version, network.prefixlen)

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end

    def __str__(self) -> str:
        return f"{self.text(self.start)}/{self.prefix}"

    @property
    def size(self) -> int:
        return self.end - self.start

    def head(self) -> bytes:
        """The range as messages name it: family, prefix, first address."""
        return bytes((self.family, self.prefix)) + self.start.to_bytes(16, "big")

    def text(self, address: int) -> str:
        """An address as people write it."""
        return str(IPv4Address(address) if self.family == 4 else IPv6Address(address))

    def cidr(self, address: int) -> str:
        """An address with the range's prefix, as an interface is given it."""
        return f"{self.text(address)}/{self.prefix}"

    def number(self, text: str) -> Address:
        """Read an address of this range, a prefix behind it allowed. Raises OperatorError."""
        try:
            parsed = ip_address(text.partition("/")[0])
        except ValueError as err:
            raise OperatorError(f"not an address: {text!r}", "bad-address") from err
        if parsed.version != self.family or int(parsed) not in self:
            raise OperatorError(f"{text} is not in {self}", "address-outside-range")
        return Address(int(parsed))

    def is_usable(self, address: int) -> bool:
        """Whether a pod may have it: not the network's own address, not IPv4's broadcast."""
        return address in self and address != self.start and address != self.end - 1

    def split(self, parts: int) -> list[Address]:
        """Where ``parts`` near-equal slices begin; the first at the start of the range.

        Each begins at a multiple of a power of two, as far as that costs nobody more than a
        sixteenth of its share: a slice is then a few prefixes, for people and for filters.
        """
        unit = 1 << max(0, (self.size // (parts * FAIRNESS)).bit_length() - 1)
        units = self.size // unit
        return [Address(self.start + unit * (units * n // parts)) for n in range(parts)]

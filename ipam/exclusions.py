"""Addresses that the allocator never gives out of its own accord (docs/ipam.md R22). Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from ipam.address import Address, AddressRange
from mesh.errors import OperatorError

MAX_EXCLUSIONS = 256
"""Of one host: people write them down, and every look for a free address passes them."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """``[start, end)`` of one family."""

    family: int
    start: Address
    end: Address

    def __str__(self) -> str:
        first, last = (
            IPv4Address(at) if self.family == 4 else IPv6Address(at)
            for at in (self.start, self.end - 1)
        )
        return str(first) if first == last else f"{first}-{last}"

    @classmethod
    def parse(cls, text: str) -> Exclusion:
        """``10.32.0.5``, ``10.32.1.0/24`` or ``10.32.0.5-10.32.0.9``. Raises OperatorError
        "bad-exclusion"."""
        first, dash, last = text.partition("-")
        try:
            if dash:
                low, high = ip_address(first.strip()), ip_address(last.strip())
                if low.version != high.version or int(low) > int(high):
                    raise ValueError(f"{first} is not before {last}")
                return cls(low.version, Address(int(low)), Address(int(high) + 1))
            block = ip_network(text.strip())
        except ValueError as err:
            raise OperatorError(
                f"not an address, a block or FIRST-LAST: {text!r} ({err})", "bad-exclusion"
            ) from err
        start = int(block.network_address)
        return cls(block.version, Address(start), Address(start + block.num_addresses))


def parse_exclusions(text: str) -> tuple[Exclusion, ...]:
    """A list of them with commas between. Raises OperatorError "bad-exclusion"."""
    parts = [part for part in (part.strip() for part in text.split(",")) if part]
    if len(parts) > MAX_EXCLUSIONS:
        raise OperatorError(f"at most {MAX_EXCLUSIONS} exclusions", "bad-exclusion")
    return tuple(Exclusion.parse(part) for part in parts)


class Excluded:
    """What is excluded of one range, overlaps joined; looked up by address."""

    def __init__(self, range: AddressRange, exclusions: Iterable[Exclusion] = ()) -> None:
        self._range = range
        self.parts: list[tuple[Address, Address]] = []
        for one in sorted(exclusions, key=lambda e: e.start):
            if one.family != range.family or one.end <= range.start or range.end <= one.start:
                continue
            start, end = max(one.start, range.start), min(one.end, range.end)
            if self.parts and start <= self.parts[-1][1]:
                start, end = self.parts[-1][0], max(end, self.parts[-1][1])
                self.parts.pop()
            self.parts.append((start, end))

    def end_of(self, address: int) -> Address | None:
        """The end of the part that holds it; None where it is not excluded."""
        place = bisect_right(self.parts, address, key=lambda part: part[0]) - 1
        if place < 0 or address >= self.parts[place][1]:
            return None
        return self.parts[place][1]

    def texts(self) -> list[str]:
        """As people write them."""
        text = self._range.text
        return [
            text(start) if end - start == 1 else f"{text(start)}-{text(end - 1)}"
            for start, end in self.parts
        ]

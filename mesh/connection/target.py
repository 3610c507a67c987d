"""Where a peer may be reached, as the operator writes it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self

from mesh.errors import OperatorError
from mesh.names import Endpoint

DEFAULT_PORT = 6783


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Where a peer may be reached: an IP address or a DNS name, and a port."""

    host: str
    port: int = DEFAULT_PORT

    @classmethod
    def parse(cls, text: str, default_port: int = DEFAULT_PORT) -> Self:
        """Read ``host``, ``host:port``, ``v6`` or ``[v6]:port``. Raises OperatorError."""
        host, port = text, None
        if text.startswith("["):
            host, bracket, rest = text[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise OperatorError(f"not an address: {text!r}", "bad-address")
            port = rest[1:] if rest else None
        elif text.count(":") == 1:
            host, _, port = text.partition(":")
        try:
            number = default_port if port is None else int(port)
        except ValueError:
            number = 0
        allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:%")
        labels = [] if ":" in host else host.removesuffix(".").split(".")
        fits = 0 < len(host) <= 253 and all(0 < len(label) <= 63 for label in labels)
        if not fits or not set(host) <= allowed or not 0 < number < 65536:
            raise OperatorError(f"not an address: {text!r}", "bad-address")
        # No name ends in a number, and resolvers take 10.1 for 10.0.0.1: a slip, not a wish.
        if ":" in host or labels[-1].isdigit():
            try:
                address = ip_address(host)
            except ValueError as err:
                raise OperatorError(f"not an address: {text!r}", "bad-address") from err
            if address.is_multicast or address.is_unspecified:
                raise OperatorError(f"{text} is no host's address", "bad-address")
            if address.is_link_local and address.version == 6:
                # Others are told where we reached a peer, and theirs is another link.
                raise OperatorError(f"{text} means something on one link only", "bad-address")
            host = str(address)
        return cls(host, number)

    def __str__(self) -> str:
        return str(Endpoint(self.host, self.port))

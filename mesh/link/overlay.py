"""What carries frames to a peer, and what keeps the kernel from doing it (docs/protocol.md 14.1).

Each of two neighbours judges for itself; frames go by the kernel when neither finds an obstacle.
What one end thinks of the other's address is said in the handshake, sealed and part of its
transcript, so that an end which does not trust is never sent a frame in clear by one that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

Network = IPv4Network | IPv6Network


class Overlay(StrEnum):
    FASTDP = "fastdp"
    SLEEVE = "sleeve"


class Obstacle(StrEnum):
    """Why a pair's frames cannot go by the kernel, whatever the path's health."""

    OFF = "fastdp-off"
    PEER_WITHOUT = "peer-without-fastdp"
    ENCRYPTED = "encrypted"
    NOT_TRUSTED = "subnet-not-trusted"
    NOT_TRUSTED_THERE = "subnet-not-trusted-by-peer"
    PORT = "vxlan-port-differs"


@dataclass(frozen=True, slots=True)
class End:
    """What one end brings. ``has_kernel``: its programs work. ``trusts``: the subnet that it sees
    the other end's address in."""

    has_kernel: bool
    trusts: bool
    port: int


def obstacle(ours: End, theirs: End, *, encrypted: bool) -> Obstacle | None:
    """Why not, from our end; None when frames of this pair may go by the kernel.

    ``encrypted``: there is a password, so that only ways that both trust take frames in clear.
    """
    if encrypted and not (ours.trusts and theirs.trusts):
        if ours.trusts == theirs.trusts:
            return Obstacle.ENCRYPTED
        return Obstacle.NOT_TRUSTED if theirs.trusts else Obstacle.NOT_TRUSTED_THERE
    if not ours.has_kernel:
        return Obstacle.OFF
    if not theirs.has_kernel:
        return Obstacle.PEER_WITHOUT
    return Obstacle.PORT if ours.port != theirs.port else None


@lru_cache(1 << 10)
def is_within(host: str, networks: tuple[Network, ...]) -> bool:
    """Whether an address, IPv4 or IPv6 as text, lies in one of these."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in networks)

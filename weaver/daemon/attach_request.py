"""What is asked for a pod: checked before anything is touched."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256

from mesh.errors import OperatorError
from weaver.config import MAX_MTU, MIN_MTU
from weaver.daemon.attach_store import Key
from weaver.daemon.network import UNBOUND, Route, Shape


@dataclass(frozen=True, slots=True)
class AttachRequest:
    """``netns`` empty: the pod's end stays here, for a runtime that takes it; it names a ``mac``.

    ``addresses`` given (CIDR) come from another allocator; otherwise ours gives one of each of
    ``ranges``, or of the first range of each family, those that are ``asked`` for among them.

    ``exclusive``: refuse what is attached already instead of answering the same again.
    """

    container: str
    ifname: str
    netns: str
    asked: tuple[str, ...] = ()
    ranges: tuple[str, ...] = ()
    mac: str | None = None
    mtu: int | None = None
    addresses: tuple[str, ...] | None = None
    gateways: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    exclusive: bool = False
    network: str = ""
    hairpin: bool = False
    masquerade: bool = True
    shape: Shape = UNBOUND

    @property
    def key(self) -> Key:
        return self.container, self.ifname


_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_IFNAME = re.compile(r"[^/:\s]{1,15}")


def check_request(request: AttachRequest) -> None:
    """What the kernel would refuse with a number only. Raises OperatorError "bad-request"."""
    ifname, mac, mtu = request.ifname, request.mac, request.mtu
    if not _IFNAME.fullmatch(ifname) or ifname in (".", "..") or len(ifname.encode()) > 15:
        raise OperatorError(f"{ifname!r} cannot name an interface", "bad-request")
    if mac is not None and (not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1):
        raise OperatorError(f"{mac!r} is not one interface's MAC address", "bad-request")
    if mtu is not None and not MIN_MTU <= mtu <= MAX_MTU:
        raise OperatorError(f"an MTU is {MIN_MTU} to {MAX_MTU}, not {mtu}", "bad-request")


def host_name(container: str, ifname: str) -> str:
    """The host end's name: 15 octets at most, the same every time for one attachment."""
    return "vw" + sha256(f"{container}\0{ifname}".encode()).hexdigest()[:13]

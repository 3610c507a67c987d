"""``"mode": "host"``: addresses of the mesh for the host itself, asked for as a pod's are.

They are put on the bridge, one of each range, as ``weaver expose`` does. The "container" is a name
like another, so that several may ask; the addresses go with the last of them.
"""

from __future__ import annotations

import os
import socket

from weaver.cni import result
from weaver.cni.config import Call, Json
from weaver.cni.errors import CniError, Code
from weaver.daemon.attach import Attacher
from weaver.daemon.network import BRIDGE


async def add(attacher: Attacher, call: Call) -> Json:
    _demand_own_namespace(call.netns)
    addresses = await attacher.holders.add((call.container, call.ifname), call.name, call.asked)
    return result.exposed(call.version, BRIDGE, addresses, call.previous)


def check(attacher: Attacher, call: Call, previous: Json) -> None:
    """Raises CniError "check-failed"."""
    wrong = []
    if (call.container, call.ifname) not in attacher.holders:
        wrong.append(f"{call.container} has not asked for the host's address")
    said = {ip.get("address") for ip in previous.get("ips") or ()}
    if not attacher.exposed:
        wrong.append("the host has no address")
    elif not said & set(attacher.exposed):  # a range may have been added since
        wrong.append(f"prevResult lacks {' '.join(attacher.exposed)}")
    wrong += [
        f"address {cidr} of {BRIDGE} is missing"
        for cidr in attacher.exposed
        if not _is_here(cidr.partition("/")[0])
    ]
    if wrong:
        raise CniError(Code.CHECK_FAILED, "; ".join(wrong), "check-failed")


def _demand_own_namespace(netns: str) -> None:
    try:
        own = os.path.samestat(os.stat(netns), os.stat("/proc/self/ns/net"))
    except (OSError, ValueError) as err:
        raise CniError(Code.BAD_NETNS, f"cannot open {netns}: {err}", "netns-missing") from err
    if not own:
        message = f"mode host is for the host's own network namespace, not {netns}"
        raise CniError(Code.BAD_NETNS, message, "netns-not-own")


def _is_here(address: str) -> bool:
    """Whether an interface of the host has it: only such an address can be bound."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((address, 0))
        except OSError:
            return False
    return True

"""``"mode": "host"``: an address of the mesh for the host itself, asked for as a pod's is.

It is put on the bridge, as ``weaver expose`` does. Its "container" is a name like another, so that
several may ask; the address goes with the last of them.
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
    cidr = await attacher.holders.add((call.container, call.ifname), call.name, call.address)
    return result.exposed(call.version, BRIDGE, cidr, call.previous)


def check(attacher: Attacher, call: Call, previous: Json) -> None:
    """Raises CniError "check-failed"."""
    wrong = []
    if (call.container, call.ifname) not in attacher.holders:
        wrong.append(f"{call.container} has not asked for the host's address")
    cidr = attacher.exposed
    if cidr is None:
        wrong.append("the host has no address")
    else:
        if cidr not in [ip.get("address") for ip in previous.get("ips") or ()]:
            wrong.append(f"prevResult lacks {cidr}")
        if not _is_here(cidr.partition("/")[0]):
            wrong.append(f"address {cidr} of {BRIDGE} is missing")
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

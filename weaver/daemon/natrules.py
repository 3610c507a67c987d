"""What the helper does to netfilter: our table of nftables, made, looked after and removed."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from collections.abc import Sequence

from weaver.daemon import firewalld, nat
from weaver.daemon.forwarding import Forwarding, family_of

NFT_TIMEOUT = 10.0
"""Seconds for one nft transaction; it takes some 10 ms."""

NETLINK_NETFILTER = 12
NFT_GETGEN = 10 << 8 | 16
"""The subsystem of nftables, and its message that asks which generation the ruleset is of."""

NLM_F_REQUEST = 1
NFTA_GEN_ID = 1


class NatRules:
    """Remembers when they were last seen whole: as long as the kernel's ruleset is of the same
    generation, which any change by anybody ends, nothing is read."""

    def __init__(self) -> None:
        self._seen: tuple[object, ...] | None = None

    def make(self, ranges: Sequence[str], bridge: str, plain: Sequence[str]) -> str | None:
        """Why pods have no way out, or None."""
        failed = [run(nat.masquerade(ranges, bridge, plain)), *map(forward, ranges)]
        return next((why for why in failed if why is not None), None)

    def mend(
        self, ranges: Sequence[str], bridge: str, plain: Sequence[str], *, exposed: bool
    ) -> str | None:
        """Make anew what somebody took away, and let pods through where somebody drops what is
        forwarded; what was wrong, or None. (Of iptables' old kind, which is no part of that
        ruleset, a change is noticed with the next of the ruleset.)"""
        about = (*ranges, bridge, *plain, exposed)
        now = generation()
        if now and self._seen == (now, *about):
            return None
        found = []
        if exposed and not nat.is_whole(listed(), ranges, plain):
            failed = self.make(ranges, bridge, plain)
            found.append(
                f"the way out was gone{f', and cannot be made: {failed}' if failed else ''}"
            )
        families = sorted({family_of(range) for range in ranges})
        dropped = [Forwarding(family).mend(bridge, exposed=exposed) for family in families]
        found += [why for why in dropped if why is not None]
        # Of both families, whatever the ranges: it knows devices.
        rejected = firewalld.mend(bridge, exposed=exposed)
        if rejected is not None:
            found.append(rejected)
        # What changed while we looked has another generation; what we made is looked at once more.
        self._seen = None if found else (now, *about)
        return ", ".join(found) or None


def run(ruleset: nat.Ruleset) -> str | None:
    """Run one transaction of nftables; what went wrong."""
    try:
        done = subprocess.run(
            ["nft", "-j", "-f", "-"],  # noqa: S607  # where Debian and others put it differs
            input=json.dumps(ruleset),
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        return f"cannot run nft: {err}"
    return None if done.returncode == 0 else done.stderr.strip() or "nft failed"


def listed() -> object:
    """Our table as nft shows it; nothing where it is not there."""
    try:
        done = subprocess.run(  # noqa: S603  # of constants
            ["nft", "-j", "list", "table", nat.FAMILY, nat.TABLE],  # noqa: S607  # as above
            capture_output=True,
            timeout=NFT_TIMEOUT,
            check=False,
        )
        return json.loads(done.stdout or b"{}")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}


def remove_nat() -> str | None:
    """Take our table away; what went wrong, if anything did."""
    return run(nat.remove())


def remove_all() -> None:
    """That, and what lets pods through others' rules."""
    remove_nat()
    firewalld.remove()
    for family in (4, 6):
        Forwarding(family).remove()


def forward(range: str) -> str | None:
    """Let the kernel forward between the bridge and the host's other devices."""
    family = "ipv6/conf/all/forwarding" if ":" in range else "ipv4/ip_forward"
    try:
        with open(f"/proc/sys/net/{family}", "r+") as file:
            if file.read().strip() == "0":
                file.seek(0)
                file.write("1")
    except OSError as err:
        return f"cannot enable forwarding: {err.strerror}"
    return None


def generation() -> int:
    """The number of the kernel's ruleset, which every transaction adds one to; 0 if unknown."""
    message = struct.pack("=IHHII", 20, NFT_GETGEN, NLM_F_REQUEST, 1, 0) + bytes(4)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
            sock.settimeout(1)
            sock.sendto(message, (0, 0))
            answer = sock.recv(4096)
    except OSError:
        return 0
    at = 20  # behind the header and nfgenmsg
    while at + 8 <= len(answer):
        size, kind = struct.unpack_from("=HH", answer, at)
        if kind == NFTA_GEN_ID:
            (found,) = struct.unpack_from("!I", answer, at + 4)
            return int(found)
        at += max(4, size + 3 & ~3)
    return 0

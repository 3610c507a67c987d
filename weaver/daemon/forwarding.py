"""Letting pods' frames through where another program drops whatever is forwarded.

Docker, kube-proxy's helpers and many a firewall set the policy of iptables' FORWARD chain to DROP.
Where br_netfilter is loaded, which the same programs do, that holds for frames between ports of a
bridge, too: pods of one host, and of two, would not hear each other. A table of our own cannot
change that: what one table accepts, another may still drop. So there is a chain of ours in theirs.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

CHAIN = "WEAVER-FORWARD"
JUMP = ("FORWARD", "-j", CHAIN)
TIMEOUT = 10.0
"""Seconds for one call; it takes some 5 ms."""

WAIT = ("-w", "5")
"""Seconds to wait for others who change rules at the same time."""


def rules(bridge: str, *, exposed: bool) -> list[str]:
    """Among pods everything, from outside what answers them or was published; a way out for pods
    while the host is exposed."""
    return [
        f"-A {CHAIN} -i {bridge} -o {bridge} -j ACCEPT",
        f"-A {CHAIN} -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        *([f"-A {CHAIN} -i {bridge} -j ACCEPT"] if exposed else []),
    ]


class Forwarding:
    """Of one family of addresses. Without its program nobody can have set that policy with it."""

    def __init__(self, family: int = 4) -> None:
        self._iptables = "iptables" if family == 4 else "ip6tables"

    def mend(self, bridge: str, *, exposed: bool) -> str | None:
        """Let pods through if they would be dropped; what was wrong, or None."""
        shown = self._run("-S", "FORWARD")
        if shown is None or "-P FORWARD DROP" not in shown:
            return None
        wanted = rules(bridge, exposed=exposed)
        have = [line for line in (self._run("-S", CHAIN) or "").splitlines() if line[:2] == "-A"]
        first = next((line for line in shown.splitlines() if line[:2] == "-A"), "")
        if have == wanted and first == f"-A FORWARD -j {CHAIN}":
            return None
        self._run("-D", *JUMP)
        text = "\n".join(("*filter", f":{CHAIN} - [0:0]", *wanted, f"-I FORWARD 1 -j {CHAIN}"))
        done = self._run("--noflush", program="-restore", stdin=f"{text}\nCOMMIT\n")
        return "forwarding is dropped" if done is not None else "forwarding is dropped, for good"

    def remove(self) -> None:
        if self._run("-S", CHAIN) is None:
            return
        self._run("-D", *JUMP)
        self._run("-F", CHAIN)
        self._run("-X", CHAIN)

    def _run(self, *args: str, program: str = "", stdin: str = "") -> str | None:
        """What it printed; None if it failed or is not there."""
        command: Sequence[str] = (self._iptables + program, *WAIT, *args)
        try:
            done = subprocess.run(  # noqa: S603  # of constants and the bridge's name
                command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None


def family_of(range: str) -> int:
    return 6 if ":" in range else 4

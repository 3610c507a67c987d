"""How large packets of pods may be: what the underlay carries, less what is put around them.

Around a packet in the kernel go its Ethernet header, VXLAN, UDP and IP; in the sleeve a header, a
length, an offload header and a seal, so that one packet is one datagram where that counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.clock import Instant

KERNEL_V4, KERNEL_V6 = 50, 70
SLEEVE_V4, SLEEVE_V6 = 100, 120
"""As above, and what makes a round number of an Ethernet's 1,500: 1,400 over IPv4."""

LEAST, MOST = 1280, 8950
"""Below the first there is no IPv6; paths are searched up to an MTU of 9,000."""

DEFAULT_UNDERLAY = 1500

GROWS_AFTER = 30.0
"""Seconds that more must be possible before it is made use of."""


def pod_mtu(underlay: Iterable[tuple[str, int]], *, sealed: bool) -> int:
    """For pods of a host that reaches each of these addresses by a device of that MTU.

    ``sealed``: frames may go by the sleeve for good, not only while the kernel's path is broken.
    """
    v4, v6 = (SLEEVE_V4, SLEEVE_V6) if sealed else (KERNEL_V4, KERNEL_V6)
    wanted = [mtu - (v6 if ":" in host else v4) for host, mtu in underlay]
    return max(LEAST, min(MOST, min(wanted, default=DEFAULT_UNDERLAY - v4)))


class Sizes:
    """The MTU in use. Less is heeded at once; more must have been there for a while, for pods do
    not notice it, and what comes and goes would be changed for nothing."""

    def __init__(self, mtu: int) -> None:
        self.mtu = mtu
        self._more: tuple[int, Instant] | None = None
        """The least of what was more, and since when it is."""

    def found(self, mtu: int, now: Instant) -> bool:
        """What could be now; whether the MTU in use is another for it."""
        if mtu > self.mtu:
            least, since = self._more or (mtu, now)
            self._more = (min(least, mtu), since)
            if now - since < GROWS_AFTER:
                return False
            mtu = self._more[0]
        self._more = None
        before, self.mtu = self.mtu, mtu
        return mtu != before

"""Bad weather on a cable: loss and delay for each datagram, by a program between two namespaces.

The cable is two veth pairs whose middle ends are in a namespace of their own, where ``weather.c``
carries frames across. The outer ends segment everything and finish every checksum, so that what
is lost or late is always one datagram and never a super-packet of many. Frames that are lost are
drawn from a seed: the same frames in the same order meet the same fate.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.native import Running
from bench.nodes import ip, run_in

_LOSS, _DELAY, _SEED, _COUNTS, _EACH, _WORDS = 1, 2, 3, 8, 8, 32
MOST_DELAY = 10.0
SEGMENTED = ("tso", "off", "gso", "off", "tx", "off", "rx", "off")


@dataclass(frozen=True)
class Counts:
    """Frames of one direction since the weather began."""

    passed: int
    lost: int
    """By the dice."""

    overflow: int
    """Because the weather itself could not keep up."""

    oversize: int
    """Longer than the cable's MTU allows."""

    refused: int
    """Not taken by the device they should have left by."""

    waiting: int
    """Under way now."""


class Weather:
    """``loss`` is a share (0.01: one in a hundred), ``delay`` seconds, each way and both alike.

    ``coalesce``: the outer ends put datagrams of one flow together again (GRO), as a network card
    would.
    """

    def __init__(
        self, *, loss: float = 0.0, delay: float = 0.0, seed: int = 1, coalesce: bool = False
    ) -> None:
        self._loss, self._delay, self._seed, self._coalesce = loss, delay, seed, coalesce
        self._namespace = ""
        self._running: Running | None = None
        _check(loss, delay)

    def lay(self, a: str, b: str, device: str, mtu: int) -> None:
        """Lay the cable: a device of this name in both namespaces, and the weather between."""
        self._namespace = f"{a}{device}"
        ip("netns", "add", self._namespace)
        run_in(self._namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1",
               "net.ipv6.conf.default.disable_ipv6=1")  # fmt: skip
        for end, outer in (("near", a), ("far", b)):
            ip("link", "add", device, "mtu", str(mtu), "netns", outer, "type", "veth",
               "peer", "name", end, "mtu", str(mtu), "netns", self._namespace)  # fmt: skip
            ip("-n", self._namespace, "link", "set", end, "up")
            for where, dev, gro in ((self._namespace, end, False), (outer, device, self._coalesce)):
                run_in(where, "ethtool", "-K", dev, *SEGMENTED, "gro", "on" if gro else "off")
        running = Running("weather", self._namespace, _WORDS, "near", "far")
        running.board[_SEED] = self._seed
        self._running = running
        self.set(loss=self._loss, delay=self._delay)
        running.__enter__()

    def set(self, *, loss: float | None = None, delay: float | None = None) -> None:
        """Change the weather from the next frame on; frames keep their order."""
        self._loss = self._loss if loss is None else loss
        self._delay = self._delay if delay is None else delay
        _check(self._loss, self._delay)
        assert self._running is not None, "the cable is not laid"
        self._running.board[_LOSS] = round(self._loss * (1 << 32))
        self._running.board[_DELAY] = round(self._delay * 1e9)

    def counts(self) -> tuple[Counts, Counts]:
        """Of frames from the first namespace to the second, and back."""
        assert self._running is not None, "the cable is not laid"
        board = self._running.board
        there, back = (Counts(*board.slice(_COUNTS + n * _EACH, 6)) for n in range(2))
        return there, back

    @property
    def pid(self) -> int:
        assert self._running is not None, "the cable is not laid"
        return self._running.pid

    def remove(self) -> None:
        """Take program and namespace away, and the devices with it."""
        running, self._running = self._running, None
        if running is not None:
            running.__exit__()
        if self._namespace:
            ip("netns", "del", self._namespace, check=False)
            self._namespace = ""


def _check(loss: float, delay: float) -> None:
    if not 0.0 <= loss <= 1.0:
        raise ValueError(f"a loss of {loss} is no share")
    if not 0.0 <= delay <= MOST_DELAY:
        raise ValueError(f"a delay of {delay} s")

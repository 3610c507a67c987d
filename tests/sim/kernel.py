"""The kernel's fast path of simulated hosts: its twin, over the simulated underlay.

What the kernel does outlives its daemon, as it does in production: a killed host's twin goes on
forwarding by what it was told.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from mesh.link.datapath import CONTROL_TYPE, SLEEVE, Reason, correct
from mesh.names import ShortID
from mesh.router.effects import ConfigureKernel, Deliver, ForgetLearned, SendControl, Steer
from mesh.router.from_datapath import (
    ControlReceived,
    DatapathLost,
    DatapathStarted,
    FromDatapath,
    ReportReceived,
)
from tests.sim.network import SimNetwork
from tests.unit.datapath_twin import DatapathTwin, Outer, Underlay, restarted

VXLAN_PORT = 6785
"""The simulated workers have 6784."""

_HEAD = Struct("!HHB31x")
"""36 octets, so that a datagram is as long as its IP packet: 20 IP, 8 UDP, 8 VXLAN."""


class SimUnderlay(Underlay):
    """Packets take as long, and are lost, as all other datagrams between two hosts."""

    def __init__(self, network: SimNetwork) -> None:
        super().__init__()
        self._network = network

    def send(self, packet: Outer) -> None:
        data = _HEAD.pack(packet.source, packet.target, packet.hops) + packet.frame
        src, dst = f"{packet.sender}/{VXLAN_PORT}", f"{packet.receiver}/{VXLAN_PORT}"
        self._network.send(src, dst, data)


class SimKernel:
    """One host's; ``to_sleeve(frame)`` is its sleeve's device."""

    def __init__(
        self, address: str, network: SimNetwork, to_sleeve: Callable[[bytes], None]
    ) -> None:
        self.address, self._network, self._to_sleeve = address, network, to_sleeve
        self._underlay = SimUnderlay(network)
        self.twin = DatapathTwin(self._underlay, address)
        self.heard: Callable[[FromDatapath], None] | None = None
        """The daemon, while there is one."""
        self.works = True
        self.bridge: list[bytes] = []
        """Frames that pods were given."""
        self.twin.bridge = self.bridge
        self.writes = 0
        self.attach()

    def attach(self) -> None:
        self._network.attach(f"{self.address}/{VXLAN_PORT}", self._arrived)

    # ---- life

    def opened(self, heard: Callable[[FromDatapath], None]) -> None:
        """A daemon starts, on whatever an earlier one left."""
        if self.twin.kernel.is_started:
            self.twin = restarted(self.twin, self._underlay)
            self.twin.bridge = self.bridge
        self.heard = heard
        if not self.works:
            heard(DatapathLost("programs-refused"))
            return
        self.twin.set_sleeve("weave-sleeve")
        heard(DatapathStarted(self.twin.tables()))

    def left(self) -> None:
        """The daemon was killed; its sleeve went with it."""
        self.heard = None
        self.twin.close()
        self.attach()

    def break_down(self) -> None:
        """The device is deleted, and all that was in it; the sleeve is the bridge's way now."""
        self.works = False
        self.twin = DatapathTwin(self._underlay, self.address)
        self.twin.bridge = self.bridge

    def mend(self) -> None:
        """It can be made again, and is."""
        self.works = True
        if self.heard is not None:
            self.opened(self.heard)

    # ---- the daemon's

    def perform(
        self, effect: ConfigureKernel | Steer | ForgetLearned | SendControl | Deliver
    ) -> None:
        if not self.works:
            return
        match effect:
            case ConfigureKernel(config):
                self.twin.configure(config)
                self.twin.start()
            case Steer(have, wanted):
                assert self.twin.tables() == have, "the router believes what is not so"
                self.writes += correct(self.twin, wanted, have)
                assert self.twin.tables() == wanted
            case ForgetLearned(short_id):
                self.twin.forget(short_id)
            case SendControl(short_id, payload):
                self.twin.send_control(short_id, payload)
            case Deliver(frame):
                self.twin.deliver(SLEEVE, frame)

    # ---- frames

    def from_pod(self, frame: bytes) -> None:
        if not self.works:
            self._to_sleeve(frame)
            return
        self.twin.from_pod(frame)
        self._after()

    def from_sleeve(self, frame: bytes) -> None:
        if not self.works:
            self.bridge.append(frame)
            return
        self.twin.from_sleeve(frame)
        self._after()

    def _arrived(self, src: str, data: bytes) -> None:
        if not self.works:
            return
        source, target, hops = _HEAD.unpack_from(data)
        frame = data[_HEAD.size :]
        sender = src.partition("/")[0]
        packet = Outer(sender, self.address, ShortID(source), ShortID(target), hops, frame)
        self.twin.from_underlay(packet)
        self._after()

    def _after(self) -> None:
        frames, self.twin.sleeve = self.twin.sleeve, []
        for frame in frames:
            self._to_sleeve(frame)
        for upcall in self.twin.receive():
            # A relay that sees sooner than the origin that the kernel does not lead there any more.
            asked = (Reason.CONTROL, Reason.TRANSIT, Reason.REPORT)
            assert upcall.reason in asked, f"{upcall.reason} unasked"
            if self.heard is not None and upcall.reason is Reason.CONTROL:
                self.heard(ControlReceived(upcall.source, upcall.frame))
            elif self.heard is not None and upcall.reason is Reason.REPORT:
                self.heard(ReportReceived(upcall.frame))


def is_control(frame: bytes) -> bool:
    return frame[12:14] == CONTROL_TYPE.to_bytes(2, "big")

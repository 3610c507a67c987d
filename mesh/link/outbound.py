"""From a pod's frame to the peers that get it: the forwarding decision.

Who drives it: the worker's uplink, a frame at a time, straight from its buffer; so this returns a
peer and calls ``send`` and ``write``, and makes no effect objects.

What a frame meets, in this order::

    source is a group address, or nobody's ---------> dropped (bad-source)
    destination on our own bridge ------------------> dropped (local-destination)
    destination is a group address -----------------> one record to each child in our tree
    packet larger than its receivers' MTU ----------> ICMP to the pod, or IPv4 fragments
    destination behind no peer we know -------------> one record to every peer, so many a second
    destination behind a peer ----------------------> that peer, by the caller's record
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.clock import Instant
from mesh.link import icmp
from mesh.link.allowance import Allowance
from mesh.link.broadcast import Broadcasts
from mesh.link.drops import Drop
from mesh.link.frames import ETHERNET, packet_size, with_checksum
from mesh.link.macs import LOCAL
from mesh.link.peers import Peer, Peers
from mesh.link.records import LEAST_FRAME, broadcast_record, unicast_record
from mesh.wire.sleeve import HOP_LIMIT, VNET_SIZE

ERRORS_PER_SECOND = 100
"""ICMP errors written to pods: a stream of too big packets must not become two."""

FLOODS_PER_SECOND = 1_000
"""Frames to unknown addresses that are copied to every peer. ARP makes an address known before
anything is sent to it; more than this is a scan, and a scan times the peers is a storm."""

MAX_PAIRS = 4_096
"""Pairs of addresses whose peer is remembered."""

_NOBODY = bytes(6)


class Outbound:
    """``send(peer, record)`` sends one record, ``write(frame)`` writes to the TAP; ``spread`` hands
    a group-addressed frame to the worker that sends those, where that is another one."""

    def __init__(
        self,
        peers: Peers,
        broadcasts: Broadcasts,
        send: Callable[[Peer, memoryview], None],
        write: Callable[[bytes], None],
        *,
        spread: Callable[[bytes], None] | None = None,
    ) -> None:
        self._peers, self._broadcasts = peers, broadcasts
        self._send, self._write = send, write
        self._hand_over = spread
        self._pairs: dict[bytes, Peer] = {}
        self._pairs_of = (-1, -1)
        self._errors = Allowance(ERRORS_PER_SECOND)
        self._floods = Allowance(FLOODS_PER_SECOND)

    def refill(self) -> None:
        """Call it once a second."""
        self._pairs.clear()  # so that the sources of what goes on are seen to be alive
        self._errors.refill()
        self._floods.refill()

    def destination(self, buffer: bytearray, at: int, size: int, now: Instant) -> Peer | None:
        """The one peer that the frame at ``at`` is for; None when it was dealt with here."""
        peers, macs = self._peers, self._peers.macs
        if peers.us is None or size < LEAST_FRAME:
            peers.drop(Drop.NOT_CONFIGURED if peers.us is None else Drop.MALFORMED)
            return None
        frame = at + VNET_SIZE
        pair = bytes(buffer[frame : frame + 12])
        peer = self._pairs.get(pair)
        if peer is not None and self._pairs_of == (peers.version, macs.version):
            packet = size - VNET_SIZE - ETHERNET
            if packet <= peer.mtu or packet_size(buffer, at, size) <= peer.mtu:
                return peer
        target, source = pair[:6], pair[6:]
        if macs.places.get(source) == LOCAL:
            macs.touched.add(source)
        elif source[0] & 1 or source == _NOBODY:
            peers.drop(Drop.BAD_SOURCE)
            return None
        else:
            macs.learn(source, LOCAL, now)
        place = macs.places.get(target)
        peer = None if place is None else peers.peers.get(place)
        if peer is not None:
            if packet_size(buffer, at, size) <= peer.mtu:
                self._remember(pair, peer)
                return peer
            self._too_big(bytes(buffer[at : at + size]), peer.mtu, (peer,))
        elif place == LOCAL:
            peers.drop(Drop.LOCAL)
        else:
            self.spread(bytes(buffer[at : at + size]))
        return None

    def _remember(self, pair: bytes, peer: Peer) -> None:
        """Frames from this source to this destination go to that peer, until a table changes."""
        versions = (self._peers.version, self._peers.macs.version)
        if self._pairs_of != versions or len(self._pairs) >= MAX_PAIRS:
            self._pairs.clear()
            self._pairs_of = versions
        self._pairs[pair] = peer

    def spread(self, whole: bytes) -> None:
        """To more than one: a group address's along our tree, an unknown address's to each alone.

        The frame for an unknown address is unicast, and only the host it is for should read it; a
        tree would show it to every host on the way.
        """
        peers = self._peers
        if whole[VNET_SIZE] & 1:
            if self._hand_over is not None:
                self._hand_over(whole)
                return
            if peers.us is None:
                peers.drop(Drop.NOT_CONFIGURED)
                return
            record = broadcast_record((peers.us, self._broadcasts.number(), HOP_LIMIT), whole)
            for child in peers.trees.get(peers.us, ()):
                if (peer := peers.peers.get(child)) is not None:
                    self._send(peer, record)
            return
        if not self._floods.take():
            peers.drop(Drop.FLOOD_LIMIT)
            return
        everyone = tuple(peer for peer in peers.peers.values() if not peer.in_kernel)
        mtu = min((peer.mtu for peer in everyone), default=peers.mtu)
        if packet_size(whole, 0, len(whole)) > mtu:
            self._too_big(whole, mtu, everyone)
            return
        record = unicast_record(whole)
        for peer in everyone:
            self._send(peer, record)

    def _too_big(self, whole: bytes, mtu: int, receivers: tuple[Peer, ...]) -> None:
        """Say so to the pod, or cut the packet up where its sender allowed that."""
        answer = icmp.too_big(whole[VNET_SIZE:], mtu)
        if answer is not None:
            self._drop_too_big(receivers)
            if self._errors.take():
                self._write(bytes(VNET_SIZE) + answer)
            return
        is_super = whole[1] != 0
        pieces = [] if is_super else icmp.fragments(with_checksum(whole), mtu)
        if not pieces:
            self._drop_too_big(receivers)
        for piece in pieces:
            record = unicast_record(bytes(VNET_SIZE) + piece)
            for peer in receivers:
                self._send(peer, record)

    def _drop_too_big(self, receivers: tuple[Peer, ...]) -> None:
        """One frame, whoever it was for."""
        of = receivers[0].short_id if len(receivers) == 1 else None
        self._peers.drop(Drop.TOO_BIG, of=of)

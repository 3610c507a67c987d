"""What a neighbour's message does. What is wrong with one is counted; the connection stays."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MalformedMessageError
from mesh.names import PeerName
from mesh.router.hub import Hub
from mesh.router.neighbours import Neighbours
from mesh.router.vigil import Vigil
from mesh.wire.control import Ask, Gossiped, Ping, Pong, Unicast, Vouch, decode


class Inbox:
    def __init__(
        self,
        hub: Hub,
        neighbours: Neighbours,
        vigil: Vigil,
        *,
        gossip: Callable[[PeerName, bytes], None],
        unicast: Callable[[Unicast], None],
    ) -> None:
        self._hub, self._neighbours, self._vigil = hub, neighbours, vigil
        self._gossip, self._unicast = gossip, unicast

    def receive(self, peer: PeerName, data: bytes) -> None:
        self._vigil.heard(peer)
        try:
            message = decode(data)
            match message:
                case Gossiped(body):
                    self._gossip(peer, body)
                case Unicast():
                    self._unicast(message)
                case Ping(token):
                    self._neighbours.send(peer, Pong(token))
                case Ask(suspect):
                    if self._vigil.heard_lately(suspect):
                        self._neighbours.send(peer, Vouch(suspect))
                case Vouch(suspect):
                    self._vigil.vouched(suspect)
                case Pong():
                    return
                case None:
                    self._hub.count("unknown-kind")
        except MalformedMessageError as err:
            self._hub.count(err.reason)

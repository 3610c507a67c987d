"""Two connections face to face, without sockets: what one sends, the other receives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from mesh.clock import Instant
from mesh.connection.connection import (
    Connection,
    ConnectionEffect,
    Established,
    Local,
    Received,
    Remote,
)
from mesh.crypto.identity import Identity
from mesh.crypto.password import Password, PasswordRing
from mesh.effects import Arm, Close, Notify, Send
from mesh.names import PeerUID
from tests.sim.kem import SimKem

NOW = Instant(1000.0)


def ring(*passwords: str) -> PasswordRing:
    """A ring from ``id=secret`` or ``secret`` texts, without Argon2id's tenth of a second each."""
    pairs = [text.split("=") if "=" in text else ["default", text] for text in passwords]
    return PasswordRing(tuple(Password(id, secret.encode().ljust(32)) for id, secret in pairs))


def local(seed: int, passwords: PasswordRing | None = None, uid: int | None = None) -> Local:
    return Local(
        identity=Identity.from_seed(seed.to_bytes(32, "big")),
        uid=PeerUID(seed if uid is None else uid),
        nickname=f"host-{seed}",
        port=6783,
        probe_port=6786,
        sleeve_port=6784,
        passwords=ring() if passwords is None else passwords,
        features={"overlays": "sleeve"},
    )


@dataclass
class End:
    """One end, and everything it ever asked for."""

    machine: Connection
    outbox: bytearray = field(default_factory=bytearray)
    remote: Remote | None = None
    received: list[bytes] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    deadline: Instant | None = None

    def perform(self, effects: list[ConnectionEffect]) -> None:
        for effect in effects:
            assert not self.closed, f"{effect} after Close"
            match effect:
                case Send(data):
                    self.outbox += data
                case Arm(deadline):
                    self.deadline = deadline
                case Close(reason):
                    self.closed.append(reason)
                case Notify(event):
                    self._happened(event)

    def _happened(self, event: Established | Received) -> None:
        match event:
            case Established(remote):
                assert self.remote is None
                self.remote = remote
            case Received(message):
                assert self.remote is not None
                self.received.append(message)

    def take(self) -> bytes:
        data = bytes(self.outbox)
        self.outbox.clear()
        return data


def whole(data: bytes) -> list[bytes]:
    return [data]


class Talk:
    """``a`` dialled ``b``. ``cut`` says in which pieces octets arrive."""

    def __init__(
        self,
        ours: Local,
        theirs: Local,
        *,
        seed: int = 1,
        cut: Callable[[bytes], list[bytes]] = whole,
    ) -> None:
        rng, self._cut = Random(seed), cut
        self.a = End(Connection(ours, outbound=True, kem=SimKem(), entropy=rng.randbytes))
        self.b = End(Connection(theirs, outbound=False, kem=SimKem(), entropy=rng.randbytes))
        self.carried = {id(self.a): bytearray(), id(self.b): bytearray()}

    def start(self) -> Talk:
        for end in (self.a, self.b):
            end.perform(end.machine.start(NOW))
        return self

    def run(self, now: Instant = NOW) -> Talk:
        """Carry octets until neither end has any to send."""
        while self.a.outbox or self.b.outbox:
            for sender, receiver in ((self.a, self.b), (self.b, self.a)):
                data = sender.take()
                self.carried[id(sender)] += data
                for piece in self._cut(data):
                    receiver.perform(receiver.machine.receive_data(piece, now))
        return self

    def send(self, end: End, message: bytes, now: Instant = NOW) -> None:
        end.perform(end.machine.send(message, now))

    @property
    def reasons(self) -> tuple[list[str], list[str]]:
        return self.a.closed, self.b.closed


def established(seed: int = 1, cut: Callable[[bytes], list[bytes]] = whole) -> Talk:
    """Two peers with one password, connected."""
    talk = Talk(local(1, ring("p")), local(2, ring("p")), seed=seed, cut=cut).start().run()
    assert talk.a.remote is not None
    assert talk.b.remote is not None
    return talk

"""Two peers that make end-to-end keys over a bad network, and a worker each that remembers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mesh.clock import Instant
from mesh.connection.handshake import Local
from mesh.effects import Arm, Notify
from mesh.link.epochs import PairKeys
from mesh.link.pair_effects import (
    ActivateEpoch,
    EpochKeys,
    InstallEpoch,
    PairEffect,
    PairFailed,
    PairReady,
    RetireEpoch,
    SendPair,
)
from mesh.wire.cipher import Cipher, Offer
from tests.sim.clock import SimClock, _Entry
from tests.sim.kem import SimKem
from tests.sim.talk import local, ring


class PairHost:
    """One end with a worker that installs after a while."""

    def __init__(self, network: PairNetwork, ours: Local) -> None:
        self.network, self.local = network, ours
        self.offer: Offer = dict.fromkeys(Cipher, 0)
        self.events: list[PairReady | PairFailed] = []
        self.ciphers: list[Cipher] = []
        """Of every epoch that was ever installed here."""
        self.used_keys: set[bytes] = set()
        """Every key any worker here ever sent or was to send under."""
        self.switches: list[tuple[Instant, int]] = []
        self.retired: dict[int, Instant] = {}
        self.life = 0

    def start(self, other: PairHost) -> None:
        """A new worker, and new PairKeys with it; the old ones are gone."""
        self.other = other
        self.life += 1
        self.installed: dict[int, EpochKeys] = {}
        self.active: int | None = None
        self._timer: _Entry | None = None
        rng = self.network.rng
        self.keys = PairKeys(
            self.local,
            other.local.identity.name,
            offer=self.offer,
            kem=SimKem(),
            entropy=rng.randbytes,
            rng=rng,
        )
        self.perform(self.keys.start(self.network.clock.now()))

    def perform(self, effects: list[PairEffect]) -> None:
        clock, network = self.network.clock, self.network
        assert sum(isinstance(effect, Arm) for effect in effects) <= 1
        for effect in effects:
            match effect:
                case SendPair(message):
                    network.carry(self.other, message)
                case InstallEpoch(keys):
                    self._install(keys)
                case ActivateEpoch(epoch):
                    assert epoch in self.installed
                    assert all(epoch != before for _, before in self.switches[-1:])
                    self.active = epoch
                    self.switches.append((clock.now(), epoch))
                case RetireEpoch(epoch):
                    assert epoch != self.active
                    del self.installed[epoch]
                    self.retired[epoch] = clock.now()
                case Arm(deadline):
                    self._arm(deadline)
                case Notify(event):
                    self.events.append(event)
        network.check()

    def _install(self, keys: EpochKeys) -> None:
        assert keys.epoch not in self.installed
        assert keys.tx_key not in self.used_keys, "a key that was sent under before"
        assert keys.tx_key != keys.rx_key
        assert keys.tx_tag != keys.rx_tag
        self.used_keys.add(keys.tx_key)
        self.ciphers.append(keys.cipher)
        life = self.life

        def answer() -> None:
            if life == self.life:
                self.installed[keys.epoch] = keys
                self.perform(self.keys.installed(keys.epoch, self.network.clock.now()))

        self.network.later(self.network.rng.uniform(0, 0.05), answer)

    def _arm(self, deadline: Instant | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if deadline is not None:
            clock = self.network.clock
            self._timer = clock.call_at(max(deadline, clock.now()), self._fire)

    def _fire(self) -> None:
        self._timer = None
        self.perform(self.keys.handle_timer(self.network.clock.now()))


class PairNetwork:
    def __init__(self, seed: int, passwords: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
        self.rng = Random(seed)
        self.clock = SimClock()
        self.loss = 0.0
        self.lose: tuple[int, ...] = ()
        """Kinds of message (first octets) that never arrive."""
        self.relay: Callable[[bytes], bytes] = lambda message: message
        """What lies between the two makes this of a message."""
        self.carried: list[bytes] = []
        self.strict = True
        """Whether a change of epoch must not lose a frame: not while a worker is restarted."""
        ends = sorted((local(n + 1) for n in range(2)), key=lambda end: end.identity.name)
        self.hosts = [
            PairHost(self, local(int(end.uid), ring(*passwords[n]))) for n, end in enumerate(ends)
        ]

    @property
    def initiator(self) -> PairHost:
        return self.hosts[0]

    @property
    def responder(self) -> PairHost:
        return self.hosts[1]

    def start(self) -> PairNetwork:
        a, b = self.hosts
        for host, other in ((a, b), (b, a)):
            host.other = other
            host.installed, host.active = {}, None
        a.start(b)
        b.start(a)
        return self

    def run(self, seconds: float) -> PairNetwork:
        self.clock.run_until(Instant(self.clock.now() + seconds))
        return self

    def carry(self, to: PairHost, message: bytes) -> None:
        message = self.relay(message)
        self.carried.append(message)
        life = to.life
        for _ in range(2 if self.rng.random() < self.loss / 2 else 1):
            if self.rng.random() < self.loss or message[0] in self.lose:
                continue
            self.later(
                self.rng.uniform(0.001, 0.1),
                lambda: (
                    to.perform(to.keys.receive(message, self.clock.now()))
                    if life == to.life
                    else None
                ),
            )

    def later(self, seconds: float, action: object) -> None:
        assert callable(action)
        self.clock.call_at(Instant(self.clock.now() + seconds), action)

    def check(self) -> None:
        """Whoever sends under an epoch is understood."""
        for host in self.hosts:
            if self.strict and host.active is not None:
                theirs = host.other.installed.get(host.active)
                ours = host.installed[host.active]
                assert theirs is not None, f"epoch {host.active} is not installed at the other end"
                assert ours.cipher is theirs.cipher
                assert (ours.tx_key, ours.tx_tag) == (theirs.rx_key, theirs.rx_tag)
                assert (ours.rx_key, ours.rx_tag) == (theirs.tx_key, theirs.tx_tag)
            assert len(host.installed) <= 8

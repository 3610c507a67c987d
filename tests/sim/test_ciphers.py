"""protocol.md 5.6 in whole meshes: hosts whose processors differ, and hosts that cannot agree."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import pytest

from mesh.errors import MisuseError
from mesh.link import ciphers, epochs
from mesh.link.epochs import ROTATE
from mesh.router import links
from mesh.router.link_status import LinkStatus
from mesh.router.status import router_status
from mesh.wire import worker as w
from mesh.wire.cipher import Cipher, Offer
from tests.sim.host import SimHost
from tests.sim.mesh import SimMesh
from tests.sim.processors import AES, CHACHA, EVEN, WITH_AES, WITHOUT_AES, cipher_complaint
from weaver.status import links_text


def settled(seed: int, *processors: Offer, passwords: tuple[str, ...] = ("secret",)) -> SimMesh:
    mesh = SimMesh(seed, len(processors), None, passwords, processors)
    mesh.join()
    mesh.allocate(mesh.hosts[0])
    mesh.settle(within=60)
    return mesh


def row(host: SimHost, other: SimHost) -> LinkStatus:
    (found,) = [
        link
        for link in router_status(host.router, host.clock.now()).links
        if link.peer == str(other.name)
    ]
    return found


def test_a_mixed_mesh_uses_what_suits_each_pair() -> None:
    """``settle`` holds every pair to it and sends frames; here is what an operator is shown."""
    mesh = settled(31, WITH_AES, WITH_AES, WITHOUT_AES, EVEN)
    a, b, slow, even = mesh.hosts
    expected = {(a, b): AES, (a, slow): CHACHA, (b, slow): CHACHA, (a, even): AES,
                (slow, even): CHACHA}  # fmt: skip
    for (one, other), cipher in expected.items():
        assert row(one, other).cipher == row(other, one).cipher == cipher
    shown = links_text([asdict(row(slow, host)) for host in (a, b, even)])
    assert shown.count("chacha20-poly1305") == 3


def test_a_change_of_epoch_and_a_new_measurement() -> None:
    """Every epoch has the pair's cipher; a host that comes back as another machine has another."""
    mesh = settled(32, WITH_AES, WITH_AES, WITHOUT_AES)
    first, second, _ = mesh.hosts
    epoch = row(first, second).epoch
    mesh.run(1.5 * ROTATE)
    assert row(first, second).epoch != epoch
    mesh.settle(within=60)
    mesh.kill(second)
    mesh.run(20)
    second.ciphers = WITHOUT_AES
    mesh.start(second)
    mesh.settle(within=120)
    assert row(first, second).cipher == row(second, first).cipher == CHACHA


def test_without_a_password_there_is_no_cipher() -> None:
    mesh = settled(33, WITH_AES, WITHOUT_AES, passwords=())
    assert row(*mesh.hosts).cipher is None
    assert row(*mesh.hosts).state == "direct"


def test_hosts_that_cannot_agree_say_why_and_harm_nobody() -> None:
    """They stay in the mesh, and relay for others; between the two no frame passes."""
    mesh = SimMesh(34, peers=4, processors=({AES: 1}, {CHACHA: 1}, WITH_AES, WITHOUT_AES))
    mesh.join()
    aes, chacha, *others = mesh.hosts
    deadline = mesh.clock.now() + 60
    while cipher_complaint(mesh.hosts) is not None:
        assert mesh.clock.now() < deadline, cipher_complaint(mesh.hosts)
        mesh.run(2)
    for one, other in ((aes, chacha), (chacha, aes)):
        link = row(one, other)
        assert (link.state, link.reason, link.cipher) == ("down", "no-common-cipher", None)
        assert one.router.hub.counters["no-common-cipher"] > 0
        assert other.name in one.router.neighbours.by_peer or link.hops > 0
    mesh.network.weather = type(mesh.network.weather)(delay=(0.001, 0.002))
    for host in mesh.hosts:
        host.received.clear()
        for other in mesh.hosts:
            short_id = other.router.topology.own.short_id
            if other is not host and short_id is not None:
                host.worker.unicast(short_id, host.name.octets)
    mesh.run(1)
    for host in mesh.hosts:
        silent = {aes: chacha, chacha: aes}.get(host)
        heard = {other.name for other in mesh.hosts if other not in (host, silent)}
        assert {source for source, _ in host.received} == heard
    assert len(others) == 2


# ---- planted bugs: each must be seen


Plant = Callable[[pytest.MonkeyPatch], None]


def own_preference(patch: pytest.MonkeyPatch) -> None:
    """Each end takes what is fastest for itself, and believes it was told so."""

    def selfish(one: Offer, other: Offer) -> Cipher | None:
        common = [cipher for cipher in Cipher if cipher in one and cipher in other]
        return min(common, key=lambda cipher: one[cipher], default=None)

    patch.setattr(ciphers, "choose", selfish)


def unchecked_choice(patch: pytest.MonkeyPatch) -> None:
    """The same, and the responder does not look at what the initiator says."""
    own_preference(patch)
    patch.setattr(epochs, "confirm", ciphers.agree)


def forgotten_on_the_way(patch: pytest.MonkeyPatch) -> None:
    """The worker is told AES whatever was agreed, at one end of each pair."""
    tell = links.Links._tell_one

    def careless(self: links.Links, message: w.ToWorker) -> None:
        if isinstance(message, w.InstallEpoch) and message.short_id % 2:
            message = w.InstallEpoch(
                message.short_id, message.epoch, message.rx_key, message.tx_key,
                message.rx_tag, message.tx_tag, AES,
            )  # fmt: skip
        tell(self, message)

    patch.setattr(links.Links, "_tell_one", careless)


@pytest.mark.parametrize(
    "plant",
    [own_preference, unchecked_choice, forgotten_on_the_way],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_is_seen(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    with pytest.raises((AssertionError, MisuseError)):
        settled(35, WITH_AES, WITHOUT_AES, WITH_AES, WITHOUT_AES)

"""protocol.md 5.3: whoever sends under an epoch is understood, whatever the network loses.

``PairNetwork.check`` runs after every step: it holds the truth of both workers side by side.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.link.epochs import ROTATE
from mesh.link.pair_effects import PairFailed
from mesh.wire.cipher import Cipher
from mesh.wire.pair import NoiseStep, PairKind, decode, encode
from tests.sim.pairs import PairNetwork

SAME = (("p",), ("p",))


def agree(network: PairNetwork) -> bool:
    """Both send under one epoch; a change that is under way has a second to end."""
    for _ in range(50):
        if network.initiator.active == network.responder.active is not None:
            return True
        network.run(0.02)
    return False


@given(
    seed=st.integers(0, 2**32),
    spells=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0]), st.sampled_from([3.0, 40.0, 130.0, 400.0])
        ),
        min_size=1,
        max_size=8,
    ),
)
@settings(deadline=None)
def test_no_change_of_epoch_loses_a_frame(seed: int, spells: list[tuple[float, float]]) -> None:
    """And no key is installed twice, no more than a few epochs are held, and it recovers."""
    network = PairNetwork(seed, SAME).start()
    for network.loss, seconds in spells:
        network.run(seconds)
    network.loss = 0.0
    before = len(network.initiator.switches)
    network.run(2.5 * ROTATE)
    assert len(network.initiator.switches) > before
    assert agree(network)


@given(
    seed=st.integers(0, 2**32),
    restarts=st.lists(
        st.tuples(st.integers(0, 1), st.floats(0, 200), st.sampled_from([0.0, 0.3])), max_size=5
    ),
)
@settings(deadline=None)
def test_restarted_workers_never_meet_an_old_key(
    seed: int, restarts: list[tuple[int, float, float]]
) -> None:
    """protocol.md 5.4: ``PairHost`` refuses a key it was given in any of its lives."""
    network = PairNetwork(seed, SAME).start()
    network.strict = False
    for which, seconds, network.loss in restarts:
        network.run(seconds)
        host = network.hosts[which]
        host.start(host.other)
    network.loss = 0.0
    network.run(3 * ROTATE)
    network.strict = True
    network.check()
    assert agree(network)


offers = st.dictionaries(st.sampled_from(Cipher), st.integers(0, 3), min_size=1)


@given(
    seed=st.integers(0, 2**32),
    first=st.tuples(offers, offers),
    then=st.lists(st.tuples(st.integers(0, 1), offers, st.sampled_from([0.0, 0.3])), max_size=3),
)
@settings(deadline=None)
def test_one_cipher_at_both_ends_whatever_they_offer(
    seed: int,
    first: tuple[dict[Cipher, int], dict[Cipher, int]],
    then: list[tuple[int, dict[Cipher, int], float]],
) -> None:
    """protocol.md 5.6: after every start with another measurement, or none of it in common."""
    network = PairNetwork(seed, SAME)
    for host, offer in zip(network.hosts, first, strict=True):
        host.offer = offer
    network.start()
    network.strict = False
    for which, offer, network.loss in then:
        network.run(20)
        host = network.hosts[which]
        host.offer = offer
        host.start(host.other)
    network.loss = 0.0
    network.run(3 * ROTATE)
    a, b = network.initiator, network.responder
    common = a.offer.keys() & b.offer.keys()
    if not common:
        for host in network.hosts:
            said = [event for event in host.events if isinstance(event, PairFailed)]
            assert said[-1].reason == "no-common-cipher"
        return
    network.strict = True
    network.check()
    assert agree(network)
    assert a.active is not None
    cost = {cipher: max(a.offer[cipher], b.offer[cipher]) for cipher in common}
    used = a.installed[a.active].cipher
    assert used is b.installed[a.active].cipher
    assert cost[used] == min(cost.values())


@given(seed=st.integers(0, 2**32), at=st.integers(0, 4000), flip=st.integers(1, 255))
@settings(deadline=None)
def test_no_altered_octet_makes_another_cipher(seed: int, at: int, flip: int) -> None:
    """protocol.md 5.6: a handshake that was touched fails, or agrees on what it would have."""
    network = PairNetwork(seed, SAME)
    network.hosts[0].offer = {Cipher.AES_256_GCM: 1, Cipher.CHACHA20_POLY1305: 2}
    touched: set[int] = set()

    def touch(message: bytes) -> bytes:
        """One octet of the body of the first message of each step."""
        if message[0] != PairKind.NOISE or message[3] in touched:
            return message
        touched.add(message[3])
        body = len(encode(replace(cast("NoiseStep", decode(message)), body=b"")))
        where = body + at % (len(message) - body)
        return message[:where] + bytes((message[where] ^ flip,)) + message[where + 1 :]

    network.relay = touch
    network.start().run(60)
    for host in network.hosts:
        assert set(host.ciphers) <= {Cipher.AES_256_GCM}
        assert not touched or any(isinstance(event, PairFailed) for event in host.events)

"""protocol.md 5.3: whoever sends under an epoch is understood, whatever the network loses.

``PairNetwork.check`` runs after every step: it holds the truth of both workers side by side.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.link.epochs import ROTATE
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

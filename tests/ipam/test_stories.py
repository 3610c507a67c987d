"""Stories of allocators alone: I1 to I4 after every step, then all is well. ipam.md R1 to R20."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.ipam.__main__ import failure_of, one
from tests.ipam.shrink import shrunk
from tests.ipam.story import story, written

SEEDS, STEPS, CHUNK = 500, 60, 50


@pytest.mark.parametrize("first", range(1, SEEDS + 1, CHUNK))
def test_five_hundred_seeds(first: int) -> None:
    failures = {}
    for seed in range(first, first + CHUNK):
        failure = failure_of(seed, written(seed, STEPS))
        if failure:
            failures[seed] = failure
    assert failures == {}


def test_a_seed_replays() -> None:
    first, again = story(7, 120), story(7, 120)
    assert first.world.inputs == again.world.inputs
    assert first.world.time == again.world.time
    assert [n.granted for n in first.world.nodes] == [n.granted for n in again.world.nodes]


def test_trouble_really_happens() -> None:
    befell: Counter[str] = Counter()
    refusals: Counter[str] = Counter()
    answers = astray = 0
    for seed in range(1, 41):
        told = story(seed, 150)
        befell.update(told.world.befell)
        answers += told.world.ledger.answers
        astray += told.world.ledger.astray
        for node in told.world.nodes:
            refusals.update(node.refusals)
    assert answers > 1000
    assert astray > 0, "nobody was taken over while it lived"
    for what in ("lost", "doubled", "killed", "left"):
        assert befell[what] > 5, what
    for reason in ("no-space", "address-in-use", "store-full", "peer-alive", "no-majority"):
        assert refusals[reason] > 0, reason


def test_a_story_that_fails_shrinks_to_what_it_fails_of() -> None:
    steps = list(range(100))
    assert shrunk(steps, lambda some: {13, 77} <= set(some)) == [13, 77]


def test_a_failure_is_told_with_its_shortest_story(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(seed: int, steps: int, script: list[object]) -> None:
        assert len(script) < 3, "planted"

    monkeypatch.setattr("tests.ipam.__main__.story", told)
    outcome = one((1, 20))
    assert outcome.failure.startswith("AssertionError: planted")
    assert len(outcome.shortest) == 3

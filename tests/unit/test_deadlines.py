"""Many deadlines behind one, against a slow and obvious model."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from mesh.clock import Instant
from mesh.router.deadlines import Deadlines

KEYS = [("a",), ("b", 1), ("b", 2), ("c",)]
steps = st.lists(
    st.tuples(st.sampled_from(KEYS), st.one_of(st.none(), st.integers(0, 20))), max_size=300
)


@given(steps, st.integers(0, 20))
def test_against_a_dictionary(
    changes: list[tuple[tuple[object, ...], int | None]], at: int
) -> None:
    deadlines = Deadlines()
    model: dict[tuple[object, ...], float] = {}
    for key, when in changes:
        deadlines.set(key, None if when is None else Instant(float(when)))
        if when is None:
            model.pop(key, None)
        else:
            model[key] = when
        assert deadlines.get(key) == model.get(key)
        soonest = deadlines.next()
        assert soonest == (Instant(min(model.values())) if model else None)
    due = deadlines.due(Instant(float(at)))
    assert sorted(map(str, due)) == sorted(str(k) for k, when in model.items() if when <= at)
    assert [model[k] for k in due] == sorted(model[k] for k in due)
    assert deadlines.due(Instant(float(at))) == []


def test_setting_one_key_for_ever_does_not_grow() -> None:
    deadlines = Deadlines()
    for n in range(10_000):
        deadlines.set(("x",), Instant(float(n)))
    assert len(deadlines._heap) < 200

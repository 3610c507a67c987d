"""Correction of tables by difference: nothing flushed, nothing written twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.link.datapath import SLEEVE, Answer, Tables, Tree, correct
from mesh.names import ShortID
from tests.unit.datapath_twin import DatapathTwin, Underlay

ids = st.integers(1, 6).map(ShortID)
hosts = st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::3"])
macs = st.integers(1, 5).map(lambda n: bytes((2, 0, 0, 0, 0, n)))
trees = st.builds(
    Tree,
    st.none() | ids,
    st.lists(ids, unique=True, max_size=3).map(tuple),
    st.booleans(),
    st.booleans(),
)
neighbours = st.dictionaries(ids, hosts)
tables = st.builds(
    Tables,
    neighbours,
    st.just({}),
    st.dictionaries(ids, ids | st.just(SLEEVE)),
    st.just({}),
    st.just({}),
    st.dictionaries(ids, trees),
    st.dictionaries(
        st.tuples(ids, st.sampled_from([b"\x01\x00\x5e\1\2\3", b"\x33\x33\0\1\2\3"])), trees
    ),
    st.sets(st.tuples(hosts, ids), max_size=5),
    st.dictionaries(macs, ids),
    st.dictionaries(st.sampled_from(["10.32.0.1", "fd00::1"]), st.builds(Answer, macs, ids)),
)


@given(tables, tables, hosts)
def test_what_is_found_becomes_what_is_wanted(found: Tables, wanted: Tables, own: str) -> None:
    found.own = {n: own for n in found.neighbours if n % 2}
    wanted.own = {n: own for n in wanted.neighbours if n % 3}
    found.mtus = {to: 1400 + to for to in found.routes if to % 2}
    wanted.mtus = {to: 1401 for to in wanted.routes if to % 3}
    found.onward = {to: ShortID(9) for to, via in found.routes.items() if via == SLEEVE}
    twin = DatapathTwin(Underlay(), "192.0.2.9")
    correct(twin, found)
    assert twin.tables() == found
    writes = correct(twin, wanted)
    assert twin.tables() == wanted
    assert (writes == 0) == (found == wanted)
    assert correct(twin, wanted) == 0

"""Planted bugs are worth something while they can be planted (``make planted`` plants them all)."""

import pytest

from tests.planted import BUGS, ROOT
from tests.planted_addresses import Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_a_bug_can_be_planted_at_one_place(bug: Bug) -> None:
    assert (ROOT / bug.file).read_text().count(bug.old) == 1, bug.file
    assert bug.new != bug.old


def test_no_two_have_one_name() -> None:
    assert len({bug.what for bug in BUGS}) == len(BUGS)

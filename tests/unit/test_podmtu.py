"""How large pods' packets are (docs/fastdp.md 11)."""

from __future__ import annotations

import pytest

from mesh.clock import Instant
from mesh.link.podmtu import GROWS_AFTER, Sizes, pod_mtu


@pytest.mark.parametrize(
    ("underlay", "sealed", "mtu"),
    [
        ([], False, 1450),
        ([], True, 1400),
        ([("192.0.2.1", 1500)], False, 1450),
        ([("192.0.2.1", 1500)], True, 1400),
        ([("2001:db8::1", 1500)], False, 1430),
        ([("192.0.2.1", 1500), ("2001:db8::1", 1500)], False, 1430),
        ([("192.0.2.1", 9000)], False, 8950),
        ([("192.0.2.1", 9000), ("192.0.2.2", 1500)], False, 1450),
        ([("192.0.2.1", 65535)], False, 8950),
        ([("192.0.2.1", 1300)], False, 1280),
    ],
)
def test_the_underlay_less_what_goes_around(
    underlay: list[tuple[str, int]], sealed: bool, mtu: int
) -> None:
    assert pod_mtu(underlay, sealed=sealed) == mtu


def test_less_is_heeded_at_once_and_more_when_it_lasts() -> None:
    sizes = Sizes(1450)
    assert sizes.found(1400, Instant(0.0))
    assert sizes.mtu == 1400
    assert not sizes.found(1400, Instant(1.0))
    assert not sizes.found(8950, Instant(2.0))
    assert not sizes.found(1450, Instant(3.0))
    assert not sizes.found(8950, Instant(1.9 + GROWS_AFTER))
    assert sizes.found(8950, Instant(2.0 + GROWS_AFTER))
    assert sizes.mtu == 1450, "no more than there was all the time"


def test_what_comes_and_goes_changes_nothing() -> None:
    sizes = Sizes(1430)
    for at in range(0, 600, 20):
        assert not sizes.found(1450 if at % 40 else 1430, Instant(at))
    assert sizes.mtu == 1430

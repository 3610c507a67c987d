"""Which overlay a pair may use, and why not the kernel's (docs/protocol.md 14.1)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from itertools import product

import pytest

from mesh.errors import OperatorError
from mesh.link.overlay import End, Obstacle, is_within, obstacle
from weaver.config import MAX_SUBNETS, parse_subnets

GOOD = End(has_kernel=True, trusts=False, port=6784)


def test_without_a_password_the_kernel_serves_all_who_have_it() -> None:
    """protocol.md 14.1."""
    assert obstacle(GOOD, GOOD, encrypted=False) is None
    found = {
        obstacle(replace(GOOD, has_kernel=False), GOOD, encrypted=False): "fastdp-off",
        obstacle(GOOD, replace(GOOD, has_kernel=False), encrypted=False): "peer-without-fastdp",
        obstacle(GOOD, replace(GOOD, port=0), encrypted=False): "vxlan-port-differs",
    }
    assert all(word == name for word, name in found.items())
    assert len(found) == 3


def test_with_a_password_both_must_trust() -> None:
    """protocol.md 14.1: the four cases, and what each end calls them."""
    words = {
        (ours, theirs): obstacle(
            replace(GOOD, trusts=ours), replace(GOOD, trusts=theirs), encrypted=True
        )
        for ours, theirs in product((True, False), repeat=2)
    }
    assert words == {
        (True, True): None,
        (True, False): Obstacle.NOT_TRUSTED_THERE,
        (False, True): Obstacle.NOT_TRUSTED,
        (False, False): Obstacle.ENCRYPTED,
    }


def test_no_combination_lets_frames_go_in_clear_that_must_be_sealed() -> None:
    """protocol.md 14.1: whatever else is true of both ends."""
    ends = [
        End(kernel, trusts, port)
        for kernel, trusts, port in product((True, False), (True, False), (1, 2))
    ]
    for ours, theirs in product(ends, repeat=2):
        if obstacle(ours, theirs, encrypted=True) is None:
            assert ours.trusts
            assert theirs.trusts
        one, other = (obstacle(a, b, encrypted=True) for a, b in ((ours, theirs), (theirs, ours)))
        assert (one is None) == (other is None), "both ends come to the same"


@pytest.mark.parametrize(
    ("host", "inside"),
    [("10.1.2.3", True), ("11.0.0.1", False), ("fd00::1", True), ("fe00::1", False), ("", False)],
)
def test_addresses_of_either_family(host: str, inside: bool) -> None:
    assert is_within(host, (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))) is inside


def test_subnets_as_operators_write_them() -> None:
    assert parse_subnets("") == ()
    assert parse_subnets("10.0.0.0/8, fd00::/8,") == (
        ip_network("10.0.0.0/8"),
        ip_network("fd00::/8"),
    )
    for wrong in ("10.0.0.1/8", "everywhere", "10.0.0.0/33", "10.0.0.0/8;fd00::/8"):
        with pytest.raises(OperatorError) as caught:
            parse_subnets(wrong)
        assert caught.value.reason == "bad-subnet"
    with pytest.raises(OperatorError):
        parse_subnets(",".join(["10.0.0.0/8"] * (MAX_SUBNETS + 1)))

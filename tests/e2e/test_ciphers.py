"""protocol.md 5.6 between real daemons: what they measured, what they use, what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemons import site_of, started, until, weaver
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

pytestmark = pytest.mark.e2e

AES, CHACHA = "aes-256-gcm", "chacha20-poly1305"
NO_AES = "~0x200000200000000"
"""Bits of AES-NI and PCLMULQDQ, for OPENSSL_ia32cap(3); elsewhere than on x86 it means nothing."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """h1 runs with what it measured; h2 and h3 are what the tests start."""
    lab = Lab("ciphers", quiet=True)
    lab.down()
    lab.up(Order(name="ciphers", hosts=3, shape=Shape.MESH, pods=0), "x")
    lab.kill(["h2", "h3"])
    yield lab
    lab.down()


@pytest.fixture
def password(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text("x\n")
    return f"--password-file={file}"


def link(site: Site, peer: str) -> dict[str, Any]:
    rows = [row for row in site.get("/v1/links") or () if row["nickname"] == peer]
    return rows[0] if rows else {}


def uses(site: Site, peer: str, cipher: str) -> None:
    """Probes sealed with it were answered: the link is direct."""
    until(
        lambda: (
            (link(site, peer).get("state"), link(site, peer).get("cipher")) == ("direct", cipher)
        ),
        lambda: (site.host.name, peer, link(site, peer), site.last_words()),
    )


def refuses(site: Site, peer: str) -> None:
    until(lambda: link(site, peer).get("reason") == "no-common-cipher", lambda: link(site, peer))
    assert (link(site, peer)["state"], link(site, peer)["cipher"]) == ("down", None)
    assert site.get("/v1/status")["counters"]["no-common-cipher"] > 0


def test_what_was_asked_for_is_used_and_shown(lab: Lab, password: str) -> None:
    """h2 offers one, h3 the other; each pair of h1's has its own, whatever h1 likes better."""
    h1 = site_of(lab, "h1")
    measured = h1.get("/v1/status")["us"]["ciphers"]
    assert set(measured) == {AES, CHACHA}
    assert all(cost > 0 for cost in measured.values())
    with (
        started(lab, password, f"--cipher={CHACHA}") as h2,
        started(lab, password, f"--cipher={AES}", host="h3") as h3,
    ):
        for one, other, cipher in ((h1, h2, CHACHA), (h1, h3, AES)):
            uses(one, other.host.name, cipher)
            uses(other, one.host.name, cipher)
        shown = weaver(h1, "status", "links").stdout
        assert CHACHA in shown
        assert AES in shown
        assert f"ciphers      {CHACHA} (" in weaver(h2, "status").stdout
        report = weaver(h2, "report").stdout
        assert f'"cipher": "{CHACHA}"' in report
        refuses(h2, "h3")
        refuses(h3, "h2")


@pytest.mark.parametrize("mask", ["", NO_AES], ids=["as-it-is", "no-aes"])
def test_two_that_measured_agree(
    lab: Lab, password: str, mask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """h2 as this processor is, and as one that has no instructions for AES and GCM."""
    if mask:
        monkeypatch.setenv("OPENSSL_ia32cap", mask)
    h1 = site_of(lab, "h1")
    with started(lab, password) as h2:
        until(lambda: link(h2, "h1").get("state") == "direct", lambda: link(h2, "h1"))
        costs = [site.get("/v1/status")["us"]["ciphers"] for site in (h1, h2)]
        cipher = min((AES, CHACHA), key=lambda name: max(cost[name] for cost in costs))
        uses(h1, "h2", cipher)
        uses(h2, "h1", cipher)

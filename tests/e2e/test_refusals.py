"""Who may not join, real daemons: the same reason on both ends, in status and in the logs.

One host stays as it is; another is started again with something wrong, over and over.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemons import established, started, until, weaver
from weaver.lab import kernel
from weaver.lab.host import Site
from weaver.lab.lab import Lab
from weaver.lab.plan import Order, Shape

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def pair() -> Iterator[Lab]:
    """h1 and h3 run; h2 is what the tests start."""
    lab = Lab("refuse", quiet=True)
    lab.down()
    lab.up(Order(name="refuse", hosts=3, shape=Shape.MESH, pods=0), "x")
    lab.kill(["h2"])
    yield lab
    lab.down()


def refusals(site: Site) -> set[str]:
    return {c["reason"] for c in site.get("/v1/connections") or () if c["state"] != "established"}


def sees(site: Site, reason: str) -> None:
    until(lambda: reason in refusals(site), lambda: refusals(site))


def seen_on_both(lab: Lab, other: Site, reason: str) -> None:
    for site in (lab.site(lab.plan().host("h1")), other):
        sees(site, reason)
        assert f"reason={reason}" in site.log.read_text()
    (row,) = [c for c in other.get("/v1/connections") if c["reason"] == reason][:1]
    assert row["explanation"], "what to do about it"


def password(tmp_path: Path, text: str) -> str:
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text(text)
    return f"--password-file={file}"


def test_the_limit_of_connections(pair: Lab, tmp_path: Path) -> None:
    """h2 may have one, and has it with h1; h3, its neighbour before, is one too many.

    The first test: later h3 has waited longer after each attempt.
    """
    third = pair.site(pair.plan().host("h3"))
    with started(pair, password(tmp_path, "x\n"), "--conn-limit=1") as site:
        for end in (site, third):
            sees(end, "connection-limit")
        assert len(established(site)) == 1


def test_a_wrong_password(pair: Lab, tmp_path: Path) -> None:
    with started(pair, password(tmp_path, "y\n")) as site:
        seen_on_both(pair, site, "wrong-password")


def test_no_password_where_one_is_needed(pair: Lab) -> None:
    with started(pair) as site:
        sees(site, "password-missing")
        here = pair.site(pair.plan().host("h1"))
        sees(here, "password-unexpected")


def test_passwords_without_an_id_in_common(pair: Lab, tmp_path: Path) -> None:
    with started(pair, password(tmp_path, "other:x\n")) as site:
        seen_on_both(pair, site, "password-id-unknown")


def test_a_clone(pair: Lab, tmp_path: Path) -> None:
    one, two = (pair.site(host).directory / "state" for host in pair.plan().hosts[:2])
    kept = tmp_path / "identity"
    shutil.move(two / "identity", kept)
    shutil.copy2(one / "identity", two / "identity")
    for name in ("ipam.db", "ipam.db-wal", "ipam.db-shm"):
        (two / name).unlink(missing_ok=True)
    try:
        with started(pair, password(tmp_path, "x\n")) as site:
            seen_on_both(pair, site, "cloned-identity")
    finally:
        shutil.move(kept, two / "identity")
        for name in ("ipam.db", "ipam.db-wal", "ipam.db-shm"):
            (two / name).unlink(missing_ok=True)


def test_an_own_address(pair: Lab, tmp_path: Path) -> None:
    own = pair.plan().host("h2").underlay
    with started(pair, password(tmp_path, "x\n"), targets=(own,)) as site:
        until(
            lambda: any(t["last_error"] == "own-address" for t in site.get("/v1/targets") or ()),
            lambda: site.get("/v1/targets"),
        )


def test_a_password_is_changed_without_a_lost_connection(pair: Lab, tmp_path: Path) -> None:
    """Another password of the ring on both ends, by reload; then a start with the new one only."""
    h1, h2, h3 = pair.plan().hosts
    ours = Path(pair.book().password_file or "")
    before = ours.read_text()
    here, third = pair.site(h1), pair.site(h3)
    with started(pair, password(tmp_path, "x\n")) as site:
        until(lambda: len(established(here)) == 2, here.last_words)
        ages = {c["peer"]: c["age"] for c in established(here)}
        ours.write_text("new:z\nx\n")
        for end in (here, third):
            assert weaver(end, "reload").returncode == 0
        (tmp_path / "password").write_text("new:z\nx\n")
        assert weaver(site, "reload").returncode == 0
        for c in established(here):
            assert c["age"] >= ages[c["peer"]], "the connection is the one that was"
    try:
        with started(pair, password(tmp_path, "new:z\n")):
            until(lambda: not here.strangers([h2]), here.last_words)
            until(
                lambda: {c["nickname"]: c["password"] for c in established(here)}["h2"] == "new",
                lambda: established(here),
            )
    finally:
        ours.write_text(before)
        weaver(here, "reload")
        weaver(third, "reload")


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--range=10.48.0.0/16"], "range-mismatch"), ([], "cluster-mismatch")],
    ids=["ranges that differ", "two rings that meet"],
)
def test_rings_that_do_not_fit(pair: Lab, tmp_path: Path, options: list[str], reason: str) -> None:
    """docs/ipam.md: the reason on both ends, nothing lost, the connections and links stay."""
    here = pair.site(pair.plan().host("h1"))
    kept = weaver(here, "ipam", "allocate", "kept").stdout
    state = f"--state-dir={tmp_path}/state"
    with started(pair, password(tmp_path, "x\n"), "--seed", state, *options) as site:
        theirs = weaver(site, "ipam", "allocate", "theirs")
        assert theirs.returncode == 0, theirs.stderr
        for end in (here, site):
            quarantines(end, reason)
            assert reason in weaver(end, "status").stdout
        until(lambda: len(established(site)) == 2, site.last_words)
        h1, h3 = (host for host in pair.plan().hosts if host.name != "h2")
        until(lambda: not site.unlinked([h1, h3]), lambda: site.unlinked([h1, h3]))
        assert weaver(site, "ipam", "allocate", "theirs").stdout == theirs.stdout
    assert weaver(here, "ipam", "allocate", "kept").stdout == kept


def quarantines(site: Site, reason: str) -> None:
    until(lambda: reason in quarantined(site), lambda: quarantined(site))


def quarantined(site: Site) -> set[str]:
    return {e["reason"] for c in site.get("/v1/channels") or () for e in c["quarantine"]}


def test_an_interrupted_demo_leaves_nothing() -> None:
    command = [sys.executable, "-m", "weaver", "lab", "demo", "--name", "ctrlc"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        # Interrupted where it hurts: when namespaces and daemons are there.
        until(
            lambda: any(n.startswith("ctrlc-h") for n in kernel.namespaces()), lambda: "no lab yet"
        )
        os.kill(demo.pid, signal.SIGINT)
        said, _ = demo.communicate(timeout=60)
    finally:
        if demo.poll() is None:
            demo.kill()
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert not [n for n in kernel.namespaces() if n.startswith("ctrlc")]

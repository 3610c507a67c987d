"""The story every seed of ``make sim`` runs, in small; and proof that its assertions can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipam.address import Address
from ipam.election import Election
from ipam.estate import Estate
from ipam.ring import Ring
from ipam.slices import Slice
from mesh.errors import MisuseError
from mesh.gossip.engine import Gossip
from mesh.names import PeerName, ShortID
from mesh.router.rumours import Rumours
from mesh.topology import topology
from mesh.topology.routes import Routes
from mesh.topology.topology import Topology
from tests.sim import __main__ as command
from tests.sim.mesh import SimMesh, story
from tests.store_twin import MemoryStore

ROOT = Path(__file__).parent.parent.parent
Plant = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_mesh_in_trouble_comes_back_whole(seed: int) -> None:
    story(seed, peers=8, steps=20)


def test_a_seed_replays_octet_for_octet() -> None:
    first, again = story(5, peers=5, steps=12), story(5, peers=5, steps=12)
    assert first.digest() == again.digest()
    assert first.network.octets == again.network.octets
    assert story(6, peers=5, steps=12).digest() != first.digest()


def test_another_process_replays_it_too_however_it_hashes_and_shares() -> None:
    """What ``make sim`` printed is what a debugger will see: no hash seed, no cache decides."""
    here = story(7, peers=5).digest()
    again = [sys.executable, "-m", "tests.sim", "--seeds=7", "--peers=5", "--jobs=1"]
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            again,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert f"underlay {here[:16]}" in run.stdout


def test_the_closing_line_and_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A failure prints its seed, the closing line counts it, and the run exits 1."""

    def told(seed: int, peers: int) -> SimMesh:
        assert seed != 4, "planted"
        return SimMesh(seed, peers)

    monkeypatch.setattr(command, "story", told)
    jobs = [command.Job(seed, 2) for seed in command.seeds_of("1-2,4")]
    assert command.report([command.one(job) for job in jobs], len(jobs), "2 peers") == 1
    said = capsys.readouterr().out
    assert "seed 4 FAILED" in said
    assert "AssertionError: planted" in said
    assert "3 seeds of 2 peers, 0 operations, 1 failures [4]" in said.splitlines()[-1]
    assert command.report([command.one(command.Job(1, 2))], 1, "2 peers") == 0


@pytest.mark.parametrize("text", ["", "x", "3-", "1,,2", "5-1"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no seeds|invalid literal"):
        command.seeds_of(text)


def test_trouble_really_happens() -> None:
    """A story in which nothing was lost, cut, killed or lied about would prove nothing."""
    befell, troubles, lies, reasons = Counter[str](), Counter[str](), set[str](), Counter[str]()
    for seed in (12, 13):
        mesh = story(seed, peers=6, steps=100)
        befell.update(mesh.network.befell)
        troubles.update(mesh.troubles)
        lies.update(mesh.lies)
        for host in mesh.hosts:
            reasons.update(host.router.hub.counters)
        assert mesh.ledger.answers > 3
    assert all(befell[what] > 10 for what in ("lost", "doubled", "overtaken", "cut"))
    assert {"cut", "cut-one-way", "part", "heal", "kill", "start", "worker"} <= set(troubles)
    assert len(lies) > 2
    assert reasons["bad-signature"] + reasons["mislabelled"] + reasons["slice-forged"] > 0


# ---- planted bugs: each must make the story fail


def short_trees(patch: pytest.MonkeyPatch) -> None:
    """Broadcasts end at the originator's neighbours."""
    whole = Routes.broadcast

    def careless(self: Routes, origin: PeerName) -> tuple[PeerName, ...]:
        return whole(self, origin) if origin == self.us else ()

    patch.setattr(Routes, "broadcast", careless)


def forgetful_store(patch: pytest.MonkeyPatch) -> None:
    """Allocations answered without being durable."""
    patch.setattr(MemoryStore, "apply", lambda _self, _effect: None)


def lone_quorum(patch: pytest.MonkeyPatch) -> None:
    """Every elector decides by itself, against protocol.md 12.3."""
    init = Election.__init__

    def alone(self: Election, identity: Any, range: Any, quorum: int, stored: Any = None) -> None:
        init(self, identity, range, 1, stored)

    patch.setattr(Election, "__init__", alone)


def donor_keeps(patch: pytest.MonkeyPatch) -> None:
    """A donor goes on giving out what it gave away."""
    patch.setattr(Estate, "note", keep_space)


def keep_space(self: Estate) -> bool:
    ours = {(s.start, s.end) for s in self._ring.owned(self._ring.us)}
    self.space.own(sorted(ours | set(self.space.slices)))
    return True


def never_overtakes(patch: pytest.MonkeyPatch) -> None:
    """A restarted peer does not overtake what the mesh remembers of it."""
    patch.setattr(Topology, "_overtake", lambda *_args: None)


def stubborn_short_ids(patch: pytest.MonkeyPatch) -> None:
    """Nobody gives a short ID up."""
    patch.setattr(topology, "choose", lambda _us, _current, _others, _rng: ShortID(7))


def silent_relays(patch: pytest.MonkeyPatch) -> None:
    """News stay with whoever hears them, and digests are never compared."""
    patch.setattr(Rumours, "_relay", lambda _self, _source: ())
    patch.setattr(Gossip, "_compare_with", lambda _self, _count: [])


def slices_overlap(patch: pytest.MonkeyPatch) -> None:
    """A slice stays as long as it was when its upper part is given away.

    That a donation does not raise the version is no bug to plant here: the owner hears of the
    contradiction and says what is true again, above both.
    """
    give = Ring.give

    def careless(self: Ring, start: Address, end: Address, to: PeerName) -> list[Slice]:
        held = next(s for s in self.owned(self.us) if s.start <= start < end <= s.end)
        changed = give(self, start, end, to)
        if held.start < start:
            changed[0] = self._set([replace(held, version=held.version + 1)])[0]
        return changed

    patch.setattr(Ring, "give", careless)


@pytest.mark.parametrize(
    "plant",
    [
        short_trees,
        forgetful_store,
        lone_quorum,
        donor_keeps,
        never_overtakes,
        stubborn_short_ids,
        silent_relays,
        slices_overlap,
    ],
    ids=lambda plant: plant.__name__,
)
def test_a_planted_bug_fails_the_story(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    settle = SimMesh.settle
    monkeypatch.setattr(SimMesh, "settle", lambda self: settle(self, within=60.0, step=6.0))
    with pytest.raises((AssertionError, MisuseError)):  # noqa: PT012  # whichever seed shows it
        for seed in range(1, 17):
            story(seed, peers=6, steps=60)

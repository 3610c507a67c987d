"""Loss under streams, in small; and proof that the spells' assertions can fail.

docs/protocol.md 10.9: sizes of records follow the loss of datagrams, down and up, and do not swing.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.clock import Instant
from mesh.link import recordsize
from mesh.link.lossmeter import Line, LossMeter
from mesh.link.reassembly import Reassembly
from mesh.link.recordsize import RecordSize
from mesh.link.replay import ReplayWindow
from mesh.wire.sleeve import TAG_SIZE
from tests.sim.paths import PathMesh, story
from tests.sim.spells import (
    SPELLS,
    endure,
    fair,
    on_a_relayed_path,
    on_the_direct_path,
    spell,
    while_the_path_changes,
    while_the_road_narrows,
)

Plant = Callable[[pytest.MonkeyPatch], None]


def joined(seed: int) -> PathMesh:
    mesh = PathMesh(seed, 4)
    mesh.join()
    mesh.troubles.append("")
    return mesh


@pytest.mark.parametrize("kind", dict.fromkeys(SPELLS), ids=lambda kind: kind.__name__)
def test_loss_comes_and_goes(kind: Callable[..., None]) -> None:
    mesh = joined(2)
    kind(mesh, *mesh.hosts[:2])


def test_a_spell_replays_octet_for_octet() -> None:
    first, again = story(4, troubles=0), story(4, troubles=0)
    spell(first)
    spell(again)
    assert first.network.transcript.digest() == again.network.transcript.digest()


def test_over_many_spells_no_stream_is_slower_than_one_of_single_datagrams() -> None:
    """10.9: each begins with the largest records, that is with the worst."""
    adapted = alone = 0.0
    for seed in range(1, 13):
        mesh = joined(seed)
        with fair(mesh):
            moved = endure(mesh, *mesh.hosts[:2])
        adapted, alone = adapted + moved[0], alone + moved[1]
    assert adapted >= 0.9 * alone


# ---- planted bugs: each must make a spell fail


def never_shrinks(patch: pytest.MonkeyPatch) -> None:
    """Sizes: loss changes nothing."""
    patch.setattr(RecordSize, "_shrink", lambda _self, _wanted, _now: None)


def never_grows(patch: pytest.MonkeyPatch) -> None:
    """Sizes: records that became small stay so."""
    patch.setattr(RecordSize, "_grow", lambda _self, _wanted, _now: None)


def gone_at_once(patch: pytest.MonkeyPatch) -> None:
    """Sizes: a moment without a loss is the end of it, so they swing."""
    patch.setattr(recordsize, "GONE", 0.3)
    patch.setattr(recordsize, "GONE_AFTER", 0.0)


def fades_and_never_goes(patch: pytest.MonkeyPatch) -> None:
    """Sizes: loss that has gone is waited for to fade, and pauses outlive it."""
    patch.setattr(recordsize, "GONE", 1e12)


def overtaken_is_lost(patch: pytest.MonkeyPatch) -> None:
    """Loss: whatever is overtaken counts as lost, at once."""

    def careless(self: LossMeter, line: Line, window: ReplayWindow) -> int:
        after = self._judged.get(line, window.first)
        self._tops[line] = self._judged[line] = window.top
        return window.missing(after, window.top)

    patch.setattr(LossMeter, "_judge", careless)
    patch.setattr("mesh.link.inbound.SETTLE", 0.0)


def torn_is_nothing(patch: pytest.MonkeyPatch) -> None:
    """Loss: of a record of many datagrams one at most is missing, and those that came are not
    waited for."""
    patch.setattr(Reassembly, "take_torn", lambda _self, _now, _late: {})
    patch.setattr(Reassembly, "__len__", lambda _self: 0)
    patch.setattr(LossMeter, "_judge", lambda _self, _line, _window: 0)


def nobody_reports(patch: pytest.MonkeyPatch) -> None:
    """Loss: it is counted, and not told."""

    def careless(self: LossMeter, _now: Instant) -> bytes | None:
        self.active = False
        return None

    patch.setattr(LossMeter, "report", careless)


def paths_are_one(patch: pytest.MonkeyPatch) -> None:
    """Sizes: another path inherits the former one's loss."""
    follow = RecordSize.follow
    patch.setattr(RecordSize, "follow", lambda self, _via, segment: follow(self, "any", segment))


def old_reports_count(patch: pytest.MonkeyPatch) -> None:
    """Sizes: what was lost on the former path is taken for loss of the next."""
    patch.setattr(recordsize, "SETTLED", 0.0)


def searches_are_loss(patch: pytest.MonkeyPatch) -> None:
    """Sizes: probes that were too large, or went another way, count as lost records."""
    patch.setattr(RecordSize, "_unexcused", lambda _self, missing: missing)


def no_room_for_the_tag(patch: pytest.MonkeyPatch) -> None:
    """Sizes: a record of so many datagrams is one too long, so it takes one more."""
    octets = RecordSize._octets
    patch.setattr(RecordSize, "_octets", lambda self, datagrams: octets(self, datagrams) + TAG_SIZE)


@pytest.mark.parametrize(
    ("plant", "kind"),
    [
        (never_shrinks, on_the_direct_path),
        (never_grows, on_the_direct_path),
        (gone_at_once, on_the_direct_path),
        (fades_and_never_goes, on_the_direct_path),
        (overtaken_is_lost, on_the_direct_path),
        (torn_is_nothing, on_a_relayed_path),
        (nobody_reports, on_a_relayed_path),
        (searches_are_loss, on_a_relayed_path),
        (paths_are_one, while_the_path_changes),
        (old_reports_count, while_the_path_changes),
        (no_room_for_the_tag, while_the_road_narrows),
    ],
    ids=lambda what: what.__name__,
)
def test_a_planted_bug_fails_a_spell(
    plant: Plant, kind: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError):  # noqa: PT012  # whichever seed shows it
        for seed in range(1, 13):
            mesh = joined(seed)
            kind(mesh, *mesh.hosts[:2])

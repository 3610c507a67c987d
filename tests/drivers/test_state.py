"""facts.json: what is there and wrong is refused, what cannot be written stops nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.connection.maker import Target
from mesh.errors import OperatorError
from mesh.names import ShortID
from weaver.daemon.state import StateDir

TARGETS = (Target("10.0.0.1"), Target("peer.example", 99))


def refused(path: Path) -> str:
    with pytest.raises(OperatorError) as caught:
        StateDir(path)
    return caught.value.reason


def test_what_was_saved_is_there_after_a_restart(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.save_targets(TARGETS)
    state.save_short_id(ShortID(7))
    state.close()
    again = StateDir(tmp_path)
    assert (again.targets, again.short_id) == (TARGETS, 7)
    again.close()


def test_one_daemon_a_directory(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    assert refused(tmp_path) == "state-in-use"
    state.close()
    StateDir(tmp_path).close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "state-corrupt"),
        ("{", "state-corrupt"),
        ("[1]", "state-corrupt"),
        ("[" * 100_000, "state-corrupt"),
        ('{"version": 2}', "state-version"),
        ('{"version": "1"}', "state-version"),
    ],
    ids=["empty", "torn", "no object", "deep", "foreign version", "no version"],
)
def test_what_is_wrong_is_refused_and_left_alone(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "facts.json").write_text(text)
    assert refused(tmp_path) == reason
    assert (tmp_path / "facts.json").read_text() == text
    (tmp_path / "facts.json").unlink()
    StateDir(tmp_path).close()


def test_octets_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_bytes(b"\xff\xfe\x00")
    assert refused(tmp_path) == "state-corrupt"


@pytest.mark.parametrize("targets", ["x", [["a"]], [["a", "b"]], [[1, 2, 3]], [["", 0]], [{}]])
def test_bad_targets_are_refused(tmp_path: Path, targets: object) -> None:
    (tmp_path / "facts.json").write_text(json.dumps({"targets": targets}))
    state = StateDir(tmp_path)
    with pytest.raises(OperatorError) as caught:
        _ = state.targets
    assert caught.value.reason == "state-corrupt"
    state.close()


@pytest.mark.parametrize("short_id", [0, 4096, -1, "7", None, [], 1.5, True])
def test_a_bad_short_id_is_none(tmp_path: Path, short_id: object) -> None:
    (tmp_path / "facts.json").write_text(json.dumps({"short_id": short_id}))
    state = StateDir(tmp_path)
    assert state.short_id is None
    state.close()


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == "state-unwritable"
    assert refused(tmp_path / "file" / "below") == "state-unwritable"


def test_what_cannot_be_written_stops_nobody_and_is_tried_again(tmp_path: Path) -> None:
    """A directory lies where the new file would: as good as a full disk."""
    state = StateDir(tmp_path)
    (tmp_path / "facts.json.new").mkdir()
    state.save_targets(TARGETS)
    assert state.fault is not None
    assert not (tmp_path / "facts.json").exists()
    (tmp_path / "facts.json.new").rmdir()
    state.save_targets(TARGETS)
    assert state.fault is None
    state.close()
    again = StateDir(tmp_path)
    assert again.targets == TARGETS
    again.close()

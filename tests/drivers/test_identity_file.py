"""protocol.md 1.1: the identity's file."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mesh.drivers import identity_file
from mesh.drivers.identity_file import load_identity
from mesh.errors import OperatorError


def reason_of(path: Path) -> str:
    with pytest.raises(OperatorError) as caught:
        load_identity(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity"
    first = load_identity(path)
    assert load_identity(path).name == first.name
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_size == 32
    assert os.listdir(path.parent) == ["identity"]
    path.unlink()
    assert load_identity(path).name != first.name


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity"
    name = load_identity(path).name
    path.chmod(mode)
    assert reason_of(path) == "identity-mode"
    path.chmod(0o600)
    assert load_identity(path).name == name


@pytest.mark.parametrize("size", [0, 31, 33, 4096])
def test_a_file_of_another_size_is_refused_and_left_alone(tmp_path: Path, size: int) -> None:
    path = tmp_path / "identity"
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    assert reason_of(path) == "identity-size"
    assert path.read_bytes() == b"x" * size


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.mkdir(mode=0o700)
    assert reason_of(path) == "identity-unreadable"
    path.rmdir()
    os.mkfifo(path, 0o600)
    assert reason_of(path) == "identity-unreadable"
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert reason_of(path) == "identity-unreadable"
    path.unlink()
    assert load_identity(path).name == load_identity(path).name


def test_a_state_directory_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert reason_of(tmp_path / "file" / "identity") == "identity-unreadable"
    assert reason_of(Path("/proc/nowhere/identity")) == "identity-unwritable"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    path = tmp_path / "identity"
    assert reason_of(path) == "identity-unwritable"
    assert os.listdir(tmp_path) == []
    monkeypatch.undo()
    assert load_identity(path).name == load_identity(path).name


def test_a_partial_file_of_a_crash_is_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    (tmp_path / f".identity.{os.getpid()}").write_bytes(b"half")
    name = load_identity(path).name
    assert load_identity(path).name == name
    assert os.listdir(tmp_path) == ["identity"]


def test_the_first_of_two_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both processes saw no file: the second takes what the first wrote."""
    path = tmp_path / "identity"
    first = load_identity(path)
    real = identity_file._read
    answers = [None]
    monkeypatch.setattr(
        identity_file, "_read", lambda where: answers.pop() if answers else real(where)
    )
    assert load_identity(path).name == first.name
    assert os.listdir(tmp_path) == ["identity"]


def test_reading_by_many_at_once(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    name = load_identity(path).name
    with ThreadPoolExecutor(4) as pool:
        assert {i.name for i in pool.map(load_identity, [path] * 16)} == {name}

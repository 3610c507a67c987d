"""The command line without a daemon: help, usage, exit codes, lightness."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.wire.cipher import Cipher
from weaver.cli.launch import config_of
from weaver.cli.main import COMMANDS, main
from weaver.cli.parser import parser
from weaver.cli.reset import remove_state

COMMAND_NAMES = [*COMMANDS, "launch", "setup-cni"]


def weaver(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weaver", *args]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize("command", COMMAND_NAMES)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parser().parse_args([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert all(command in shown for command in [*COMMAND_NAMES, "lab"])


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom weaver.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'asyncio', 'aiohttp', 'pyroute2', 'cryptography', 'ssl'} & set(sys.modules)\n"
        "sys.exit(','.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["launch", "--range", "10.0.0.0/33"],
        ["launch", "--range", "fd00::/129"],
        ["launch", "--mtu", "70"],
        ["launch", "--port", "0"],
        ["launch", "--port", "70000"],
        ["launch", "not an address"],
        ["launch", "[::1"],
        ["launch", "--nickname", "a\nb"],
        ["launch", "--conn-limit", "0"],
        ["launch", "--liveness-timeout", "0"],
        ["launch", "--seed", "--observer"],
        ["launch", "--http", "nowhere:99999"],
        ["launch", "--password", "a", "--password-file", "/b"],
        ["launch", "--password", ""],
        ["launch", "--http", "0.0.0.0:6784"],
        ["launch", "--http", "6784"],
        ["launch", "--http", "example.net:6784"],
        ["launch", "--range", "0.0.0.0/0"],
        ["launch", "--range", "127.0.0.0/8"],
        ["launch", "--range", "224.0.0.0/8"],
        ["launch", "--range", "fe80::/64"],
        ["launch", "1.2.3"],
        ["launch", "300.1.1.1"],
        ["launch", "0.0.0.0"],
        ["launch", "224.0.0.1"],
        ["launch", "alpha:"],
        ["launch", "--run-dir", "/run/" + "a" * 120],
        ["launch", "--sleeve-port", "6786"],
        ["launch", "--ipam-rest", "-1"],
        ["launch", "--ipam-rest", "86401"],
        ["launch", "--ipam-rest", "nan"],
        ["launch", "--ipam-rest", "inf"],
        ["launch", "--ipam-exclude", "10.32.0.9-10.32.0.1"],
        ["launch", "--ipam-exclude", "10.32.0.1,nonsense"],
        ["launch", "--ipam-exclude", "192.0.2.1"],
        ["launch", "--ipam-exclude", "fd00::1"],
        ["launch", "--range", "10.32.0.0/12,10.40.0.0/16"],
        ["launch", "--range", "10.32.0.0/12,"],
        ["launch", "--range", ",".join(f"10.{n}.0.0/16" for n in range(9))],
        ["launch", "--range", "10.32.0.0/12,fd00:32::/64", "--mtu", "1279"],
    ],
    ids=" ".join,
)
def test_wrong_flags_are_one_line_with_a_reason(
    args: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("weaver: ")
    assert lines[0].endswith(")")


@pytest.mark.parametrize(
    ("args", "cipher"),
    [
        ([], None),
        (["--cipher", "auto"], None),
        (["--cipher=aes-256-gcm"], Cipher.AES_256_GCM),
        (["--cipher=chacha20-poly1305"], Cipher.CHACHA20_POLY1305),
    ],
    ids=str,
)
def test_the_cipher_that_is_asked_for(args: list[str], cipher: Cipher | None) -> None:
    """protocol.md 5.6"""
    assert config_of(parser().parse_args(["launch", *args])).cipher is cipher


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["nonsense"],
        ["status", "nonsense"],
        ["attach"],
        ["ipam"],
        ["launch", "--cipher", "rot13"],
        ["launch", "--cipher", ""],
    ],
)
def test_usage_errors_exit_2(args: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(args)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    "args",
    [["status"], ["ps"], ["connect", "10.0.0.1"], ["ipam", "list"], ["report"], ["stop"]],
    ids=" ".join,
)
def test_no_daemon_is_3(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--socket", "/nonexistent/weaver.sock", *args]) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("args", [["--help"], ["version", "--json"], ["lab", "--help"]])
def test_a_full_disk_is_one_line(args: list[str]) -> None:
    command = [sys.executable, "-m", "weaver", "--socket=/nonexistent/weaver.sock", *args]
    if args[0] == "lab":
        command.pop(3)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "weaver: No space left on device\n")


def test_version_works_without_a_daemon() -> None:
    done = weaver("--socket", "/nonexistent/weaver.sock", "version", "--json")
    assert done.returncode == 0
    assert '"daemon": null' in done.stdout


def test_reset_without_anything_is_fine(tmp_path: object) -> None:
    done = weaver("--socket", "/nonexistent/x", "reset", "--state-dir", f"{tmp_path}/none")
    assert (done.returncode, done.stdout) == (0, "nothing to reset\n")


def test_reset_of_a_dead_daemon_elsewhere_leaves_the_default_state_alone() -> None:
    done = weaver("--socket", "/nonexistent/x", "reset")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--state-dir (no-daemon)" in done.stderr


def test_reset_removes_its_own_files_and_no_others(tmp_path: Path) -> None:
    ours = ("identity", "facts.json", "ipam.db", "ipam.db-wal", "api-token", "lock")
    for name in (*ours, "lockfile", "identity.backup"):
        (tmp_path / name).touch()
    assert not remove_state(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity.backup", "lockfile"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert remove_state(tmp_path)
    assert not tmp_path.exists()


def test_a_lab_takes_no_socket(capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["status"], ["up", "--hosts", "3"]):
        assert main(["--socket", "/x", "lab", *more]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_empty_password_is_no_password_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEAVER_PASSWORD", "")
    assert main(["launch"]) == 2

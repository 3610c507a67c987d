"""The command line without a daemon: help, usage, exit codes, lightness."""

from __future__ import annotations

import subprocess
import sys

import pytest

from weaver.cli.main import COMMANDS, main, parser

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


@pytest.mark.parametrize("args", [[], ["nonsense"], ["status", "nonsense"], ["attach"], ["ipam"]])
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


def test_version_works_without_a_daemon() -> None:
    done = weaver("--socket", "/nonexistent/weaver.sock", "version", "--json")
    assert done.returncode == 0
    assert '"daemon": null' in done.stdout


def test_reset_without_anything_is_fine(tmp_path: object) -> None:
    done = weaver("--socket", "/nonexistent/x", "reset", "--state-dir", f"{tmp_path}/none")
    assert (done.returncode, done.stdout) == (
        0,
        "handing the address space over …\nnothing to reset\n",
    )

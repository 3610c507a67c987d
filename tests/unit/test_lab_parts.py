"""The lab's parts that need neither root nor daemons: book, processes, waiting, captures."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mesh.errors import OperatorError
from weaver.lab import commands, interrupts
from weaver.lab.book import Book, locked
from weaver.lab.capture import Tap, holds
from weaver.lab.commands import status_text
from weaver.lab.plan import Order, Shape
from weaver.lab.processes import Process, kill, spawn, with_children
from weaver.lab.waiting import NotYetError, wait_until

# ---- the book


def test_a_book_is_read_as_it_was_written(tmp_path: Path) -> None:
    book = Book(
        Order("lab2", 4, Shape.RING, 2, (("h1", "h2"),), 1280),
        password_file="/a/password",
        daemons={"h1": Process(17, 4711)},
        cuts=[("h2", "h3")],
        options=("--range=10.0.0.0/16",),
    )
    book.write(tmp_path)
    assert Book.read(tmp_path) == book
    assert [path.name for path in tmp_path.iterdir()] == ["lab.json"]


def test_no_book_is_no_lab(tmp_path: Path) -> None:
    assert Book.read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"order": {"name": "x"}}', '{"order": 7}'])
def test_a_spoilt_book_says_how_to_go_on(tmp_path: Path, text: str) -> None:
    (tmp_path / "lab.json").write_text(text)
    with pytest.raises(OperatorError, match="weaver lab down"):
        Book.read(tmp_path)
    Book(Order()).write(tmp_path)
    assert Book.read(tmp_path) == Book(Order())


def test_one_command_at_a_time(tmp_path: Path) -> None:
    base, order = tmp_path / "labs", []

    def second() -> None:
        with locked(base, "lab"):
            order.append("second")

    with locked(base, "lab"):
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        order.append("first")
    other.join(5)
    assert order == ["first", "second"]
    assert not base.exists(), "an empty base is left behind"


def test_the_lock_of_a_lab_that_stands_stays(tmp_path: Path) -> None:
    with locked(tmp_path, "lab"):
        (tmp_path / "lab").mkdir()
    assert (tmp_path / "lab.lock").exists()


# ---- processes


def sleeper(log: Path, code: str = "import time; time.sleep(60)") -> Process:
    return spawn([sys.executable, "-c", code], os.environ, log)


def test_a_process_is_killed_with_its_children_and_nobody_else(tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()"
    )
    log = tmp_path / "log"
    family, bystander = sleeper(log, parent), sleeper(tmp_path / "other")
    try:
        wait_until(
            "the child", lambda: [] if log.read_text() else ["its number"], time.monotonic() + 10
        )
        child = Process.of(int(log.read_text()))
        assert child is not None
        assert set(with_children(family)) == {family, child}
        kill(with_children(family))
        assert not family.is_alive
        assert not child.is_alive
        assert bystander.is_alive
    finally:
        kill([bystander])
    assert with_children(family) == []


def test_a_number_used_again_is_another_process() -> None:
    us = Process.of(os.getpid())
    assert us is not None
    assert us.is_alive
    earlier = Process(us.pid, us.started - 1)
    assert not earlier.is_alive
    kill([earlier])  # would end this test run if it went by the number alone


def test_no_such_process() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert Process.of(done.pid) is None


# ---- waiting


def test_waiting_ends_when_nothing_is_missing() -> None:
    left = ["a", "b"]

    def missing() -> list[str]:
        left.pop()
        return left

    wait_until("letters", missing, time.monotonic() + 5, poll=0)
    assert left == []


def test_a_deadline_names_what_is_missing_but_not_all_of_many() -> None:
    with pytest.raises(NotYetError, match=r"hosts: after 0 s still missing: h0, .*h7 and 12 more"):
        wait_until("hosts", lambda: [f"h{n}" for n in range(20)], time.monotonic())


# ---- captures


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 5, (1 << 20) - 1, 1 << 20, (1 << 20) + 3])
def test_a_marker_is_found_wherever_it_lies(tmp_path: Path, before: int) -> None:
    tap = Tap("ns", "eth0", tmp_path / "x.pcap")
    tap.file.write_bytes(b"." * before + b"marker" + b"." * 10)
    assert holds(tap, b"marker")
    assert not holds(tap, b"markex")


# ---- the command line


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["up", "--hosts", "0"], 2, "0 hosts"),
        (["up", "--name", "no-dash"], 2, "cannot name a lab"),
        (["up", "--deny", "h1"], 2, "h1:h5"),
        (["up", "--hosts", "2", "--topology", "chain", "--deny", "h1:h2"], 2, "falls apart"),
        (["up", "--timeout", "nan"], 2, "above 0"),
        (["up", "--timeout", "0"], 2, "above 0"),
        (["up", "--password", ""], 2, "--password is empty"),
        (["status", "--name", "nosuchlab"], 1, "no lab nosuchlab is up"),
        (["start", "--name", "nosuchlab", "all"], 1, "no lab nosuchlab is up"),
        (["exec", "--name", "nosuchlab", "h1", "--", "true"], 1, "no lab nosuchlab is up"),
    ],
)
def test_refusals_are_one_line_and_a_code(
    argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.main(argv) == code
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 1


def test_the_second_ctrl_c_interrupts_nothing_and_after_it_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    cleared = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            cleared.append("all")

    with interrupts.ended_once(), pytest.raises(KeyboardInterrupt):
        work()
    assert cleared == ["all"]
    assert signal.getsignal(signal.SIGINT) is before


def test_what_is_undisturbed_is_so_for_its_tools_too() -> None:
    with interrupts.undisturbed():
        os.kill(os.getpid(), signal.SIGHUP)
        done = subprocess.run(
            ["sh", "-c", "kill -INT $$; echo alive"], capture_output=True, check=False
        )
    assert done.stdout == b"alive\n"


@pytest.mark.parametrize("argv", [[], ["fly"], ["up", "--topology", "cube"], ["cut", "h1"]])
def test_usage_is_exit_code_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        commands.main(argv)
    assert caught.value.code == 2


def test_status_as_text_shows_every_pod_and_every_cut() -> None:
    def host(name: str, *pods: str) -> dict[str, object]:
        return {
            "name": name,
            "state": "ready",
            "underlay": "172.31.0.1",
            "neighbours": ["h2"],
            "pods": [{"name": pod, "addresses": ["10.32.0.1"]} for pod in pods],
        }

    text = status_text(
        {"hosts": [host("h1", "h1-p1", "h1-p2"), host("h2")], "cuts": [["h1", "h2"]]}
    )
    assert text.splitlines()[-1] == "cut: h1 - h2"
    assert "h1-p1" in text
    assert "h1-p2" in text
    assert [line.split()[0] for line in text.splitlines()] == ["HOST", "h1", "h1", "h2", "cut:"]

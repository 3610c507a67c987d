"""The two CNI executables, of C and of Python: the same octets to the daemon, and from it.

The daemon is one of our own here, good or bad; what a real one answers is tried in tests/netns.
"""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import cni
from mesh.errors import OperatorError
from weaver.cni.install import PLUGINS, executable, install, native_executable, remove

KINDS = ("native", "python")
POD = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/run/netns/x"}
GOOD = b'{"cniVersion": "0.4.0", "name": "n"}'


@dataclass
class Machine:
    """A directory with both executables; nobody listens on their socket unless a test does."""

    place: Path

    @property
    def socket(self) -> Path:
        return self.place / "run/cni.sock"

    def run(
        self, kind: str, stdin: bytes = GOOD, /, plugin: str = "weaver-net", **environ: str
    ) -> subprocess.CompletedProcess[bytes]:
        command = [self.place / kind / plugin]
        return subprocess.run(
            command, input=stdin, env=environ, capture_output=True, timeout=30, check=False
        )

    def spooled(self) -> dict[str, bytes]:
        there = self.place / "run/cni-del"
        return {file.name: file.read_bytes() for file in there.iterdir()} if there.exists() else {}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory(prefix="wx-") as place:
        made = Machine(Path(place))
        install(made.place / "native", None, made.socket, native=True)
        install(made.place / "python", None, made.socket)
        yield made


@pytest.fixture(autouse=True)
def emptied(machine: Machine) -> None:
    """A directory for the socket, and nothing in it."""
    subprocess.run(["rm", "-rf", machine.place / "run"], check=True)
    (machine.place / "run").mkdir()


class Server:
    """Takes one call: reads all of it (or, if it is rude, nothing), and answers."""

    def __init__(self, machine: Machine, answer: bytes, *, rude: bool = False) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(machine.socket))
        self._listener.listen()
        self._answer, self._rude = answer, rude
        self.heard = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        end, _ = self._listener.accept()
        with end:
            if not self._rude:
                self.heard = _exactly(end, 8)
                sizes = [int.from_bytes(self.heard[n : n + 4], "big") for n in (0, 4)]
                self.heard += _exactly(end, sum(sizes))
            end.sendall(self._answer)

    def close(self, machine: Machine) -> None:
        self._thread.join(30)
        self._listener.close()
        machine.socket.unlink()


def _exactly(end: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = end.recv(size - len(data))
        assert piece
        data += piece
    return data


def test_they_are_what_they_are_called(machine: Machine) -> None:
    for plugin in PLUGINS:
        assert (machine.place / "native" / plugin).read_bytes()[:4] == b"\x7fELF"
        assert (machine.place / "python" / plugin).read_bytes()[:2] == b"#!"
        for kind in KINDS:
            done = machine.run(kind, plugin=plugin)
            assert (done.returncode, done.stdout) == (0, b"")
            assert plugin.encode() in done.stderr
            assert str(machine.socket).encode() in done.stderr
            assert b"0.3.1, 0.4.0, 1.0.0, 1.1.0" in done.stderr


@pytest.mark.parametrize("answer", [b"\0", b"\0{}", b"\1{}", b"\0" + b"x" * 1_000_000])
def test_both_say_the_same_and_print_what_they_are_told(machine: Machine, answer: bytes) -> None:
    heard, printed = [], []
    stdin = GOOD + b" " * 300_000
    for kind in KINDS:
        server = Server(machine, answer)
        done = machine.run(kind, stdin, CNI_COMMAND="ADD", CNI_ARGS="A=b\nc", OTHER="x", **POD)
        server.close(machine)
        heard.append(server.heard)
        printed.append((done.returncode, done.stdout, done.stderr))
    assert printed == [(answer[0], answer[1:], b"")] * 2
    assert heard[0] == heard[1]
    assert heard[0].endswith(stdin)
    head = heard[0][8 : -len(stdin)].split(b"\n")
    assert head[0] == b"PLUGIN=weaver-net"
    assert b"CNI_ARGS=A=b c" in head
    assert len(head) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_who_answers_without_listening_is_heard(machine: Machine, kind: str) -> None:
    """Too many calls at once, for instance: that is said to whoever is still speaking."""
    server = Server(machine, b"\1{}", rude=True)
    done = machine.run(kind, GOOD + b" " * 1_000_000, CNI_COMMAND="ADD", **POD)
    server.close(machine)
    assert (done.returncode, done.stdout) == (1, b"{}")


@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_that_dies_in_a_call_is_down(machine: Machine, kind: str) -> None:
    server = Server(machine, b"")
    done = machine.run(kind, CNI_COMMAND="DEL", **POD)
    server.close(machine)
    assert (done.returncode, done.stdout) == (0, b"")
    assert list(machine.spooled()) == ["c1,eth0"]


@pytest.mark.parametrize("leftover", [False, True])
@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC", "STATUS", "VERSION", "NONSENSE"])
def test_without_a_daemon(machine: Machine, command: str, leftover: bool) -> None:
    if leftover:  # a socket that nobody listens on any more
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(machine.socket))
    native, python = (machine.run(kind, CNI_COMMAND=command, **POD) for kind in KINDS)
    assert (native.returncode, native.stdout) == (python.returncode, python.stdout)
    assert b'"cniVersion":"0.4.0"' in native.stdout
    expected = {"VERSION": b"supportedVersions", "STATUS": b'"code":50,'}.get(command)
    assert (expected or b'"code":11,') in native.stdout
    assert native.returncode == (0 if command == "VERSION" else 1)
    assert machine.spooled() == {}


def test_a_del_without_a_daemon_is_left_for_it(machine: Machine) -> None:
    left = []
    for kind in KINDS:
        done = machine.run(kind, CNI_COMMAND="DEL", **POD)
        assert (done.returncode, done.stdout) == (0, b"")
        left.append(machine.spooled())
        for name in left[-1]:
            (machine.place / "run/cni-del" / name).unlink()
    assert left[0] == left[1]
    assert list(left[0]) == ["c1,eth0"]


@pytest.mark.parametrize(
    "names",
    [
        {"CNI_CONTAINERID": "../../x"},
        {"CNI_CONTAINERID": "."},
        {"CNI_CONTAINERID": ",x"},
        {"CNI_CONTAINERID": ""},
        {"CNI_IFNAME": "a/b"},
        {"CNI_CONTAINERID": "x" * 251},
    ],
)
def test_a_del_that_cannot_be_left(machine: Machine, names: dict[str, str]) -> None:
    native, python = (machine.run(k, CNI_COMMAND="DEL", **{**POD, **names}) for k in KINDS)
    assert (native.returncode, native.stdout) == (python.returncode, python.stdout)
    assert b'"code":11' in native.stdout
    assert b"a name that cannot be recorded" in native.stdout
    assert machine.spooled() == {}


def test_a_del_whose_place_is_missing_or_full(machine: Machine) -> None:
    (machine.place / "run").rmdir()
    gone = [machine.run(kind, CNI_COMMAND="DEL", **POD) for kind in KINDS]
    assert gone[0].stdout == gone[1].stdout
    assert b"No such file or directory" in gone[0].stdout
    there = machine.place / "run/cni-del"
    there.mkdir(parents=True)
    for n in range(4096):
        (there / f"c{n},x").touch()
    full = [machine.run(kind, CNI_COMMAND="DEL", **POD) for kind in KINDS]
    assert full[0].stdout == full[1].stdout
    assert b"too much is recorded already" in full[0].stdout
    assert {done.returncode for done in (*gone, *full)} == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_too_much_is_refused(machine: Machine, kind: str) -> None:
    stdin = machine.run(kind, b" " * (2 << 20), CNI_COMMAND="ADD", **POD)
    assert b'"code":6,"msg":"a configuration of more than 1048576 octets"' in stdin.stdout
    much = {f"CNI_{n}": "x" * 60_000 for n in range(2)}
    environ = machine.run(kind, CNI_COMMAND="ADD", **POD, **much)
    assert b'"code":4,"msg":"an environment of more than 65536 octets"' in environ.stdout
    assert (stdin.returncode, environ.returncode) == (1, 1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    st.lists(
        st.sampled_from([
            b'"cniVersion"', b'"1.0.0"', b'"0.3.1"', b'"9"', b":", b" ", b"\n", b"\0", b'"', b"{",
            b"\xff",
        ]),
        max_size=9,
    )
)  # fmt: skip
@example([b'"cniVersion"', b" ", b":", b"\n", b'"0.3.1"'])
@example([b'"cniVersion"', b":", b'"0.3.1'])
@example([b'"cniVersion"', b":", b":", b'"0.3.1"'])
@example([b" " * 65530, b'"cniVersion"', b":", b'"0.3.1"'])
def test_a_version_is_made_out_alike(machine: Machine, pieces: list[bytes]) -> None:
    stdin = b"".join(pieces)
    native, python = (machine.run(kind, stdin, CNI_COMMAND="VERSION") for kind in KINDS)
    assert (native.returncode, native.stdout) == (python.returncode, python.stdout)


def test_what_was_installed_is_removed_and_nothing_else(machine: Machine, tmp_path: Path) -> None:
    for native in (False, True):
        install(tmp_path, None, machine.socket, native=native)
        assert len(remove(tmp_path, tmp_path)) == 2
        assert list(tmp_path.iterdir()) == []
    other = tmp_path / "weaver-net"
    other.write_bytes(b"\x7fELF of somebody else's")
    assert remove(tmp_path, tmp_path) == [f"kept {other}: weaver did not write it as it is"]


def test_a_socket_of_any_length_that_the_kernel_takes() -> None:
    longest = Path("/" + "s" * 106)
    for made in (executable, native_executable):
        assert os.fsencode(longest) in made("weaver-ipam", longest)
        with pytest.raises(OperatorError) as caught:
            made("weaver-ipam", Path(f"{longest}x"))
        assert caught.value.reason == "cannot-install"


@pytest.mark.parametrize("there", [None, b"", b"\x7fELF of another machine", b"#!/bin/false\n"])
def test_where_none_was_built_for_this_machine(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bytes | None
) -> None:
    """It is said, and nothing is written; those of Python are installed as ever."""
    monkeypatch.setattr("platform.machine", lambda: "weaver-test")
    shim = Path(cni.__file__).parent / "shim-weaver-test"
    try:
        if there is not None:
            shim.write_bytes(there)
            shim.chmod(0o755)
        with pytest.raises(OperatorError) as caught:
            install(tmp_path / "bin", None, machine.socket, native=True)
    finally:
        shim.unlink(missing_ok=True)
    assert caught.value.reason == "no-native-executable"
    assert "weaver-test" in str(caught.value)
    assert not (tmp_path / "bin").exists()
    install(tmp_path / "bin", None, machine.socket)
    assert (tmp_path / "bin/weaver-net").read_bytes().startswith(b"#!")

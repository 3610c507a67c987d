"""The benches' small C programs, and the boards they share words with.

What makes and counts traffic must cost as little as it can: the programs measured run on the same
processors. They are built by the machine's own compiler when they are first needed.
"""

from __future__ import annotations

import mmap
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
READY = 0
"""The word by which a program says that it is."""

WITHIN = 20.0
"""Seconds until a program must be ready."""


@cache
def _workshop() -> TemporaryDirectory[str]:
    """Where programs and boards are; it goes when the interpreter does."""
    return TemporaryDirectory(prefix="bench-native")


@cache
def program(name: str) -> Path:
    """The program built of ``name``.c."""
    target = Path(_workshop().name) / name
    command = ["gcc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread",
               "-o", str(target), str(HERE / f"{name}.c")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{name}.c does not build: {done.stderr.strip()}")
    return target


class Board:
    """64-bit words in a file that this process and C programs have mapped."""

    _made = 0

    def __init__(self, words: int) -> None:
        Board._made += 1
        self.path = Path(_workshop().name) / f"board{Board._made}"
        self.path.write_bytes(bytes(8 * words))
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * words)
        self._words = memoryview(self._map).cast("Q")

    def __getitem__(self, word: int) -> int:
        return self._words[word]

    def __setitem__(self, word: int, value: int) -> None:
        self._words[word] = value

    def slice(self, first: int, count: int) -> list[int]:
        return self._words[first : first + count].tolist()

    def close(self) -> None:
        self._words.release()
        self._map.close()
        self.path.unlink(missing_ok=True)


def namespace_path(namespace: str) -> str:
    return f"/run/netns/{namespace}"


class Running:
    """One of the programs with a board of its own; a context manager that ends it."""

    def __init__(self, name: str, namespace: str, words: int, *rest: str) -> None:
        self.name = name
        self.board = Board(words)
        self._command = [str(program(name)), namespace_path(namespace), str(self.board.path), *rest]
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> Running:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: self.board[READY] != 0 or self.died, WITHIN, self._command[0])
            if self.died:
                _, said = self._process.communicate()
                raise RuntimeError(f"{' '.join(self._command)}: {said.strip()}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
        self.board.close()

    @property
    def died(self) -> bool:
        return self._process is None or self._process.poll() is not None


def wait_for(happened: Callable[[], bool], within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:g} s")
        time.sleep(0.002)

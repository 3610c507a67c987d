"""Waiting with a deadline, and telling the person at the terminal what for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mesh.errors import WeaverError

POLL = 0.05
"""Seconds between two looks."""

LISTED = 8
"""Of what is missing, how many are named."""


class NotYetError(WeaverError):
    """The deadline passed; the message says what was still missing."""

    reason = "lab-timeout"


class Progress:
    """Steps with their durations. ``quiet`` keeps a test's output short."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def say(self, text: str) -> None:
        if not self._quiet:
            print(text, flush=True)

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce a step, and when it is over, how long it took."""
        began = time.monotonic()
        on_terminal = sys.stdout.isatty()
        if not self._quiet and on_terminal:
            print(f"  {text} …", end="", flush=True)
        yield
        took = f"{time.monotonic() - began:.1f} s"
        self.say(f"\r  {text}: {took}   " if on_terminal else f"  {text}: {took}")


def wait_until(
    what: str, missing: Callable[[], Sequence[str]], deadline: float, poll: float = POLL
) -> None:
    """Return when nothing is missing any more. Raises NotYetError at the deadline."""
    began = time.monotonic()
    while True:
        lacking = missing()
        if not lacking:
            return
        if time.monotonic() >= deadline:
            named = ", ".join(lacking[:LISTED])
            more = f" and {len(lacking) - LISTED} more" if len(lacking) > LISTED else ""
            waited = time.monotonic() - began
            raise NotYetError(f"{what}: after {waited:.0f} s still missing: {named}{more}")
        time.sleep(poll)

"""Ctrl-C, SIGTERM and SIGHUP: the first one ends what is being done, none ends the clearing up.

Whoever sees no answer within a second presses Ctrl-C again, and a terminal sends it to the tools we
run as well. Ignoring is inherited, so `ip` and its like come to their end too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_once() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt inside, later ones nothing."""
    with _handled(_first):
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Nothing interrupts what is done inside; a signal that comes meanwhile is lost."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's: there is nothing to keep away
        return
    with _handled(signal.SIG_IGN):
        yield


def _first(number: int, _: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


@contextmanager
def _handled(how: Callable[[int, FrameType | None], None] | signal.Handlers) -> Iterator[None]:
    before = {number: signal.signal(number, how) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def as_at_birth() -> None:
    """What a command that replaces us expects; Python has made itself deaf to SIGPIPE."""
    for number in (*SIGNALS, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)

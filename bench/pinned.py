"""A sleeve worker whose records keep one size: ``PIN`` datagrams, whatever its peers report.

What adaptation is measured against (``bench.loss``); run like ``mesh.drivers.sleeve``.
"""

from __future__ import annotations

import os
import sys

from mesh.clock import Instant
from mesh.drivers.sleeve.__main__ import main
from mesh.link.recordsize import RecordSize

DATAGRAMS = int(os.environ.get("PIN", "1"))


def _pinned(size: RecordSize, now: Instant) -> None:
    datagrams = min(DATAGRAMS, size._most)
    size._set(datagrams, datagrams)


def _start(size: RecordSize) -> None:
    _begin(size)
    _pinned(size, Instant(0.0))


_begin = RecordSize._start

if __name__ == "__main__":
    RecordSize._start = _start  # type: ignore[method-assign,assignment]
    RecordSize._decide = _pinned  # type: ignore[method-assign,assignment]
    sys.exit(main())

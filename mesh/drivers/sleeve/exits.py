"""What the worker's exit code says to ``mesh.drivers.worker``."""

from __future__ import annotations

EXIT_TAP_GONE = 3
"""The TAP device is no more: only the daemon can make another."""

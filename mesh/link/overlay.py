"""What carries frames to a peer."""

from __future__ import annotations

from enum import StrEnum


class Overlay(StrEnum):
    SLEEVE = "sleeve"

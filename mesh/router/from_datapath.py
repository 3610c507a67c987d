"""What the kernel's fast path tells the router."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.link.datapath import Tables
from mesh.names import ShortID


@dataclass(frozen=True, slots=True)
class DatapathStarted:
    """There is a fast path in the kernel, and it does already what these tables say."""

    tables: Tables


@dataclass(frozen=True, slots=True)
class DatapathLost:
    """There is none, or none any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class ControlReceived:
    """A control frame of the peer with this short ID."""

    source: ShortID
    payload: bytes


@dataclass(frozen=True, slots=True)
class ReportReceived:
    """A pod of ours said which groups it listens to."""

    frame: bytes


FromDatapath = DatapathStarted | DatapathLost | ControlReceived | ReportReceived

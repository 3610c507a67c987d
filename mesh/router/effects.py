"""What a router asks its driver to do: the whole of its influence on the world."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.connection.maker import Target
from mesh.effects import Arm, Notify
from mesh.link.datapath import Config, Tables
from mesh.names import Endpoint, ShortID
from mesh.router.events import RouterEvent
from mesh.wire.worker import ToWorker


@dataclass(frozen=True, slots=True)
class Dial:
    """Open a TCP connection; answer ``dialled`` or ``dial_failed``. Resolve the name anew."""

    target: Target


@dataclass(frozen=True, slots=True)
class Write:
    conn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Close after what was written before; the driver reports nothing of it."""

    conn: int


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Send from the probe port; loss is nobody's fault."""

    endpoint: Endpoint
    data: bytes


@dataclass(frozen=True, slots=True)
class TellWorker:
    message: ToWorker


@dataclass(frozen=True, slots=True)
class ConfigureKernel:
    """Before anything else is told to the fast path, and again when it changes."""

    config: Config


@dataclass(frozen=True, slots=True)
class Steer:
    """Make the fast path's tables what ``wanted`` says; they are what ``have`` says."""

    have: Tables
    wanted: Tables


@dataclass(frozen=True, slots=True)
class ForgetLearned:
    """Drop what the fast path learned behind this short ID."""

    short_id: ShortID


@dataclass(frozen=True, slots=True)
class Deliver:
    """An Ethernet frame of our own for our pods."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class SendControl:
    """A control frame to a neighbour over the fast path; loss is nobody's fault."""

    short_id: ShortID
    payload: bytes


@dataclass(frozen=True, slots=True)
class PersistTargets:
    """Remember these over restarts: what the operator named and what discovery proved."""

    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class PersistShortID:
    """Try this short ID first at the next start."""

    short_id: ShortID


RouterEffect = (
    Dial
    | Write
    | CloseStream
    | SendDatagram
    | TellWorker
    | ConfigureKernel
    | Steer
    | ForgetLearned
    | SendControl
    | Deliver
    | PersistTargets
    | PersistShortID
    | Arm
    | Notify[RouterEvent]
)

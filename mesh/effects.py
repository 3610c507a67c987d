"""What a core asks its driver to do. Cores return effects; they never perform them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from mesh.clock import Instant

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Send:
    """Write these octets to the machine's own stream."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Arm:
    """Call ``handle_timer`` at ``deadline``; replaces any earlier deadline. None disarms."""

    deadline: Instant | None


@dataclass(frozen=True, slots=True)
class Notify(Generic[E]):
    """Something happened that the owner of this core wants to know."""

    event: E


@dataclass(frozen=True, slots=True)
class Close:
    """Close the machine's stream after what was sent before; ``reason`` is a stable word."""

    reason: str

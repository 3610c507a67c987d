"""Ask our pods which groups they listen to, and let the mesh know (docs/protocol.md 14.9).

Who drives it: ``mesh.router.fastdp``, while there is a fast path: it is the kernel that hands
reports up, and the kernel that makes use of what comes of them.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.link.snooping import Memberships
from mesh.router.effects import Deliver
from mesh.router.hub import Hub
from mesh.topology.attachments import Attachments


class Snooper:
    """Writes into our own ``attachments``; ``on_change`` whenever that is news."""

    def __init__(self, hub: Hub, attachments: Attachments, on_change: Callable[[], None]) -> None:
        self._hub, self._attachments, self._on_change = hub, attachments, on_change
        self._known: Memberships | None = None

    def start(self) -> None:
        """There is a fast path. What pods listen to is known when they had time to answer."""
        self._known = Memberships(self._hub.now)
        self._look()

    def stop(self) -> None:
        if self._known is not None:
            self._known = None
            self._hub.deadlines.set(("snoop",), None)
            self._tell(None)

    def heard(self, frame: bytes) -> None:
        if self._known is not None:
            self._known.heard(frame, self._hub.now)
            self._look()

    def handle_timer(self) -> None:
        self._look()

    def _look(self) -> None:
        hub, known = self._hub, self._known
        if known is None:
            return
        for query in known.tick(hub.now):
            hub.emit(Deliver(query))
        hub.deadlines.set(("snoop",), known.due)
        self._tell(known.groups(hub.now))

    def _tell(self, groups: frozenset[bytes] | None) -> None:
        if self._attachments.set_groups(groups):
            self._on_change()

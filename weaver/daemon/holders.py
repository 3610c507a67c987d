"""Who asked by CNI (``"mode": "host"``) for the host's own addresses, and whether others need them.

The host has one address of each range, however many ask. They go with the last of them, unless an
operator or a pod's default route wanted them as well: then they stay until ``weaver hide``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

Key = tuple[str, str]


class HolderStore(Protocol):
    """Raises StoreError when it cannot be written."""

    holders: dict[Key, str]


class Exposure(Protocol):
    """What makes and takes the address: the daemon's attacher."""

    @property
    def exposed(self) -> tuple[str, ...]: ...
    async def expose(self, asked: Collection[str] = ()) -> tuple[str, ...]: ...
    async def hide(self) -> tuple[str, ...]: ...


class Holders:
    """``add`` and ``drop`` are idempotent; what is said lasts over a restart."""

    def __init__(self, exposure: Exposure, store: HolderStore) -> None:
        self._exposure, self._store = exposure, store
        self._rows = store.holders

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    async def add(self, key: Key, network: str, asked: Collection[str]) -> tuple[str, ...]:
        """The host's addresses, from now on until ``drop``. Raises OperatorError."""
        if self._exposure.exposed and not self._rows:
            # It was there before anybody asked by CNI: whoever wanted it takes it back.
            self._remember({OTHERS: "", key: network})
        else:
            self._remember({**self._rows, key: network})
        try:
            return await self._exposure.expose(asked)
        except BaseException:
            await self.drop(key)
            raise

    async def drop(self, key: Key) -> None:
        if key not in self._rows:
            return
        left = {k: network for k, network in self._rows.items() if k != key}
        if not left:
            await self._exposure.hide()
        self._remember({} if left.keys() == {OTHERS} else left)

    def shared(self) -> None:
        """Somebody else relies on the address, too: it stays when the last holder has gone."""
        if self._rows and OTHERS not in self._rows:
            self._remember({**self._rows, OTHERS: ""})

    async def collect(self, network: str, valid: Collection[Key]) -> None:
        for key in [k for k, of in self._rows.items() if of == network and k != OTHERS]:
            if key not in valid:
                await self.drop(key)

    def _remember(self, rows: dict[Key, str]) -> None:
        self._store.holders = rows
        self._rows = rows


OTHERS = ("", "")
"""Instead of a container and an interface: an operator, or a pod's default route."""

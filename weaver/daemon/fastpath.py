"""The kernel's fast path as the daemon has it: opened, or taken away with all that is in it."""

from __future__ import annotations

from mesh.errors import OperatorError
from mesh.link.datapath import Datapath, DatapathError


def open_fastpath() -> Datapath:
    """Raises DatapathError. Imported when wanted: a host that has none needs nothing of it."""
    from mesh.drivers.fastdp.datapath import FastDatapath

    return FastDatapath()


def remove_fastpath() -> bool:
    """Delete devices, programs and tables of ours; whether there were any. Raises OperatorError."""
    from mesh.drivers.fastdp.devices import remove

    try:
        return remove()
    except DatapathError as err:
        raise OperatorError(str(err), err.reason) from err

"""What a daemon that is not there any more left on the machine: devices, and rules for NAT."""

from __future__ import annotations

import os
from pathlib import Path

from mesh.drivers.netlink import Netlink
from mesh.errors import OperatorError
from weaver.daemon.attach_store import AttachmentStore
from weaver.daemon.devices import FASTDP, TAP
from weaver.daemon.fastpath import remove_fastpath
from weaver.daemon.natrules import remove_all
from weaver.daemon.network import BRIDGE
from weaver.daemon.state import lock


def remove_devices(state: Path) -> list[str]:
    """Delete the bridge, the kernel's fast path and the pods' interfaces; their names.

    ``state``: the daemon's directory. Raises OperatorError: "state-in-use" when a daemon runs on
    it, "device-in-use" when one runs on another, "kernel-refused".
    """
    held = lock(state)
    nl = Netlink()
    try:
        if nl.link(TAP) is not None:  # it goes with the last process that holds it
            raise OperatorError(
                f"a weaver runs here, it holds {TAP}: name its --socket", "device-in-use"
            )
        removed = [name for name in (*_pods(state), BRIDGE) if nl.delete(name)]
        if remove_fastpath():
            removed.append(FASTDP)
        if removed:
            remove_all()
    except OSError as err:
        raise OperatorError(f"cannot remove devices: {err.strerror}", "kernel-refused") from err
    finally:
        nl.close()
        os.close(held)
    return removed


def _pods(state: Path) -> list[str]:
    """The host ends of pods; none when nobody wrote any down, or they cannot be read any more."""
    if not (state / "attachments.db").exists():
        return []
    try:
        store = AttachmentStore(state / "attachments.db")
    except OperatorError:
        return []
    try:
        return [row.host for row in store.load().values()]
    except OperatorError:
        return []
    finally:
        store.close()

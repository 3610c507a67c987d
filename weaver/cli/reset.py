"""``weaver reset``: leave nothing behind, and no address lost."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path

from mesh.errors import OperatorError
from weaver.client import DEFAULT_SOCKET, Client, NoDaemonError

STATE_DIR = "/var/lib/weaver"
STATE_FILES = ("identity", "facts.json", "ipam.db", "attachments.db", "api-token", "lock")
BESIDE = ("", ".new", "-wal", "-shm", "-journal")
"""What a file of ours may have beside it. Nothing else is removed: whoever names a wrong directory
loses nothing."""


def reset(args: argparse.Namespace, client: Client) -> int:
    """Hand over, stop, remove the state. Works with the daemon down, and says what that costs."""
    state: Path | None
    try:
        state = _online(args, client)
    except NoDaemonError:
        try:
            state = _offline(args, client)
        except OperatorError as err:
            print(f"weaver: {err} ({err.reason})", file=sys.stderr)
            return 1
    if state is None:
        print("nothing to reset")
        return 0
    _remove_run_dir(Path(client.path).parent)
    try:
        print(
            f"removed {state}" if remove_state(state) else f"kept {state}: it holds other files too"
        )
    except OSError as err:
        print(f"weaver: {err.filename}: {err.strerror} (state-unwritable)", file=sys.stderr)
        return 1
    return 0


def _online(args: argparse.Namespace, client: Client) -> Path:
    """The daemon hands over, takes its devices down and ends; its state directory."""
    client.get("/healthz")
    print("handing the address space over …", flush=True)
    done = client.post("/v1/reset", force=args.force)
    print("handed over" if done["handed_over"] else "nobody to hand over to")
    if not client.wait_until_gone():
        print("weaver: the daemon has not ended yet", file=sys.stderr)
    return Path(done["state_dir"])


def _offline(args: argparse.Namespace, client: Client) -> Path | None:
    """Take down what a dead daemon left; its state directory. Nothing without one."""
    if args.state_dir is None and client.path != DEFAULT_SOCKET:
        # The default directory is of the daemon with the default socket, which is another one.
        raise OperatorError(
            f"no weaver answers on {client.path}; to reset it all the same name its --state-dir",
            "no-daemon",
        )
    from weaver.daemon.leftovers import remove_devices

    state = Path(args.state_dir or STATE_DIR)
    if not state.is_dir():
        return None
    removed = remove_devices(state)
    if removed:
        print("removed " + " ".join(removed))
    print(
        "no daemon runs: its address space was not handed over; on another host run"
        " `weaver ipam reclaim` for this one",
        file=sys.stderr,
    )
    return state


def _remove_run_dir(directory: Path) -> None:
    """What a dead daemon left there, and the directory itself where nobody else uses it."""
    with suppress(OSError):
        for name in ("weaver.sock", "cni.sock"):
            (directory / name).unlink(missing_ok=True)
        (directory / "cni-del").rmdir()
        directory.rmdir()


def remove_state(state: Path) -> bool:
    """Delete our files and then the directory, unless others have something in it."""
    others = [path.name for path in state.glob("ipam-*.db")]
    for name in (*STATE_FILES, *others):
        for suffix in BESIDE:
            (state / (name + suffix)).unlink(missing_ok=True)
    if os.listdir(state):
        return False
    try:
        state.rmdir()
    except OSError:  # systemd's or a mount: empty is what counts
        return True
    return True

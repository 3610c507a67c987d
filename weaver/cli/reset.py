"""``weaver reset``: leave nothing behind, and no address lost."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from weaver.client import Client, NoDaemonError

STATE_FILES = ("identity", "facts.json", "ipam.db", "attachments.db", "api-token", "lock")
STOP_TIMEOUT = 15.0


def reset(args: argparse.Namespace, client: Client) -> int:
    """Hand over, stop, remove the state. Works with the daemon down, and says what that costs."""
    state = Path(args.state_dir)
    try:
        print("handing the address space over …", flush=True)
        done = client.post("/v1/reset", force=args.force)
        state = Path(done["state_dir"])
        print("handed over" if done["handed_over"] else "nobody to hand over to")
        deadline = time.monotonic() + STOP_TIMEOUT
        while time.monotonic() < deadline:
            try:
                client.get("/healthz")
            except NoDaemonError:
                break
            time.sleep(0.05)
    except NoDaemonError:
        if not state.is_dir():
            print("nothing to reset")
            return 0
        print(
            "no daemon runs: its address space was not handed over; on another host run"
            " `weaver ipam reclaim` for this one",
            file=sys.stderr,
        )
    for name in STATE_FILES:
        for path in state.glob(name + "*"):
            path.unlink(missing_ok=True)
    shutil.rmtree(state, ignore_errors=True)
    print(f"removed {state}")
    return 0

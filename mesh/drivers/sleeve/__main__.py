"""``python -m mesh.drivers.sleeve --tap-fd N --udp-fd N --control-fd N [--lane N --lane-fds …]``.

The daemon opens the devices and hands them over; the worker holds no name, no file and no
address of its own. It ends when the daemon closes the control socket.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys

from mesh.drivers.sleeve.exits import EXIT_TAP_GONE
from mesh.drivers.sleeve.uplink import TapGoneError
from mesh.drivers.sleeve.worker import Worker

PRIORITY = -5
"""Niceness: what a frame waits for a worker that waits for its turn, its pod waits too. With two
processors and two workers, one TCP stream was a fourteenth faster than with 0."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="mesh.drivers.sleeve")
    for name in ("tap", "udp", "control"):
        parser.add_argument(f"--{name}-fd", type=int, required=True)
    parser.add_argument("--lane", type=int, default=0)
    parser.add_argument("--lane-fds", type=lambda text: [int(n) for n in text.split(",") if n],
                        default=[])  # fmt: skip
    args = parser.parse_args()
    # A kernel's data path runs before every process; ours only asks to wait for none. Without
    # CAP_SYS_NICE it has to do as it is.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    # Ctrl-C goes to the whole foreground group; the daemon ends us when it has said goodbye.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Worker(args.tap_fd, args.udp_fd, args.control_fd, args.lane, args.lane_fds).run()
    except TapGoneError:
        return EXIT_TAP_GONE
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A process that holds the fast path of its namespace, as a daemon does: to be killed.

It takes over what is there, puts its programs into force, says so, and looks after it.
"""

from __future__ import annotations

import sys
import time

from mesh.drivers.fastdp.datapath import FastDatapath


def main() -> None:
    datapath = FastDatapath()
    datapath.start()
    sys.stdout.write(f"{datapath.takeover}\n")
    sys.stdout.flush()
    while True:
        datapath.check()
        time.sleep(0.05)


if __name__ == "__main__":
    main()

"""``weaver setup-cni``: install or remove the CNI plugins."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mesh.errors import OperatorError
from weaver.cni.install import install, remove


def setup_cni(args: argparse.Namespace) -> int:
    plugins, conf = Path(args.dir), Path(args.conf_dir)
    try:
        if args.remove:
            done = remove(plugins, conf)
        else:
            python = Path(args.python) if args.python else None
            done = install(plugins, conf, Path(args.cni_socket), python, native=args.native)
    except OperatorError as err:
        print(f"weaver: {err} ({err.reason})", file=sys.stderr)
        return 1
    for line in done:
        print(line)
    return 0

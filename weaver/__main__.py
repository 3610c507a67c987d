"""``python -m weaver``: the command line without its console script."""

from __future__ import annotations

from weaver.cli.main import run

if __name__ == "__main__":
    run()

"""The layout's one rule: no core is missing from the contracts, and none drags I/O in."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def cores() -> list[str]:
    """Every module of mesh and ipam outside ``drivers``."""
    found = []
    for package in ("mesh", "ipam"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "drivers" not in parts and parts[-1] != "__init__":
                found.append(".".join(parts))
    return found


def test_no_core_is_missing_from_the_contract() -> None:
    (contract,) = [c for c in CONTRACTS if c["name"].startswith("cores touch nothing")]
    named = contract["source_modules"]
    missing = [
        core
        for core in cores()
        if not any(core == name or core.startswith(name + ".") for name in named)
    ]
    assert missing == []


def test_the_contract_forbids_what_a_core_must_not_touch() -> None:
    (contract,) = [c for c in CONTRACTS if c["name"].startswith("cores touch nothing")]
    assert {
        "asyncio",
        "socket",
        "time",
        "random",
        "secrets",
        "os",
        "threading",
        "subprocess",
    } <= set(contract["forbidden_modules"])


def test_cores_load_no_io() -> None:
    """In a fresh interpreter, all of them at once: whichever drags it in, it is found."""
    imports = ", ".join(cores())
    code = f"import sys, {imports}; print(*{{'asyncio', 'socket', 'ssl'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == []


WALL_CLOCK = re.compile(
    r"\btime\.(time|time_ns|localtime|gmtime|ctime)\b|CLOCK_REALTIME|\b(utc)?now\(.*UTC|\butcnow\("
    r"|\bfrom time import .*\btime\b|\bdate\.today\b"
)
"""Whatever reads the time of day, which may leap either way."""

FOR_PEOPLE = {"weaver/daemon/events.py"}
"""Where it is written down and never compared."""


@pytest.mark.parametrize("package", ["weaver", "mesh", "ipam", "cni"])
def test_a_clock_that_is_set_changes_nothing(package: str) -> None:
    """No decision, deadline or key reads the time of day: only monotonic clocks."""
    readers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / package).rglob("*.py")
        if WALL_CLOCK.search(path.read_text())
    }
    assert readers - FOR_PEOPLE == set()
    assert package != "weaver" or readers, "the search itself does not work"


@pytest.mark.parametrize("package", ["weaver", "mesh", "ipam", "cni"])
def test_no_module_is_two_ideas(package: str) -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in (ROOT / package).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 460
    }
    assert long == {}

"""Which tiers run: a marked test is skipped where the machine cannot run it, and says why.

``WEAVER_REQUIRE=netns,e2e`` turns such a skip into a failure.
"""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import settings

# Its tests are imported by other modules: say what differed there, too.
pytest.register_assert_rewrite("tests.datapath_rules")

# The gate tries the same examples every time; new ones are what `ci` and `nightly` are for.
settings.register_profile("dev", max_examples=50, deadline=None, print_blob=True, derandomize=True)
settings.register_profile("ci", max_examples=200, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=5000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

TOOLS = {"netns": ("ip", "ethtool", "tcpdump"), "e2e": ("ip", "nft", "iperf3", "tcpdump")}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="write down what tests/scenarios say")


def _lacking(tier: str) -> str | None:
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in TOOLS[tier] if shutil.which(tool) is None]
    return f"needs {', '.join(missing)}" if missing else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    required = set(os.environ.get("WEAVER_REQUIRE", "").split(","))
    for tier in TOOLS:
        reason = _lacking(tier)
        if reason is None or tier in required:
            continue
        for item in items:
            if item.get_closest_marker(tier) is not None:
                item.add_marker(pytest.mark.skip(reason=f"{tier}: {reason}"))

"""Stories run on identities that sign fast, for as long as a test lasts."""

from __future__ import annotations

import pytest

from tests.ipam.fakes import install


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch.setattr)

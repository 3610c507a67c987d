"""Rules that others change are looked at again, also when they change while we look."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from weaver.daemon import firewalld, nat, natrules
from weaver.daemon.forwarding import Forwarding
from weaver.daemon.natrules import NatRules


class Kernel:
    """A ruleset of some generation; ``meanwhile`` happens once, behind our back, as it is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.generation, self.whole, self.reads, self.meanwhile = 1, True, 0, False
        monkeypatch.setattr(natrules, "generation", lambda: self.generation)
        monkeypatch.setattr(natrules, "listed", self._listed)
        monkeypatch.setattr(natrules, "run", self._run)
        monkeypatch.setattr(natrules, "forward", lambda _range: None)
        monkeypatch.setattr(nat, "is_whole", lambda listed, _ranges, _plain: listed)
        monkeypatch.setattr(Forwarding, "mend", lambda *_args, **_more: None)
        monkeypatch.setattr(firewalld, "mend", lambda *_args, **_more: None)

    def flush(self) -> None:
        self.generation += 1
        self.whole = False

    def _listed(self) -> bool:
        self.reads += 1
        found = self.whole
        if self.meanwhile:
            self.meanwhile = False
            self.flush()
        return found

    def _run(self, _ruleset: object) -> str | None:
        self.generation += 1
        self.whole = True
        return None


def mend(rules: NatRules, plain: Sequence[str] = ()) -> str | None:
    return rules.mend(["10.32.0.0/12"], "weave", plain, exposed=True)


def test_rules_nobody_touched_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, rules = Kernel(monkeypatch), NatRules()
    for _ in range(5):
        assert mend(rules) is None
    assert kernel.reads == 1


def test_rules_that_go_while_we_look_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, rules = Kernel(monkeypatch), NatRules()
    kernel.meanwhile = True
    assert mend(rules) is None, "they were there when we looked"
    assert mend(rules) is not None
    assert kernel.whole
    assert mend(rules) is None
    assert mend(rules) is None
    assert kernel.reads == 3


def test_rules_that_go_while_we_mend_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel, rules = Kernel(monkeypatch), NatRules()
    kernel.flush()
    kernel.meanwhile = True
    assert mend(rules) is not None
    kernel.flush()
    assert mend(rules) is not None
    assert kernel.whole

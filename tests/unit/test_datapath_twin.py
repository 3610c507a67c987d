"""The in-memory Datapath keeps the rules."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mesh.link.datapath import Absence, Datapath, DatapathError, Takeover, Upcall
from mesh.names import ShortID
from tests import datapath_rules as rules
from tests.datapath_rules import *  # noqa: F403  # they are the tests
from tests.unit.datapath_twin import DatapathTwin, Outer, Underlay, restarted


class TwinHost:
    def __init__(self, number: int, underlay: Underlay, own: str) -> None:
        self.number, self._underlay = number, underlay
        self._twin = DatapathTwin(underlay, own)
        self._twin.set_sleeve("sleeve")
        self.datapath: Datapath = self._twin

    def send(self, frame: bytes) -> None:
        self._twin.from_pod(frame)

    def heard(self, count: int) -> list[bytes]:
        assert len(self._twin.bridge) >= count
        frames, self._twin.bridge = self._twin.bridge, []
        return frames

    def sleeve_send(self, frame: bytes) -> None:
        self._twin.from_sleeve(frame)

    def sleeve_heard(self, count: int) -> list[bytes]:
        assert len(self._twin.sleeve) >= count
        frames, self._twin.sleeve = self._twin.sleeve, []
        return frames

    def upcalls(self, count: int) -> list[Upcall]:
        found = self._twin.receive()
        assert len(found) >= count
        return found

    def forge(
        self,
        to: rules.Host,
        source: int,
        target: int,
        frame: bytes,
        hops: int = 64,
        own: bool = True,
    ) -> None:
        sender = address(self.number) if own else "192.0.2.66"
        receiver = address(to.number)
        ids = ShortID(source), ShortID(target)
        self._underlay.send(Outer(sender, receiver, *ids, hops, frame))

    def restart(self) -> None:
        self._twin = restarted(self._twin, self._underlay)
        self._twin.set_sleeve("sleeve")
        self.datapath = self._twin


def address(number: int) -> str:
    return f"192.0.2.{number}"


class TwinChain:
    def __init__(self) -> None:
        underlay = Underlay()
        numbers = range(1, rules.COUNT + 1)
        self.hosts: Sequence[rules.Host] = [TwinHost(n, underlay, address(n)) for n in numbers]

    def address(self, seen_by: int, number: int) -> str:
        return address(number)


@pytest.fixture
def bare() -> TwinChain:
    return TwinChain()


@pytest.fixture
def chain(bare: TwinChain) -> TwinChain:
    rules.wire(bare)
    return bare


def test_an_absent_one_says_why() -> None:
    twin = DatapathTwin(Underlay(), "192.0.2.1")
    twin.absent = Absence.NO_CLSACT
    with pytest.raises(DatapathError) as refusal:
        twin.start()
    assert refusal.value.reason == "no-clsact"
    twin.absent = None
    twin.start()
    assert twin.takeover is Takeover.FRESH

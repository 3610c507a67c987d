"""TCP in bad weather: 10 ms each way and some loss both ways, the sleeve beside VXLAN and raw.

Two hosts for each loss. Streams that the loss limits to some Mb/s (cubic, a loss above nothing) run
all at once, so that they can run long; whatever may fill a processor runs alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.figures import Samples
from bench.hosts import fit_for_long_paths, join_by_vxlan, pod_to_pod, raw, usual_lanes, workers
from bench.load import Path, shake_hands, stream, watch
from bench.nodes import Cable, World
from bench.weather import Weather

DELAY = 0.010
"""Seconds each way."""

LOSSES = (0.0, 0.001, 0.01, 0.05)
ALONE_WARM_UP, ALONE_SECONDS = 0.4, 0.6
TOGETHER_WARM_UP, TOGETHER_SECONDS = 0.5, 3.5
CAPACITY_ROUNDS = 3
CUBIC, BBR = "cubic", "bbr"
ROWS = ("raw", "vxlan", "sleeve")


@dataclass(frozen=True)
class Condition:
    loss: float
    control: str

    @property
    def name(self) -> str:
        return f"{100 * self.loss:g} %, {self.control}"

    @property
    def alone(self) -> bool:
        """Whether its streams may fill a processor."""
        return self.loss == 0.0 or self.control != CUBIC


CONDITIONS = (
    *(Condition(loss, CUBIC) for loss in LOSSES),
    Condition(0.01, BBR),
)


@dataclass
class Place:
    """Two hosts in one weather."""

    weather: Weather
    paths: list[Path]


@contextmanager
def place(tag: str, loss: float, *, coalesce: bool, rows: tuple[str, ...]) -> Iterator[Place]:
    weather = Weather(loss=0.0, delay=DELAY, coalesce=coalesce)
    with World(tag, 2, [Cable(1, 2, weather=weather)], lanes=usual_lanes()) as world:
        a, b = world.nodes
        fit_for_long_paths(world)
        pids = workers(world)
        ends = {
            "raw": raw(world, a, b),
            "vxlan": join_by_vxlan(world, a, b, 1),
            "sleeve": pod_to_pod(a, b),
        }
        paths = [Path(row, ends[row], pids) for row in ROWS if row in rows]
        shake_hands(paths)
        weather.set(loss=loss)
        yield Place(weather, paths)


class Storms:
    """The places, and what was measured there: condition -> path -> samples."""

    def __init__(self, places: dict[float, Place]) -> None:
        self._places = places
        self.results: dict[str, dict[str, Samples]] = {
            condition.name: {path.name: Samples() for path in places[condition.loss].paths}
            for condition in CONDITIONS
        }
        self.capacity = Samples()
        """Gb/s of a raw stream through the weather with neither loss nor delay."""

        self.overflow = 0
        """Frames the weather lost because it could not keep up."""

    def measure(self, turn: int) -> None:
        if turn < CAPACITY_ROUNDS:
            self._measure_capacity()
        for condition in CONDITIONS:
            if condition.alone:
                self._alone(condition, turn)
        self._together([condition for condition in CONDITIONS if not condition.alone])

    def count_overflow(self) -> None:
        self.overflow = sum(
            way.overflow for place in self._places.values() for way in place.weather.counts()
        )

    def _alone(self, condition: Condition, turn: int) -> None:
        here = self._places[condition.loss]
        start = turn % len(here.paths)
        for path in here.paths[start:] + here.paths[:start]:
            with stream(path.ends, control=condition.control) as running:
                time.sleep(ALONE_WARM_UP)
                window = watch(running, ALONE_SECONDS, [])
            self.results[condition.name][path.name].add("tcp1", window.gbps)

    def _together(self, conditions: list[Condition]) -> None:
        with ExitStack() as stack:
            streams = [
                (
                    condition.name,
                    path.name,
                    stack.enter_context(stream(path.ends, control=condition.control)),
                )
                for condition in conditions
                for path in self._places[condition.loss].paths
            ]
            time.sleep(TOGETHER_WARM_UP)
            before, began = [running.octets() for _, _, running in streams], time.monotonic()
            time.sleep(TOGETHER_SECONDS)
            after, took = [running.octets() for _, _, running in streams], time.monotonic() - began
        for (condition, path, _), first, last in zip(streams, before, after, strict=True):
            self.results[condition][path].add("tcp1", (last - first) * 8 / took / 1e9)

    def _measure_capacity(self) -> None:
        here = self._places[0.0]
        path = next((path for path in here.paths if path.name == "raw"), None)
        if path is None:
            return
        here.weather.set(delay=0.0)
        try:
            with stream(path.ends) as running:
                time.sleep(0.2)
                self.capacity.add("tcp1", watch(running, 0.4, []).gbps)
        finally:
            here.weather.set(delay=DELAY)


@contextmanager
def places(tag: str, rows: tuple[str, ...], *, coalesce: bool) -> Iterator[Storms]:
    """All hosts, in all weathers, while the block runs."""
    with ExitStack() as stack:
        yield Storms(
            {
                loss: stack.enter_context(place(f"{tag}{n}", loss, coalesce=coalesce, rows=rows))
                for n, loss in enumerate(LOSSES)
            }
        )

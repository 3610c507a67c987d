"""What the sleeve is to reach beside the others, and whether it does. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bench.figures import Results, ratio


@dataclass(frozen=True)
class Measured:
    """One run with offloads on, or off."""

    paths: Results
    weather: Mapping[str, Results]
    """Condition -> path -> samples."""

    forged: Results
    others: tuple[str, ...]
    """The encrypted programs among the paths."""


@dataclass(frozen=True)
class Found:
    """A ratio, and beside what."""

    value: float
    beside: str = ""


@dataclass(frozen=True)
class Line:
    """``wanted`` with offloads on and off; at least that, or at most."""

    what: str
    wanted: tuple[float, float]
    at_least: bool
    find: Callable[[Measured], Found]


@dataclass(frozen=True)
class Verdict:
    what: str
    wanted: float
    at_least: bool
    found: Found

    @property
    def known(self) -> bool:
        return not math.isnan(self.found.value)

    @property
    def met(self) -> bool:
        value = self.found.value
        return self.known and (value >= self.wanted if self.at_least else value <= self.wanted)

    def __str__(self) -> str:
        if not self.known:
            return "not measured"
        beside = f" of {self.found.beside}" if self.found.beside else ""
        return f"{self.found.value:.2f}{beside}: {'met' if self.met else 'not met'}"


def _against(path: str, key: str) -> Callable[[Measured], Found]:
    return lambda run: Found(ratio(run.paths, key, "sleeve", path))


def _against_best(key: str, *, most: bool) -> Callable[[Measured], Found]:
    """Beside the program that has most of it, or least."""

    def find(run: Measured) -> Found:
        figures = {o: run.paths[o].median(key) for o in run.others if o in run.paths}
        figures = {other: value for other, value in figures.items() if not math.isnan(value)}
        if not figures:
            return Found(math.nan)
        best = (max if most else min)(figures, key=lambda other: figures[other])
        return Found(ratio(run.paths, key, "sleeve", best), best)

    return find


def _in_weather(condition: str, path: str) -> Callable[[Measured], Found]:
    return lambda run: Found(ratio(run.weather.get(condition, {}), "tcp1", "sleeve", path))


def _besieged(*cases: str) -> Callable[[Measured], Found]:
    """The worst of these forgeries, beside the same flood at a socket nobody reads."""

    def find(run: Measured) -> Found:
        worst = Found(math.nan)
        for case in cases:
            value = ratio(run.forged, "tcp1", case, "at a deaf socket")
            if not math.isnan(value) and not worst.value <= value:
                worst = Found(value)
        return worst

    return find


LINES = (
    Line("TCP against raw veth", (0.33, 0.60), True, _against("raw", "tcp1")),
    Line("TCP against unencrypted kernel VXLAN", (0.45, 0.95), True, _against("vxlan", "tcp1")),
    Line("TCP against the best encrypted program", (7, 5), True, _against_best("tcp1", most=True)),
    Line("UDP 1,400 received, against the best", (1.5, 1.5), True,
         _against_best("udp1400", most=True)),
    Line("UDP 64 packets a second, against the best", (1.2, 1.2), True,
         _against_best("udp64", most=True)),
    Line("CPU per GB, against the best", (0.25, 0.35), False, _against_best("cpu", most=False)),
    Line("ping p50 idle, against the best", (1.5, 1.5), False, _against_best("p50", most=False)),
    Line("one relay against direct", (0.6, 0.6), True,
         lambda run: Found(ratio(run.paths, "tcp1", "sleeve, 1 relay", "sleeve"))),
    Line("at 1 % loss and 20 ms, TCP against kernel VXLAN, cubic", (0.8, 0.8), True,
         _in_weather("1 %, cubic", "vxlan")),
    Line("the same with bbr", (0.8, 0.8), True, _in_weather("1 %, bbr", "vxlan")),
    Line("a stream beside 100,000 off-path forgeries a second", (0.9, 0.9), True,
         _besieged("unknown-source", "for-another", "wrong-tag")),
    Line("the same, on-path", (0.9, 0.9), True, _besieged("on-path", "on-path-parts")),
)  # fmt: skip


def verdicts(run: Measured, *, offloads: bool) -> list[Verdict]:
    return [
        Verdict(line.what, line.wanted[0 if offloads else 1], line.at_least, line.find(run))
        for line in LINES
    ]


def reach_table(on: Measured | None, off: Measured | None) -> str:
    """Wanted and found, met or not met, with offloads on and off; a run that was not made: –."""
    lines = ["| | offloads on | | offloads off | |", "|---" * 5 + "|"]
    columns = [
        verdicts(run, offloads=offloads) if run is not None else None
        for run, offloads in ((on, True), (off, False))
    ]
    for number, line in enumerate(LINES):
        cells = [line.what]
        for n, column in enumerate(columns):
            cells.append(f"{'≥' if line.at_least else '≤'} {line.wanted[n]:g}")
            cells.append(str(column[number]) if column is not None else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)

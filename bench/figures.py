"""What was measured: medians with quartiles, and tables of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median, quantiles


@dataclass
class Samples:
    """Everything measured of one path, one value a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """Not a number where nothing was measured."""
        values = _numbers(self.values.get(name, []))
        return median(values) if values else math.nan

    def quartiles(self, name: str) -> tuple[float, float]:
        values = _numbers(self.values.get(name, []))
        if len(values) < 2:
            return (values[0], values[0]) if values else (math.nan, math.nan)
        low, _, high = quantiles(values, n=4, method="inclusive")
        return low, high

    def show(self, name: str, digits: int) -> str:
        middle, (low, high) = self.median(name), self.quartiles(name)
        if math.isnan(middle):
            return "–"
        if len(self.values[name]) < 2:
            return f"{middle:.{digits}f}"
        return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


Results = Mapping[str, Samples]
"""Path -> what was measured of it."""


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    digits: int


COLUMNS = (
    Column("tcp1", "1 TCP, Gb/s", 2),
    Column("tcp4", "4 TCP, Gb/s", 2),
    Column("udp1400", "UDP 1,400, Gb/s", 2),
    Column("udp64", "UDP 64, kpps", 0),
    Column("p50", "ping p50, ms", 3),
    Column("p99", "p99", 3),
    Column("loaded_p50", "beside TCP p50, ms", 2),
    Column("loaded_p99", "p99", 2),
    Column("cpu", "CPU s/GB", 2),
    Column("udp64_cpu", "CPU s/million of 64", 1),
)


def table(results: Results, columns: Sequence[Column] = COLUMNS, first: str = "path") -> str:
    """One row a path, one column for each of ``columns`` of which anything was measured."""
    shown = [c for c in columns if any(c.key in s.values for s in results.values())]
    names = [first, *(column.title for column in shown)]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for path, samples in results.items():
        cells = [path, *(samples.show(column.key, column.digits) for column in shown)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(results: Results, key: str, above: str, below: str) -> float:
    """Of two paths' medians; not a number where either is missing or the second is nothing."""
    if above not in results or below not in results:
        return math.nan
    divisor = results[below].median(key)
    return results[above].median(key) / divisor if divisor else math.nan


def _numbers(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]

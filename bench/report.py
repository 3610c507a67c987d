"""A whole run: to and from JSON, and as the Markdown of docs/benchmarks.md. Measures nothing."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import Column, Samples, ratio, table
from bench.programs import PROGRAMS
from bench.reach import Measured, reach_table

FORMAT = 1

FORGED_COLUMNS = (
    Column("tcp1", "1 TCP, Gb/s", 2),
    Column("forged", "sent, thousand/s", 0),
    Column("refused", "seen and refused by the worker, thousand/s", 0),
)


@dataclass
class Mode:
    """What was measured with offloads on, or off."""

    paths: dict[str, Samples] = field(default_factory=dict)
    weather: dict[str, dict[str, Samples]] = field(default_factory=dict)
    capacity: Samples = field(default_factory=Samples)
    """Of the weather itself."""

    overflow: int = 0
    """Frames the weather lost by being too slow."""

    forged: dict[str, Samples] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """What could not be measured, and why; the rounds that could stand without it."""

    def measured(self) -> Measured:
        return Measured(self.paths, self.weather, self.forged, tuple(PROGRAMS))


@dataclass
class Report:
    """A run: ``about`` says of what, where, when and by which command."""

    about: dict[str, str]
    modes: dict[str, Mode]
    """"off" and "on"."""


def to_json(report: Report) -> dict[str, Any]:
    def values(results: dict[str, Samples]) -> dict[str, dict[str, list[float | None]]]:
        return {
            path: {key: list(map(_rounded, row)) for key, row in samples.values.items()}
            for path, samples in results.items()
        }

    return {
        "format": FORMAT,
        "about": report.about,
        "modes": {
            name: {
                "paths": values(mode.paths),
                "weather": {condition: values(rows) for condition, rows in mode.weather.items()},
                "capacity": values({"": mode.capacity})[""],
                "overflow": mode.overflow,
                "forged": values(mode.forged),
                "failures": mode.failures,
            }
            for name, mode in report.modes.items()
        },
    }


def from_json(data: object) -> Report:
    """Raises ValueError for what is no report of this format."""
    try:
        return _read(data)
    except (TypeError, KeyError, AttributeError) as err:
        raise ValueError(f"no report of format {FORMAT}: {err!r}") from err


def _read(data: Any) -> Report:  # noqa: ANN401  # whatever JSON had
    if data["format"] != FORMAT:
        raise ValueError(f"no report of format {FORMAT}")

    def samples(results: dict[str, dict[str, list[float | None]]]) -> dict[str, Samples]:
        return {
            path: Samples(
                {key: [math.nan if v is None else v for v in row] for key, row in values.items()}
            )
            for path, values in results.items()
        }

    modes = {
        name: Mode(
            samples(mode["paths"]),
            {condition: samples(rows) for condition, rows in mode["weather"].items()},
            samples({"": mode["capacity"]})[""],
            mode["overflow"],
            samples(mode["forged"]),
            mode["failures"],
        )
        for name, mode in data["modes"].items()
    }
    return Report(data["about"], modes)


def load(path: Path) -> Report:
    """A report that was kept; raises ValueError for a file that has none."""
    try:
        return from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError) as err:
        raise ValueError(f"{path}: {err}") from err


def _rounded(value: float) -> float | None:
    """Six digits: more would only make the file longer. What is no number JSON cannot say."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def markdown(report: Report) -> str:
    """Everything that was measured, the reach table first."""
    parts = [_about(report.about)]
    on, off = (report.modes.get(name) for name in ("on", "off"))
    if any(mode.paths for mode in report.modes.values()):
        table_ = reach_table(on.measured() if on else None, off.measured() if off else None)
        parts += ["### What is to be reached", table_]
    for name, mode in report.modes.items():
        parts += _mode(name, mode)
    failures = [f"* {failure}" for mode in report.modes.values() for failure in mode.failures]
    if failures:
        parts += ["### What could not be measured", "\n".join(failures)]
    return "\n\n".join(parts)


def _about(about: dict[str, str]) -> str:
    return "\n".join(f"* {what}: {value}" for what, value in about.items())


def _mode(name: str, mode: Mode) -> list[str]:
    parts = []
    if mode.paths:
        parts += [f"### Side by side, offloads {name}", table(mode.paths)]
        shares = [
            f"{path} {ratio(mode.paths, 'tcp1', path, 'raw'):.2f}"
            for path in mode.paths
            if path != "raw" and "raw" in mode.paths
        ]
        if shares:
            parts.append(f"One TCP stream as a share of raw: {', '.join(shares)}.")
    if mode.weather:
        parts += [
            f"### 20 ms and loss, offloads {name}",
            _weather(mode.weather),
            f"The weather itself carries {mode.capacity.show('tcp1', 2)} Gb/s of raw TCP without"
            f" loss or delay; of its own accord it lost {mode.overflow:,} frames.",
        ]
    if mode.forged:
        deaf = {case: ratio(mode.forged, "tcp1", case, "at a deaf socket") for case in mode.forged}
        quiet = {case: ratio(mode.forged, "tcp1", case, "no flood") for case in mode.forged}
        parts += [
            f"### Beside 100,000 forged datagrams a second, offloads {name}",
            table(mode.forged, FORGED_COLUMNS, "what is forged"),
            "Goodput as a ratio to that beside the same flood at a deaf socket (and to none): "
            + ", ".join(f"{case} {deaf[case]:.2f} ({quiet[case]:.2f})" for case in mode.forged)
            + ".",
        ]
    return parts


def _weather(weather: dict[str, dict[str, Samples]]) -> str:
    """Mb/s, one row a condition, one column a path, and the sleeve's share of VXLAN's."""
    paths = list(next(iter(weather.values())))
    names = ["loss each way", *(f"{path}, Mb/s" for path in paths), "sleeve : VXLAN"]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for condition, results in weather.items():
        cells = [condition]
        for path in paths:
            samples = Samples(
                {"tcp1": [1000 * value for value in results[path].values.get("tcp1", [])]}
            )
            cells.append(samples.show("tcp1", 1))
        cells.append(f"{ratio(results, 'tcp1', 'sleeve', 'vxlan'):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


BEGIN, END = "<!-- bench-peers begins -->", "<!-- bench-peers ends -->"


def published(page: str, text: str) -> str:
    """The page with ``text`` between its two marks; raises ValueError where it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks to put the results between")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"

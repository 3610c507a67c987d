"""The plot of docs/benchmarks.md: ``python -m bench.plot RESULTS.json > PLOT.svg``.

Bars of medians with whiskers from quartile to quartile, drawn as plain SVG.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.figures import Results
from bench.report import Report, load

WIDTH, LABEL, VALUE = 440, 120, 70
BAR, GAP, TITLE, MARGIN = 16, 6, 34, 16
COLOURS = {"raw": "#9a9a9a", "vxlan": "#9a9a9a", "sleeve": "#c2410c"}
OTHER = "#5b7fa6"


@dataclass(frozen=True)
class Panel:
    mode: str
    key: str
    title: str
    digits: int


PANELS = (
    Panel("off", "tcp1", "One TCP stream, Gb/s, offloads off", 2),
    Panel("on", "tcp1", "One TCP stream, Gb/s, offloads on", 2),
    Panel("off", "udp64", "UDP of 64 octets, thousand a second, offloads off", 0),
    Panel("off", "cpu", "CPU seconds per GB of TCP, offloads off", 2),
    Panel("off", "p50", "Ping p50, idle, ms, offloads off", 3),
    Panel("off", "loaded_p99", "Ping p99 beside a TCP stream, ms, offloads off", 2),
)


def svg(report: Report) -> str:
    """The whole plot, two panels in a line; panels of which nothing was measured are left out."""
    drawn = []
    for panel in PANELS:
        mode = report.modes.get(panel.mode)
        paths = (
            {p: s for p, s in mode.paths.items() if not math.isnan(s.median(panel.key))}
            if mode is not None
            else {}
        )
        if paths:
            drawn.append((panel, paths))
    lines: list[str] = []
    top, height = MARGIN, 0
    for number, (panel, paths) in enumerate(drawn):
        column = number % 2
        lines += draw(panel, paths, MARGIN + column * (WIDTH + MARGIN), top)
        height = max(height, TITLE + len(paths) * (BAR + GAP))
        if column or number == len(drawn) - 1:
            top, height = top + height + MARGIN, 0
    width = 2 * WIDTH + 3 * MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top}" width="{width}"'
        f' height="{top}" font-family="sans-serif" font-size="12">'
    )
    ground = f'<rect width="{width}" height="{top}" fill="#ffffff"/>'
    return "\n".join([head, ground, *lines, "</svg>", ""])


def draw(panel: Panel, paths: Results, left: float, top: float) -> list[str]:
    """One panel; its longest bar, or whisker, takes the width there is."""
    most = max(max(s.median(panel.key), s.quartiles(panel.key)[1]) for s in paths.values())
    scale = (WIDTH - LABEL - VALUE) / most if most > 0 else 0.0
    lines = [text(left, top + 14, panel.title, weight="bold")]
    for number, (path, samples) in enumerate(paths.items()):
        y = top + TITLE - 8 + number * (BAR + GAP)
        value, (low, high) = samples.median(panel.key), samples.quartiles(panel.key)
        start, middle = left + LABEL, y + BAR / 2
        colour = COLOURS.get(path.partition(",")[0], OTHER)
        lines += [
            text(start - 6, y + 12, path, anchor="end"),
            f'<rect x="{start:.1f}" y="{y:.1f}" width="{value * scale:.1f}" height="{BAR}"'
            f' fill="{colour}"/>',
            f'<path d="M{start + low * scale:.1f} {middle:.1f}H{start + high * scale:.1f}"'
            ' stroke="#222222" stroke-width="1.5"/>',
            text(start + max(value, high) * scale + 5, y + 12, f"{value:.{panel.digits}f}"),
        ]
    return lines


def text(x: float, y: float, said: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(said)}</text>"
    )


def main() -> int:
    if len(sys.argv) != 2:
        print("python -m bench.plot RESULTS.json", file=sys.stderr)
        return 2
    try:
        print(svg(load(Path(sys.argv[1]))), end="")
    except ValueError as err:
        print(err, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The pure parts of the benches: searches, statistics, verdicts, tables, plot."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import peers
from bench.figures import COLUMNS, Samples, ratio, table
from bench.forger import frame
from bench.plot import PANELS, svg
from bench.reach import LINES, Measured, reach_table, verdicts
from bench.report import BEGIN, END, Mode, Report, from_json, load, markdown, published, to_json
from bench.search import FLAT_OUT, LEAST, LOSS, MOST, WARM, Hold, Search

ROOT = Path(__file__).parent.parent.parent


# ---- searches


def found(capacity: float, sender: float, start: float | None) -> tuple[float, int]:
    """The rate a search finds on a path that carries so much and loses the rest, and its holds."""
    search, holds = Search(start), 0
    while not search.done:
        offered = min(search.rate, sender)
        search.learn(Hold(1.0, round(offered), round(min(offered, capacity))))
        holds += 1
    return (search.best.rate if search.best is not None else 0.0), holds


@pytest.mark.parametrize("capacity", [1_000, 60_000, 2_000_000])
@pytest.mark.parametrize("wrong", [0.01, 0.5, 0.9, 1.0, 1.1, 3.0, 100.0])
def test_searches_come_to_what_the_path_carries(capacity: int, wrong: float) -> None:
    """However wrong the first guess, rounds that begin where the last one ended arrive."""
    rate, _ = found(capacity, math.inf, wrong * capacity)
    for _ in range(8):
        rate, holds = found(capacity, math.inf, rate)
        assert holds <= MOST
    assert 0.95 * capacity <= rate <= capacity


def test_a_first_search_needs_no_guess() -> None:
    rate, _ = found(60_000, 1_000_000, None)
    assert 0.95 * 60_000 <= rate <= 60_000


def test_a_sender_that_cannot_do_more_ends_the_search() -> None:
    rate, holds = found(1_000_000, 200_000, None)
    assert (rate, holds) == (200_000, 1)


def test_a_rate_that_held_once_is_asked_in_few_holds() -> None:
    _, holds = found(60_000, 1_000_000, 59_000)
    assert holds <= WARM


def test_a_path_that_became_much_better_is_believed_in_one_search() -> None:
    rate, holds = found(60_000, math.inf, 3_000)
    assert rate > 0.5 * 60_000
    assert holds <= MOST


def test_a_sender_at_its_end_is_not_asked_again_and_again() -> None:
    rate, holds = found(1_000_000, 200_000, 200_000)
    assert (rate, holds) == (200_000, WARM + 1)


def test_a_sender_that_was_late_once_does_not_lower_what_is_asked() -> None:
    search = Search(10_000.0)
    search.learn(Hold(1.0, 5_000, 5_000))
    assert search.rate > 10_000


def test_a_path_that_carries_nothing_has_no_rate() -> None:
    search = Search(None)
    for _ in range(MOST):
        assert not search.done
        assert LEAST <= search.rate <= FLAT_OUT
        search.learn(Hold(1.0, 1000, 0))
    assert search.done
    assert search.best is None


def test_a_hold_may_lose_a_hundredth_and_no_more() -> None:
    assert Hold(1.0, 10_000, round(10_000 * (1 - LOSS))).good
    assert not Hold(1.0, 10_000, 9_899).good
    assert not Hold(1.0, 0, 0).good, "what was not offered was not carried"


# ---- statistics


def samples(**rows: list[float]) -> Samples:
    return Samples(dict(rows))


def test_medians_and_quartiles() -> None:
    some = samples(a=[5.0, 1.0, 2.0, 4.0, 3.0])
    assert some.median("a") == 3.0
    assert some.quartiles("a") == (2.0, 4.0)
    assert some.show("a", 1) == "3.0 (2.0–4.0)"


def test_one_value_has_no_quartiles_and_none_is_no_number() -> None:
    some = samples(a=[1.25], b=[math.nan, 2.0, 4.0])
    assert some.show("a", 2) == "1.25"
    assert some.show("missing", 2) == "–"
    assert some.median("b") == 3.0, "what could not be measured is left out"
    assert math.isnan(some.median("missing"))


def test_ratios() -> None:
    results = {"x": samples(a=[6.0]), "y": samples(a=[2.0]), "zero": samples(a=[0.0])}
    assert ratio(results, "a", "x", "y") == 3.0
    assert math.isnan(ratio(results, "a", "x", "zero"))
    assert math.isnan(ratio(results, "a", "x", "nobody"))
    assert math.isnan(ratio(results, "b", "x", "y"))


def test_a_table_has_a_line_a_path_and_only_columns_that_were_measured() -> None:
    lines = table({"raw": samples(tcp1=[2.0, 4.0], p50=[0.1]), "x": samples(tcp1=[1.0])})
    head, rule, raw, x = lines.split("\n")
    assert head == "| path | 1 TCP, Gb/s | ping p50, ms |"
    assert rule.count("---") == 3
    assert raw == "| raw | 3.00 (2.50–3.50) | 0.100 |"
    assert x == "| x | 1.00 | – |"


# ---- verdicts


def run(**changes: float) -> Measured:
    """A run that reaches everything wanted without offloads, just so, but for what is changed."""
    figures = {
        "raw": 10.0, "vxlan": 6.0, "sleeve": 6.0, "best": 1.2, "relay": 3.6,
        "udp1400": 1.5, "udp64": 120.0, "cpu": 3.5, "p50": 0.15,
        "cubic": 0.8, "bbr": 0.8, "wrong-tag": 0.9, "on-path": 0.9,
    } | changes  # fmt: skip
    paths = {
        "raw": samples(tcp1=[figures["raw"]]),
        "vxlan": samples(tcp1=[figures["vxlan"]]),
        "sleeve": samples(
            tcp1=[figures["sleeve"]], udp1400=[figures["udp1400"]], udp64=[figures["udp64"]],
            cpu=[figures["cpu"]], p50=[figures["p50"]],
        ),
        "fastd": samples(
            tcp1=[figures["best"]], udp1400=[0.9], udp64=[100.0], cpu=[20.0], p50=[0.1]
        ),
        "nebula": samples(tcp1=[0.5], udp1400=[1.0], udp64=[90.0], cpu=[10.0], p50=[0.2]),
        "sleeve, 1 relay": samples(tcp1=[figures["relay"]]),
    }  # fmt: skip
    weather = {
        f"1 %, {control}": {
            "vxlan": samples(tcp1=[1.0]), "sleeve": samples(tcp1=[figures[control]]),
        }
        for control in ("cubic", "bbr")
    }  # fmt: skip
    forged = {
        "at a deaf socket": samples(tcp1=[1.0]),
        "no flood": samples(tcp1=[2.0]),
        "unknown-source": samples(tcp1=[0.95]),
        "wrong-tag": samples(tcp1=[figures["wrong-tag"]]),
        "on-path": samples(tcp1=[figures["on-path"]]),
        "on-path-parts": samples(tcp1=[1.0]),
    }
    return Measured(paths, weather, forged, ("wireguard", "fastd", "nebula"))


def test_every_line_is_met_by_a_run_that_just_reaches_it() -> None:
    found = verdicts(run(), offloads=False)
    assert [v.what for v in found if not v.met] == []
    assert len(found) == len(LINES)


@pytest.mark.parametrize(
    ("change", "value", "missed"),
    [
        ("raw", 10.1, "TCP against raw veth"),
        ("vxlan", 6.4, "TCP against unencrypted kernel VXLAN"),
        ("best", 1.21, "TCP against the best encrypted program"),
        ("udp1400", 1.49, "UDP 1,400 received, against the best"),
        ("udp64", 119.0, "UDP 64 packets a second, against the best"),
        ("cpu", 3.51, "CPU per GB, against the best"),
        ("p50", 0.151, "ping p50 idle, against the best"),
        ("relay", 3.5, "one relay against direct"),
        ("cubic", 0.79, "at 1 % loss and 20 ms, TCP against kernel VXLAN, cubic"),
        ("bbr", 0.79, "the same with bbr"),
        ("wrong-tag", 0.89, "a stream beside 100,000 off-path forgeries a second"),
        ("on-path", 0.89, "the same, on-path"),
    ],
)
def test_each_line_is_missed_by_its_own_figure_alone(
    change: str, value: float, missed: str
) -> None:
    found = verdicts(run(**{change: value}), offloads=False)
    assert [v.what for v in found if not v.met] == [missed]


def test_the_best_is_another_program_for_each_figure() -> None:
    beside = {v.what: v.found.beside for v in verdicts(run(), offloads=False)}
    assert beside["TCP against the best encrypted program"] == "fastd"
    assert beside["UDP 1,400 received, against the best"] == "nebula"
    assert beside["CPU per GB, against the best"] == "nebula"
    assert beside["ping p50 idle, against the best"] == "fastd"


def test_offloads_have_bounds_of_their_own() -> None:
    on = {v.what: v.met for v in verdicts(run(), offloads=True)}
    assert not on["TCP against the best encrypted program"], "5 times is not 7"
    assert not on["CPU per GB, against the best"], "0.35 is more than 0.25"


def test_what_was_not_measured_is_neither_met_nor_silent() -> None:
    nothing = Measured({}, {}, {}, ("fastd",))
    assert {str(v) for v in verdicts(nothing, offloads=True)} == {"not measured"}
    assert not any(v.met for v in verdicts(nothing, offloads=True))
    lines = reach_table(None, run()).split("\n")
    assert len(lines) == 2 + len(LINES)
    assert lines[2] == "| TCP against raw veth | ≥ 0.33 | – | ≥ 0.6 | 0.60: met |"


# ---- a whole run, kept and shown


def report() -> Report:
    some = run()
    mode = Mode(dict(some.paths), {k: dict(v) for k, v in some.weather.items()},
                samples(tcp1=[3.0]), 5, dict(some.forged))  # fmt: skip
    mode.paths["nebula"].add("udp64_cpu", math.nan)
    return Report({"Machine": "of brass"}, {"off": mode})


def test_a_report_comes_back_from_its_json_as_it_was() -> None:
    octets = json.dumps(to_json(report()), allow_nan=False)
    again = from_json(json.loads(octets))
    assert json.dumps(to_json(again), allow_nan=False) == octets
    assert markdown(again) == markdown(report())


@pytest.mark.parametrize("octets", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "modes": 3}',
                                    '{"format": 1, "about": {}, "modes": {"on": {}}}'])  # fmt: skip
def test_what_is_no_report_is_refused(tmp_path: Path, octets: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(octets)
    with pytest.raises(ValueError, match=r"results\.json"):
        load(path)


def test_the_text_says_where_it_was_measured_and_what_was_met() -> None:
    text = markdown(report())
    assert "* Machine: of brass" in text
    assert "0.60: met" in text
    assert "| 1 %, cubic | 1000.0 | 800.0 | 0.80 |" in text
    assert "wrong-tag 0.90 (0.45)" in text
    assert "it lost 5 frames" in text


def test_results_go_between_the_marks_and_nowhere_else() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert published(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    with pytest.raises(ValueError, match="no marks"):
        published("a page without", "new")
    assert published((ROOT / "docs" / "benchmarks.md").read_text(), "new").count("new\n") >= 1


def test_the_plot_is_svg_with_a_bar_for_each_path_of_each_panel() -> None:
    drawn = svg(report())
    root = ElementTree.fromstring(drawn)
    names = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert names.count("sleeve") == sum(panel.mode == "off" for panel in PANELS) - 1
    assert "One TCP stream, Gb/s, offloads off" in names
    assert not any(name is not None and name.endswith("offloads on") for name in names)
    widths = [float(w) for w in re.findall(r'<rect x=[^>]* width="([\d.]+)"', drawn)]
    assert max(widths) <= float(root.attrib["width"])
    assert widths[0] == pytest.approx(widths[2] * 10 / 6, rel=0.01), "raw is 10 and the sleeve 6"


# ---- the rest


def test_forged_frames_have_genuine_headers() -> None:
    octets = frame(bytes(6), "10.99.1.1", "10.99.1.2", 6783, b"payload")
    header = octets[14:34]
    words = sum(int.from_bytes(header[n : n + 2], "big") for n in range(0, 20, 2))
    assert words % 0xFFFF == 0, "the checksum of IPv4"
    assert int.from_bytes(header[2:4], "big") == len(octets) - 14
    assert octets[34:38] == (6783).to_bytes(2, "big") * 2
    assert octets[42:] == b"payload"


@pytest.mark.parametrize(
    "arguments",
    [["--rows", "raw,nobody"], ["--rounds", "0"], ["--seconds", "0"], ["--seconds", "nan"]],
)
def test_orders_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    args = peers.parse(arguments)
    assert peers.refusal(args, args.rows.split(",")) is not None


def test_columns_have_keys_of_their_own() -> None:
    assert len({column.key for column in COLUMNS}) == len(COLUMNS)

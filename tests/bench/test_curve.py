"""The picture of throughput and waiting against load."""

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bench.test_report import SPEED, report

from alpage.bench.curve import curve, draw_curve
from alpage.bench.latency import UNITS
from alpage.bench.report import Measurement, Report
from alpage.bench.serve_like import measurement_name
from alpage.bench.traffic import Load
from alpage.core.errors import UsageError

OPEN = [Load("rate", rate, 16, 50) for rate in (0.5, 1, 4)]
CLOSED = [Load("together", count, count, 50) for count in (16, 64)]


def serving_report(loads: list[Load], *, peer: bool = True) -> Report:
    engines = ("alpage", "llama.cpp") if peer else ("alpage",)
    measured = [
        Measurement(
            measurement_name(load, name), unit,
            {engine: {"": [1.0 + n, 2.0, 3.0]} for n, engine in enumerate(engines)},
        )
        for load in loads
        for name, unit in UNITS.items()
    ]  # fmt: skip
    settings = {"kind": "serving", "threads": 2, "runs": 3}
    settings["loads"] = [load.as_json() for load in loads]
    return replace(report(*measured, peer=peer), settings=settings)


def test_each_kind_of_load_has_a_column(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    widths = []
    for count, loads in enumerate((CLOSED[:1], OPEN, OPEN + CLOSED)):
        file = tmp_path / f"{count}.png"
        draw_curve(serving_report(loads, peer=count > 0), file)
        head = file.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        widths.append(struct.unpack(">II", head[16:24])[0])
    assert widths[0] == pytest.approx(widths[1], rel=0.1)
    assert widths[2] > 1.5 * widths[1]


def test_nothing_lies_outside_the_picture() -> None:
    pytest.importorskip("matplotlib")
    drawn = serving_report(OPEN + CLOSED)
    for load, measured in zip([*OPEN, *CLOSED], drawn.measurements[:: len(UNITS)], strict=True):
        measured.engines["alpage"][""][:] = [100 * load.value] * 3
    axes = curve(drawn).axes
    assert len(axes) == 6
    for panel in axes:
        low, high = panel.get_ylim()
        for line in panel.lines:
            values = [float(value) for value in line.get_ydata()]
            assert low <= min(values)
            assert max(values) <= high
    assert axes[0].get_ylim()[0] == 0


def test_other_reports_have_no_curve(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no loads"):
        draw_curve(report(SPEED), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())

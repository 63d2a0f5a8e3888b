"""What a report says: medians, ratios of pairs, and the better variant of a peer."""

import json

import pytest

from alpage.bench.report import Measurement, Report
from alpage.core.errors import FormatError

SPEED = Measurement(
    "decode",
    "tokens/s",
    {
        "alpage": {"": [300.0, 400.0, 500.0]},
        "llama.cpp": {"flash attention": [100, 90, 80], "no flash attention": [100, 100, 250]},
    },
)  # fmt: skip
START = Measurement(
    "load", "s", {"alpage": {"": [0.2, 0.1, 0.3]}, "llama.cpp": {"": [0.4, 0.4, 0.3]}}
)
ALONE = Measurement("decode through the scheduler", "tokens/s", {"alpage": {"": [12.345]}})


def report(*measurements: Measurement, peer: bool = True) -> Report:
    engines = {"alpage": {"version": "1.2.3", "isa": "avx2"}}
    if peer:
        engines["llama.cpp"] = {"version": "llama-cpp-python 9", "build": "AVX2 = 1"}
    return Report(
        date="2026-01-02T03:04:05+00:00",
        command="alpage bench model.gguf",
        model={"name": "A model", "file": "model.gguf", "quantization": "Q4_1", "bytes": 1},
        machine={
            "processor": "A processor", "usable_processors": 2, "last_level_cache": None,
            "memory_bytes": 8 << 30, "system": "Linux 6", "python": "CPython 3",
        },
        settings={"threads": 2, "runs": 3},
        engines=engines,
        measurements=measurements,
        notes=["a note"],
    )  # fmt: skip


def test_the_peers_better_variant_counts() -> None:
    assert SPEED.best_variant("llama.cpp") == "no flash attention"
    assert SPEED.median("llama.cpp") == 100
    slow = {name: [1 / v for v in values] for name, values in SPEED.engines["llama.cpp"].items()}
    seconds = Measurement("load", "s", {"llama.cpp": slow})
    assert seconds.best_variant("llama.cpp") == "no flash attention"


def test_ratios_are_of_pairs_and_above_one_where_alpage_is_better() -> None:
    assert SPEED.ratios("alpage", "llama.cpp") == [3, 4, 2]
    assert START.ratios("alpage", "llama.cpp") == pytest.approx([2, 4, 1])


def test_the_table() -> None:
    rows = report(SPEED, START, ALONE).table()
    assert rows == [
        ["", "Alpage", "llama.cpp", "times better (range)"],
        ["decode", "400 tokens/s", "100 tokens/s", "3.00x (2.00 - 4.00)"],
        ["load", "200 ms", "400 ms", "2.00x (1.00 - 4.00)"],
        ["decode through the scheduler", "12.3 tokens/s", "", ""],
    ]
    assert report(ALONE, peer=False).table()[0] == ["", "Alpage"]


def test_markdown_says_what_is_needed_to_read_it() -> None:
    text = report(SPEED, START).markdown()
    for part in (
        "### model.gguf beside llama.cpp, avx2, 2026-01-02",
        "A processor, 2 processors, 8 GiB, Linux 6, CPython 3",
        "Alpage 1.2.3, avx2",
        "llama-cpp-python 9; AVX2 = 1",
        "2 threads, medians of 3 runs",
        "`alpage bench model.gguf`",
        "| decode | 400 tokens/s | 100 tokens/s | 3.00x (2.00 - 4.00) |",
        "- a note",
    ):
        assert part in text, part


def test_a_report_survives_json_with_its_summary() -> None:
    first = report(SPEED, START, ALONE)
    text = first.to_json()
    again = Report.from_json(text)
    assert again.markdown() == first.markdown()
    assert again.to_json() == text
    decode = json.loads(text)["measurements"][0]
    assert decode["median"] == {"alpage": 400, "llama.cpp": 100}
    assert decode["ratio"] == 3
    assert decode["counted_variant"]["llama.cpp"] == "no flash attention"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format": 1, "measurements": [1]}']
)
def test_what_is_no_report(text: str) -> None:
    with pytest.raises(FormatError, match="report"):
        Report.from_json(text)


def test_a_share_of_another_figure_is_shown_for_both_and_not_compared() -> None:
    share = Measurement(
        "decode, of that rate", "%", {"alpage": {"": [91.6]}, "llama.cpp": {"": [40]}}
    )
    found = report(SPEED, share)
    assert found.table()[2] == ["decode, of that rate", "92%", "40%", ""]
    assert [measurement.name for measurement in found.compared()] == ["decode"]
    assert (
        Measurement("reading memory", "GB/s", {"alpage": {"": [23.96]}}).median("alpage") == 23.96
    )
    assert report(ALONE, peer=False).compared() == []

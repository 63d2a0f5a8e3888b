"""The picture of a comparison."""

import importlib.util
import struct
from pathlib import Path

import pytest
from tests.bench.test_report import ALONE, SPEED, START, report

from alpage.bench import plot
from alpage.core.errors import StorageError, UsageError


def test_a_picture_grows_with_the_figures_and_shows_only_those_compared(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    heights = []
    for count, figures in enumerate(((SPEED,), (SPEED, ALONE), (SPEED, START, ALONE))):
        file = tmp_path / f"{count}.png"
        plot.draw(report(*figures), file)
        head = file.read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        width, height = struct.unpack(">II", head[16:24])
        assert width > 600
        heights.append(height)
    assert heights[0] == heights[1] < heights[2]


def test_what_cannot_be_drawn_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(UsageError, match="nothing of the report was compared"):
        plot.draw(report(ALONE, peer=False), tmp_path / "a.png")
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(StorageError, match=r"not a folder|File exists"):
        plot.draw(report(SPEED), file / "b.png")
    assert list(tmp_path.iterdir()) == [file]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install 'alpage\\[bench\\]'"):
        plot.check_plotting()

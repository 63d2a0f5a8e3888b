"""Observers do not disturb each other, nor the call."""

import json
from pathlib import Path

from tests.server.observe.views import View, watch

from alpage.server.observe.logs import logging_to
from alpage.server.observe.observer import CallView, Observer, Observers


class Notes:
    def __init__(self) -> None:
        self.seen: list[tuple[object, ...]] = []

    def began(self, call: CallView) -> None:
        self.seen.append(("began", call.id))

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        self.seen.append(("piece", seconds, tokens, first))

    def ended(self, call: CallView) -> None:
        self.seen.append(("ended", call.id))


class Broken:
    def began(self, call: CallView) -> None:
        raise ValueError("began")

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        raise ValueError("piece")

    def ended(self, call: CallView) -> None:
        raise ValueError("ended")


def test_all_are_told_and_a_failure_is_logged_once(tmp_path: Path) -> None:
    first, last = Notes(), Notes()
    everyone: Observer = Observers(first, Broken(), last)
    log = tmp_path / "log"
    with logging_to(log):
        for _ in range(3):
            watch(everyone, View(), 0.5, 0.25)
    told = [
        ("began", "req-1"),
        ("piece", 0.5, 1, True),
        ("piece", 0.25, 1, False),
        ("ended", "req-1"),
    ]
    assert first.seen == last.seen == told * 3
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["event"] == "observer_failed"
    assert line["level"] == "error"
    assert line["observer"] == "Broken"
    assert "ValueError: began" in line["traceback"]

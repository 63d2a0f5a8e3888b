"""How far long work is: a bar on a terminal, plain lines in a log. Both on standard error."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from alpage.cli.output import megabytes, note

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


@contextlib.contextmanager
def download_progress(name: str) -> Iterator[Progress]:
    """What to give to `pull` for the model `name`: bytes."""
    with byte_progress(name) as progress:
        yield progress


@contextlib.contextmanager
def byte_progress(name: str) -> Iterator[Progress]:
    """Bytes done and in all, of what is called `name`."""
    if not sys.stderr.isatty():
        yield _Lines(name, megabytes)
        return
    from rich.progress import DownloadColumn, TransferSpeedColumn

    with _bar(name, DownloadColumn(), TransferSpeedColumn()) as progress:
        yield progress


@contextlib.contextmanager
def count_progress(name: str, unit: str) -> Iterator[Progress]:
    """Things done and in all; `unit` is what they are called."""
    if not sys.stderr.isatty():
        yield _Lines(name, lambda count: f"{count:,} {unit}")
        return
    from rich.progress import MofNCompleteColumn

    with _bar(name, MofNCompleteColumn()) as progress:
        yield progress


@contextlib.contextmanager
def _bar(name: str, *middle: Any) -> Iterator[Progress]:
    from rich.console import Console  # only here: rich takes a tenth of a second to load
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), *middle, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """A line for each tenth of the way."""

    def __init__(self, name: str, text: Callable[[int], str]) -> None:
        self._name = name
        self._text = text
        self._shown = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // total
        if tenths > self._shown:
            self._shown = tenths
            note(f"{self._name}: {self._text(done)} of {self._text(total)} ({10 * tenths} %)")

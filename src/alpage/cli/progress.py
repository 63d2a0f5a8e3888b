"""How far a download is: a bar on a terminal, plain lines in a log. Both on standard error."""

import contextlib
import sys
from collections.abc import Iterator

from alpage.cli.output import megabytes, note
from alpage.weights.pull import Progress


@contextlib.contextmanager
def download_progress(name: str) -> Iterator[Progress]:
    """What to give to `pull` for the model `name`."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    from rich.console import Console  # only here: rich takes a tenth of a second to load
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """A line for each tenth of the way."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // total
        if tenths > self._shown:
            self._shown = tenths
            note(f"{self._name}: {megabytes(done)} of {megabytes(total)} ({10 * tenths} %)")

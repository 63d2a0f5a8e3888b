"""What goes to the terminal: text that cannot control it, tables, sizes, JSON."""

import json
import sys
from collections.abc import Sequence
from typing import Any

# All of Unicode's control characters (C0, DEL, C1) but the line end and the tab.
_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
_REMOVED = dict.fromkeys(_CONTROLS)
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    """`text` without control characters: what a model or a file says cannot steer a terminal."""
    return text.translate(_REMOVED)


def say(text: str, *, end: str = "\n") -> None:
    """`text` on standard output, at once, without control characters."""
    sys.stdout.write(printable(text) + end)
    sys.stdout.flush()


def note(text: str) -> None:
    """A line for the person who waits, on standard error."""
    sys.stderr.write(printable(text) + "\n")
    sys.stderr.flush()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    # JSON leaves DEL and the C1 controls as they are; inside a string they may be escaped.
    say(json.dumps(value, ensure_ascii=False, indent=2).translate(_ESCAPED))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: drawn on a terminal, plain aligned columns in a pipe."""
    cells = [[printable(cell).replace("\n", " ") for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(head, cells)
        return
    widths = [max(len(row[i]) for row in (head, *cells)) for i in range(len(head))]
    for row in (head, *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(line.rstrip())


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values on standard output, one a line, values aligned."""
    if sys.stdout.isatty():
        _draw(None, [[name, printable(value)] for name, value in facts])
        return
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        say(f"{name.ljust(width)}  {value}".rstrip())


def _draw(head: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # only here: rich takes a tenth of a second to load
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=head is not None, pad_edge=False, header_style="bold")
    for name in head or [""] * len(rows[0]):
        table.add_column(name, style="bold" if head is None and not table.columns else "")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def megabytes(count: float) -> str:
    """A size for people: "98.4 MB"."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"

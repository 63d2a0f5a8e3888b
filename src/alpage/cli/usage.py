"""`alpage usage`: what the keys of a server have used."""

import contextlib
import csv
import datetime
import io
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from alpage.cli.dates import day, moment
from alpage.cli.options import DatabaseUrl, Json
from alpage.cli.output import print_json, print_table, say
from alpage.core.errors import UsageError
from alpage.core.paths import atomic_write
from alpage.core.settings import Settings
from alpage.server.accounts.database import default_url, open_database
from alpage.server.accounts.usage import By, Total, Usage, UsageRecord

From = Annotated[
    str | None,
    typer.Option("--from", metavar="DATE", help="The first day (UTC), like 2027-01-31."),
]
To = Annotated[str | None, typer.Option("--to", metavar="DATE", help="The last day.")]


class ByName(StrEnum):
    """What totals are of, as an option that can be repeated takes it."""

    DAY = "day"
    KEY = "key"
    MODEL = "model"


TotalsBy = Annotated[
    list[ByName] | None,
    typer.Option("--by", help="What totals are of. Can be repeated. Default: key."),
]
Records = Annotated[
    bool, typer.Option("--records", help="Single requests instead of totals, with --csv.")
]
Csv = Annotated[
    str | None,
    typer.Option("--csv", metavar="FILE|-", help="Write CSV there; - is standard output."),
]


def command(
    context: typer.Context,
    start: From = None,
    end: To = None,
    by: TotalsBy = None,
    records: Records = False,
    csv_file: Csv = None,
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Show what the keys of a server have used: totals by key, model or day.

    Tokens of a prompt that had been computed for an earlier one are counted, and listed as cached
    too. Errors are requests with a status of 400 and more.
    """
    given = (start, end, by, records or None, csv_file, json or None)
    if context.invoked_subcommand is not None:
        if any(value is not None for value in given) or database is not None:
            raise UsageError(f"options of alpage usage {context.invoked_subcommand} come after it")
        return
    days = day("--from", start), day("--to", end)
    if days[0] and days[1] and days[0] > days[1]:
        raise UsageError(f"--from {start} is later than --to {end}")
    if json and csv_file is not None:
        raise UsageError("either --json or --csv")
    if records and (csv_file is None or by):
        raise UsageError("--records goes with --csv, and without --by")
    with _usage(database) as usage:
        if records:
            rows = (_record(record) for record in usage.records(*days))
            _write_csv(str(csv_file), list(UsageRecord.__slots__), rows)
            return
        kinds: list[By] = list(dict.fromkeys(each.value for each in by or [ByName.KEY]))
        totals = [_facts(total, kinds) for total in usage.totals(kinds, *days)]
    columns = _columns(kinds)
    if json:
        print_json(totals)
    elif csv_file is not None:
        _write_csv(csv_file, columns, totals)
    else:
        head = [name.replace("_tokens", "").replace("_", " ").upper() for name in columns]
        print_table(head, [[_cell(row[name]) for name in columns] for row in totals])


def prune(
    before: Annotated[
        str, typer.Option("--before", metavar="DATE", help="The first day (UTC) to keep.")
    ],
    database: DatabaseUrl = None,
    json: Json = False,
) -> None:
    """Remove the records of the days before a day."""
    first = day("--before", before)
    assert first is not None
    if first > datetime.datetime.now(datetime.UTC).date():
        raise UsageError(f"--before {before} is in the future: today's quotas need today's records")
    with _usage(database) as usage:
        count = usage.prune(first)
    if json:
        print_json({"removed": count})
        return
    say(f"{count:,} records of the days before {first} removed")


COMMANDS = {"prune": prune}
ALONE = True


@contextlib.contextmanager
def _usage(url: str | None) -> Iterator[Usage]:
    database = open_database(url or default_url(Settings.from_environment()))
    try:
        yield Usage(database)
    finally:
        database.close()


def _columns(kinds: list[By]) -> list[str]:
    named = [name for kind in kinds for name in ((kind, "key_name") if kind == "key" else (kind,))]
    counts = ("requests", "errors", "prompt_tokens", "cached_tokens", "completion_tokens")
    return [*named, *counts]


def _facts(total: Total, kinds: list[By]) -> dict[str, Any]:
    facts = asdict(total)
    if total.day is not None:
        facts["day"] = total.day.isoformat()
    return {name: facts[name] for name in _columns(kinds)}


def _record(record: UsageRecord) -> dict[str, Any]:
    return asdict(record) | {"time": moment(record.time)}


def _cell(value: object) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _write_csv(target: str, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    if target == "-":
        _csv_into(sys.stdout, columns, rows)
        return
    with atomic_write(Path(target)) as file:
        stream = io.TextIOWrapper(file, "utf-8", newline="")
        _csv_into(stream, columns, rows)
        stream.flush()
        stream.detach()  # whoever opened the file closes it


def _csv_into(stream: TextIO, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_harmless(row[name]) for name in columns])


def _harmless(value: Any) -> Any:
    """A value of which no spreadsheet makes a formula and no terminal a command."""
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() else "\ufffd" for c in value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text

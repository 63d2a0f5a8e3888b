"""Usage: nothing that was committed is lost, nothing counts twice, and totals add up."""

import asyncio
import datetime
import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from sqlalchemy import event, text
from tests.server.accounts.postgres import Postgres
from tests.server.accounts.usage_process import record

from alpage.core.errors import CapacityError, StorageError
from alpage.server.accounts import Accounts, Caller, Limits, QuotaError
from alpage.server.accounts.database import Database, open_database
from alpage.server.accounts.usage import Total, Usage

CHECKOUT = Path(__file__).resolve().parents[3]


@pytest.fixture
def usage(database: Database) -> Iterator[Usage]:
    opened = Usage(database)
    yield opened
    opened.close()


def at(day: int, hour: float = 12) -> float:
    """A time of January 2026."""
    when = datetime.datetime(2026, 1, day, tzinfo=datetime.UTC) + datetime.timedelta(hours=hour)
    return when.timestamp()


def test_what_is_recorded_is_read(usage: Usage) -> None:
    records = [
        record("a"),
        record("b", key=None, model=None, finish_reason=None, first_token_seconds=None, status=503),
    ]
    for future in [usage.record(each) for each in records]:
        assert future.result(30) is None
    assert list(usage.records()) == records and usage.waiting() == 0


def test_kill_9_loses_no_committed_record(url: str) -> None:
    command = [sys.executable, "-m", "tests.server.accounts.usage_process", url]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline().strip() for _ in range(100)]
        process.kill()
        whole, _, cut = process.stdout.read().rpartition("\n")
    printed += whole.split()
    database = open_database(url)
    there = [each.call for each in Usage(database).records()]
    database.close()
    assert len(there) == len(set(there)) and cut not in printed
    assert set(printed) <= set(there) and len(printed) >= 100


def test_those_that_wait_together_share_one_commit(database: Database) -> None:
    commits: list[object] = []
    event.listen(database._writer, "commit", commits.append)
    usage = Usage(database)
    with database.writing():  # SQLite's writer waits here; PostgreSQL's may not
        futures = [usage.record(record(str(number))) for number in range(400)]
    for future in futures:
        future.result(30)
    assert 1 <= len(commits) < 100
    usage.close()


def test_async_callers_and_those_who_cancel(usage: Usage) -> None:
    async def ask() -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(usage.record(record("gone"))))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wrap_future(usage.record(record("stays")))

    asyncio.run(ask())
    assert [each.call for each in usage.records()] == ["gone", "stays"]


def test_a_database_that_is_away_for_a_while(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    database = open_database(postgres.empty())
    usage = Usage(database, most_waiting=20)
    usage.record(record("before")).result(30)
    postgres.stop()
    try:
        with caplog.at_level(logging.INFO, logger="alpage.server.accounts.usage"):
            futures = [usage.record(record(str(number))) for number in range(20)]
            with pytest.raises(CapacityError, match="20 records of usage wait for the database"):
                usage.record(record("one too many"))
            while "next try in" not in caplog.text:
                time.sleep(0.02)
            assert not any(future.done() for future in futures) and usage.waiting() == 20
            postgres.start()
            for future in futures:
                future.result(60)
        assert "usage is recorded again" in caplog.text and "pass word" not in caplog.text
    finally:
        postgres.start()
    calls = [each.call for each in usage.records()]
    assert sorted(calls) == sorted(["before", *map(str, range(20))])
    usage.close()
    database.close()


def test_closing_does_not_wait_for_ever(postgres: Postgres) -> None:
    database = open_database(postgres.empty())
    usage = Usage(database)
    postgres.stop()
    try:
        futures = [usage.record(record(str(number))) for number in range(1200)]
        usage.close(seconds=0.3)
        assert all(isinstance(future.exception(0), StorageError) for future in futures)
        with pytest.raises(CapacityError, match="the server is closing"):
            usage.record(record("late"))
    finally:
        postgres.start()
    database.close()


def test_closing_writes_what_waits(database: Database) -> None:
    usage = Usage(database)
    futures = [usage.record(record(str(number))) for number in range(1200)]
    usage.close()
    assert all(future.exception(0) is None for future in futures)
    assert [each.call for each in usage.records()] == [str(number) for number in range(1200)]


def test_a_try_that_was_not_heard_is_not_written_twice(database: Database) -> None:
    """The connection breaks after the commit: the next try finds the record there."""
    usage = Usage(database)
    broken = threading.Event()
    whole = usage._insert

    def insert(batch: list[object]) -> None:
        whole(batch)  # type: ignore[arg-type]
        if not broken.is_set():
            broken.set()
            raise StorageError("the answer to COMMIT was lost")

    usage._insert = insert  # type: ignore[method-assign, assignment]
    usage.record(record("once")).result(30)
    assert broken.is_set() and [each.call for each in usage.records()] == ["once"]
    usage.close()


def test_hostile_values_are_stored_as_they_can_be(usage: Usage) -> None:
    hostile = record(
        "c" * 5000, key_name="\0nul", tenant="\ud800", model="m" * 10_000, status=10**9,
        finish_reason="x" * 5000, prompt_tokens=-5, completion_tokens=10**30,
        seconds=float("nan"), first_token_seconds=float("inf"), time=1e300,
    )  # fmt: skip
    usage.record(hostile).result(30)
    (stored,) = usage.records()
    assert len(stored.call) == 100 and len(stored.model or "") == 200
    assert (stored.key_name, stored.tenant) == ("\ufffdnul", "?")
    assert (stored.prompt_tokens, stored.completion_tokens) == (0, 2**53)
    assert (stored.seconds, stored.first_token_seconds, stored.status) == (0.0, None, 999)


def test_one_refused_record_does_not_hold_up_the_others(database: Database) -> None:
    with database.writing() as connection:
        if database.sqlite:
            connection.execute(
                text(
                    "CREATE TRIGGER no_bad BEFORE INSERT ON alpage_usage WHEN NEW.call = 'bad' "
                    "BEGIN SELECT RAISE(ABORT, 'no bad ones'); END"
                )
            )
        else:
            connection.execute(text("ALTER TABLE alpage_usage ADD CHECK (call <> 'bad')"))
    usage = Usage(database)
    futures = {call: usage.record(record(call)) for call in ("one", "bad", "two", "three")}
    assert isinstance(futures.pop("bad").exception(30), StorageError)
    for future in futures.values():
        future.result(30)
    assert [each.call for each in usage.records()] == ["one", "two", "three"]
    usage.close()


def fill(usage: Usage) -> None:
    futures: list[Future[None]] = []
    askers = (("a", "x"), ("a", "y"), ("b", "x"), (None, "x"))
    for day, (key, model), status in itertools.product((1, 2, 3), askers, (200, 429)):
        who = {"key": key, "key_name": f"name of {key}", "model": model}
        one = record("call", time=at(day), status=status, prompt_tokens=100 * day, **who)
        futures.append(usage.record(one))
    for future in futures:
        future.result(30)


def test_totals(usage: Usage) -> None:
    assert usage.totals(["day", "key", "model"]) == []
    fill(usage)
    first, second = datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)
    assert usage.totals(["day"], first, second) == [
        Total(day, None, None, None, 8, 4, 800 * day.day, 32, 40) for day in (first, second)
    ]
    by_key = {total.key: total for total in usage.totals(["key"], second)}
    assert by_key["a"] == Total(None, "a", "name of a", None, 8, 4, 2000, 32, 40)
    assert by_key["b"].requests == by_key[None].requests == 4
    assert [(t.model, t.requests) for t in usage.totals(["model"])] == [("x", 18), ("y", 6)]
    whole = usage.totals(["day", "key", "model"])
    assert len(whole) == 12 and sum(total.requests for total in whole) == 24
    assert usage.tokens_of(first) == {"a": 420, "b": 210}


def test_days_are_those_of_utc(usage: Usage) -> None:
    for call, when in (("early", at(5, 0)), ("late", at(5, 23.99)), ("next", at(6, 0))):
        usage.record(record(call, time=when)).result(30)
    day = datetime.date(2026, 1, 5)
    assert [each.call for each in usage.records(day, day)] == ["early", "late"]


def test_prune(usage: Usage) -> None:
    fill(usage)
    assert usage.prune(datetime.date(2026, 1, 3)) == 16
    assert {total.day for total in usage.totals(["day"])} == {datetime.date(2026, 1, 3)}


def test_a_restart_remembers_the_day(url: str) -> None:
    who = Caller("k", "k", "", frozenset(), limits=Limits(tokens_per_day=100))
    with Accounts(url) as accounts:
        used = record("a", time=time.time(), prompt_tokens=60, completion_tokens=30)
        accounts.usage.record(used).result(30)
    with Accounts(url) as again:
        admission = again.quotas.enter(who)
        with pytest.raises(QuotaError, match="100 tokens a day; 90 are used"):
            admission.reserve(11, 0)
        assert admission.reserve(0, None) == 10
    assert again.shown.startswith(url[:9]) and "pass" not in again.shown

"""Records of what was used: written before an answer ends, so that no crash loses one."""

import datetime
import itertools
import logging
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import ColumnElement, Insert, Row, and_, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DataError, IntegrityError

from alpage.core.errors import CapacityError, StorageError
from alpage.server.accounts.database import Database
from alpage.server.accounts.tables import USAGE

By = Literal["day", "key", "model"]

MOST_WAITING = 10_000
"""Records in memory while the database is slow or away; about a kilobyte each."""

_BATCH = 500
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds between tries
_CLOSE_SECONDS = 10.0
_LARGEST = 2**53
_LAST_TIME = 250_000_000_000.0  # of a day that calendars have
_KINDS = ("prompt", "cached", "completion")
_LENGTHS = {column.name: getattr(column.type, "length", None) for column in USAGE.columns}
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One request that ended. `time` is when, in seconds since 1970."""

    time: float
    call: str
    key: str | None
    key_name: str
    tenant: str
    model: str | None
    endpoint: str
    status: int
    finish_reason: str | None
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_token_seconds: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Total:
    """What several records come to; None in what they were not told apart by."""

    day: datetime.date | None
    key: str | None
    key_name: str | None
    model: str | None
    requests: int
    errors: int
    """Requests with a status of 400 and more."""
    prompt_tokens: int
    cached_tokens: int
    """Of the prompts' tokens, those that had been computed before."""
    completion_tokens: int


@dataclass(slots=True)
class _Waiting:
    row: dict[str, Any]
    done: Future[None]


class Usage:
    """The records of one database.

    A thread writes what waits in one transaction, so that many requests share one wait for the
    disk. While the database is away, records wait and are tried again.
    """

    def __init__(self, database: Database, *, most_waiting: int = MOST_WAITING) -> None:
        self._database = database
        self._most = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._give_up = threading.Event()
        self._thread: threading.Thread | None = None

    def record(self, record: UsageRecord) -> Future[None]:
        """Write a record; the future ends when it is on the disk, and cannot be cancelled.

        CapacityError where too many wait already. The future fails where the database refuses the
        record for good, or the server closes while the database is away.
        """
        waiting = _Waiting(_row(record), Future())
        waiting.done.set_running_or_notify_cancel()
        with self._changed:
            if self._closing:
                raise CapacityError("usage cannot be recorded: the server is closing")
            if len(self._waiting) >= self._most:
                raise CapacityError(
                    f"{self._most:,} records of usage wait for the database already: try again "
                    "when it is back"
                )
            self._waiting.append(waiting)
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="alpage-usage")
                self._thread.daemon = True
                self._thread.start()
            self._changed.notify()
        return waiting.done

    def waiting(self) -> int:
        """Records that are not on the disk yet."""
        return len(self._waiting)

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Write what waits, but not for longer than `seconds`; what is left fails, and is told."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)
            self._give_up.set()
            self._thread.join()

    def totals(
        self,
        by: Sequence[By],
        start: datetime.date | None = None,
        end: datetime.date | None = None,
    ) -> list[Total]:
        """What was used from the day `start` to the day `end`, both included, told apart `by`."""
        columns: list[ColumnElement[Any]] = [USAGE.c[name] for name in by]
        named = [func.max(USAGE.c.key_name).label("key_name")] if "key" in by else []
        sums = [
            func.count().label("requests"),
            func.sum(case((USAGE.c.status >= 400, 1), else_=0)).label("errors"),
            *(func.sum(USAGE.c[f"{kind}_tokens"]).label(f"{kind}_tokens") for kind in _KINDS),
        ]
        chosen = select(*columns, *named, *sums).where(_between(start, end))
        with self._database.reading() as connection:
            rows = connection.execute(chosen.group_by(*columns).order_by(*columns)).mappings()
            return [_total(row) for row in rows if row["requests"]]

    def records(
        self, start: datetime.date | None = None, end: datetime.date | None = None
    ) -> Iterator[UsageRecord]:
        """Single records of these days, as they came, read as they are asked for."""
        chosen = select(USAGE).where(_between(start, end)).order_by(USAGE.c.id)
        with self._database.reading() as connection:
            streamed = connection.execution_options(yield_per=_BATCH)
            for row in streamed.execute(chosen):
                yield _record(row)

    def tokens_of(self, day: datetime.date) -> dict[str, int]:
        """Tokens of prompts and answers that each key used that day."""
        totals = self.totals(["key"], day, day)
        return {t.key: t.prompt_tokens + t.completion_tokens for t in totals if t.key is not None}

    def prune(self, before: datetime.date) -> int:
        """Remove records of the days before; how many there were."""
        with self._database.writing() as connection:
            return connection.execute(delete(USAGE).where(USAGE.c.day < before)).rowcount

    def _write(self) -> None:
        """The thread: writes until it is told to close and nothing waits."""
        while batch := self._next():
            failed = self._write_until_done(batch)
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
            for waiting in batch:
                error = failed.get(id(waiting))
                if error is None:
                    waiting.done.set_result(None)
                else:
                    waiting.done.set_exception(error)

    def _next(self) -> list[_Waiting]:
        """What waits, in order, still in the queue; empty at the end."""
        with self._changed:
            while not self._waiting and not self._closing:
                self._changed.wait()
            # Where it gives up, one try decides over all.
            most = len(self._waiting) if self._give_up.is_set() else _BATCH
            return list(itertools.islice(self._waiting, most))

    def _write_until_done(self, batch: list[_Waiting]) -> dict[int, StorageError]:
        """Write them all; what failed for good, by identity."""
        pause = _FIRST_PAUSE
        while True:
            try:
                self._insert(batch)
            except _RefusedError as error:
                return self._write_singly(batch, error)
            except StorageError as error:
                if self._give_up.is_set():
                    _LOG.error("%d records of usage are lost: %s", len(batch), error)
                    return {id(waiting): error for waiting in batch}
                _LOG.warning(
                    "%d records of usage wait, next try in %.1f s: %s",
                    len(self._waiting), pause, error,
                )  # fmt: skip
                self._give_up.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                if pause > _FIRST_PAUSE:
                    _LOG.info("usage is recorded again")
                return {}

    def _write_singly(
        self, batch: list[_Waiting], error: "_RefusedError"
    ) -> dict[int, StorageError]:
        """One of them is what the database refuses; the others are written."""
        if len(batch) == 1:
            _LOG.error("a record of usage is lost: %s", error)
            return {id(batch[0]): error}
        failed: dict[int, StorageError] = {}
        for waiting in batch:
            failed |= self._write_until_done([waiting])
        return failed

    def _insert(self, batch: list[_Waiting]) -> None:
        # A try whose end was not heard may have worked: the same id is not written twice.
        insert: Insert
        if self._database.sqlite:
            insert = sqlite.insert(USAGE).on_conflict_do_nothing(index_elements=["id"])
        else:
            insert = postgresql.insert(USAGE).on_conflict_do_nothing(index_elements=["id"])
        try:
            with self._database.writing() as connection:
                connection.execute(insert, [waiting.row for waiting in batch])
        except StorageError as error:
            if isinstance(error.__cause__, DataError | IntegrityError):
                raise _RefusedError(str(error)) from error
            raise
        except Exception as error:  # a value that the driver cannot pass on
            raise _RefusedError(f"{type(error).__name__}: {error}") from error


class _RefusedError(StorageError):
    """What no second try would mend."""


def _between(start: datetime.date | None, end: datetime.date | None) -> ColumnElement[bool]:
    bounds: list[ColumnElement[bool]] = []
    if start is not None:
        bounds.append(USAGE.c.day >= start)
    if end is not None:
        bounds.append(USAGE.c.day <= end)
    return and_(True, *bounds)


def _total(row: Mapping[Any, Any]) -> Total:
    return Total(
        day=row.get("day"),
        key=row.get("key"),
        key_name=row.get("key_name"),
        model=row.get("model"),
        requests=int(row["requests"]),
        errors=int(row["errors"]),
        prompt_tokens=int(row["prompt_tokens"]),
        cached_tokens=int(row["cached_tokens"]),
        completion_tokens=int(row["completion_tokens"]),
    )


def _record(row: Row[Any]) -> UsageRecord:
    return UsageRecord(**{name: getattr(row, name) for name in UsageRecord.__slots__})


def _row(record: UsageRecord) -> dict[str, Any]:
    """A row that every database takes: what clients send may be too long or no text at all."""
    row = {name: _storable(name, value) for name, value in asdict(record).items()}
    when = row["time"] if row["time"] is not None else time.time()
    day = datetime.datetime.fromtimestamp(min(when, _LAST_TIME), datetime.UTC).date()
    # In order of time, so that new rows go to the end of the index.
    return row | {"id": f"{time.time_ns():016x}{secrets.token_hex(8)}", "day": day, "time": when}


def _storable(name: str, value: Any) -> Any:
    if isinstance(value, str):
        text = value.replace("\0", "\ufffd")[: _LENGTHS[name]]
        return text.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return max(0.0, value) if math.isfinite(value) else None if name != "seconds" else 0.0
    if isinstance(value, int):
        return max(0, min(value, _LARGEST if name != "status" else 999))
    return value

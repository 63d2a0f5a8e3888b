"""The database of keys and usage: SQLite in a file, or PostgreSQL by its address.

`open_database` brings the tables up to date. Passwords are in no message and no log.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from alpage.core.errors import StorageError, UnsupportedError, UsageError
from alpage.core.paths import data_home, storage_errors
from alpage.core.settings import Settings
from alpage.server.accounts.tables import VERSION_TABLE

_MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x616C70616765  # of PostgreSQL's advisory locks, the one that is ours
_BUSY_SECONDS = 10.0
_FORMS = "sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"


def default_url(settings: Settings) -> str:
    """The database's address: ALPAGE_DATABASE, or a SQLite file in the data folder."""
    if settings.database is not None:
        return settings.database
    path = str(data_home(settings) / "alpage.db")
    return URL.create("sqlite", database=path).render_as_string(hide_password=False)


class Database:
    """Connections to one database, of which the tables may be old; use from any thread."""

    def __init__(self, url: str) -> None:
        parsed = _parse(url)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        kind = "sqlite" if self.sqlite else "postgresql"
        self.shown = parsed.set(drivername=kind, query={}).render_as_string(hide_password=True)
        """The address as messages may show it."""
        self._secrets = [str(s) for s in (parsed.password, parsed.query.get("password")) if s]
        self._engine = _sqlite(parsed) if self.sqlite else _postgresql(parsed)
        self._writer = self._engine.execution_options(alpage_writes=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection in a transaction that only reads; StorageError where that fails."""
        with self._errors(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection in a transaction that is on the disk at the end of the block, or undone."""
        with self._errors(), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            told = str(error.orig if isinstance(error, DBAPIError) else error)
            told = " ".join(told.split())
            for secret in self._secrets:
                told = told.replace(secret, "***")
            raise StorageError(f"the database {self.shown} cannot be used: {told}") from error


def open_database(url: str) -> Database:
    """The database at `url`, its tables made or brought up to date.

    Two processes may do it at once. UsageError for an address that makes no sense, StorageError
    where the database cannot be reached or used, UnsupportedError where a newer Alpage made it.
    """
    database = Database(url)
    try:
        _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _migrate(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with database.reading() as connection:
        if _is_newest(connection, script, database.shown):
            return
    with database.writing() as connection:
        if not database.sqlite:  # whose transactions that write are one at a time anyway
            connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _MIGRATION_LOCK})
        if not _is_newest(connection, script, database.shown):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _is_newest(connection: Connection, script: ScriptDirectory, shown: str) -> bool:
    """Whether the tables are up to date; UnsupportedError where they are ahead of this version."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    known = {step.revision for step in script.walk_revisions()}
    current = set(context.get_current_heads())
    if unknown := current - known:
        raise UnsupportedError(
            f"the database {shown} was made by a newer Alpage (its tables are at "
            f"{', '.join(sorted(unknown))}, this version knows them up to {max(known)}): update "
            "Alpage, or use another database"
        )
    return current == set(script.get_heads())


def _parse(url: str) -> URL:
    """The address in parts. What is wrong is not quoted: a password may be anywhere in it."""
    if url.startswith("postgres://"):
        url = url.replace("postgres", "postgresql", 1)
    if url.partition("?")[0].count("@") > 1:
        raise UsageError("the database's address has more than one @: write it %40 in a password")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"the database's address is not like {_FORMS}") from None
    name = parsed.drivername
    if name in ("postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if name != "sqlite":
        raise UsageError(f"the database's address begins with {name!r}, and has to be {_FORMS}")
    if not parsed.database or parsed.database.startswith((":memory:", "file:")):
        raise UsageError("the database's address names no file: sqlite:////absolute/path.db would")
    if parsed.query or parsed.host:
        raise UsageError("a SQLite address is sqlite:/// and a path, without options")
    return parsed


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    with storage_errors(f"make the database {path}"):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its other files the permissions of the first.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    engine = create_engine(
        url, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True, pool_timeout=30
    )

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        # The driver begins transactions late by itself, and not around changes of tables.
        connection.isolation_level = None
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        # A transaction that reads first and writes then can fail where another one writes.
        writes = connection.get_execution_options().get("alpage_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_wal(connection: Any) -> None:
    """Readers beside a writer. The change itself does not wait for others that make it too."""
    import sqlite3  # for who uses it only

    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _postgresql(url: URL) -> Engine:
    # A server that does not answer is noticed in seconds, by what waits for it.
    options: dict[str, object] = {"connect_timeout": 5, "tcp_user_timeout": 15_000}
    options |= {"keepalives_idle": 10, "application_name": "alpage"}
    given = {name: value for name, value in options.items() if name not in url.query}
    try:
        return create_engine(url, connect_args=given, hide_parameters=True, pool_pre_ping=True)
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"PostgreSQL needs the package {error.name}: pip install 'alpage[postgresql]'"
        ) from error

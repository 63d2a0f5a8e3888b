"""The database: made, brought up to date by several at once, refused; its address kept secret."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from tests.server.accounts.postgres import Postgres

from alpage.core.errors import AlpageError, StorageError, UnsupportedError, UsageError
from alpage.core.paths import data_home
from alpage.core.settings import Settings
from alpage.server.accounts.database import Database, default_url, open_database
from alpage.server.accounts.tables import METADATA, VERSION_TABLE

OPEN = "import sys; from alpage.server.accounts.database import open_database as o; o(sys.argv[1])"


def test_migrations_leave_the_tables_that_the_code_knows(database: Database) -> None:
    with database.reading() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, METADATA) == []


def test_several_processes_may_make_it_at_once(url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", OPEN, url], stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    told = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, told
    again = open_database(url)
    with again.reading() as connection:
        rows = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).all()
    assert len(rows) == 1
    again.close()


def test_a_newer_database_is_refused(database: Database, url: str) -> None:
    with database.writing() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(UnsupportedError, match=r"by a newer Alpage .* at 9999.*up to 0001"):
        open_database(url)


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    with pytest.raises(StorageError, match="nowhere"), database.writing() as connection:
        connection.execute(text("CREATE TABLE halfway (n INTEGER)"))
        connection.execute(text("SELECT * FROM nowhere"))
    with pytest.raises(StorageError, match="halfway"), database.reading() as connection:
        connection.execute(text("SELECT * FROM halfway"))


def test_the_file_belongs_to_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.db"
    database = open_database(f"sqlite:///{path}")
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE more (n INTEGER)"))
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["a.db", "a.db-shm", "a.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2  # FULL
    database.close()


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    if sys.platform == "linux":
        assert data_home(Settings()) == tmp_path / "alpage"
        monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")
        assert data_home(Settings()) == Path.home() / ".local" / "share" / "alpage"
    home = Settings.from_environment({"ALPAGE_HOME": str(tmp_path)})
    assert default_url(home) == f"sqlite:///{tmp_path}/data/alpage.db"
    given = Settings.from_environment({"ALPAGE_DATABASE": "postgresql://h/d"})
    assert default_url(given) == "postgresql://h/d"


def test_a_strange_path_is_a_path(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "100 % real? #1 äé")
    open_database(default_url(settings)).close()
    assert (data_home(settings) / "alpage.db").is_file()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("keys.db", "is not like sqlite:///PATH or postgresql://"),
        ("", "is not like sqlite:///PATH"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///a.db?mode=ro", "without options"),
        ("mysql://user:secret@host/d", "begins with 'mysql'"),
        ("postgresql://user:se@cret@host/d", "more than one @"),
        ("postgresql://host:secret", "is not like"),
        ("postgresql://user:secret@127.0.0.1:port/d", "is not like"),
    ],
)
def test_a_wrong_address_is_told_and_not_quoted(wrong: str, told: str) -> None:
    with pytest.raises(UsageError) as error:
        open_database(wrong)
    assert told in str(error.value)
    assert "secret" not in str(error.value) and "cret@" not in str(error.value)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("This is no database. " * 100)
    with pytest.raises(StorageError, match=r"text\.db cannot be used: file is not a database"):
        open_database(f"sqlite:///{path}")
    with pytest.raises(StorageError, match=r"cannot make the database .*below\.db: "):
        open_database(f"sqlite:///{path}/below.db")


def test_passwords_are_in_no_message(postgres: Postgres) -> None:
    address = f"127.0.0.1:{postgres.port}/postgres"
    for url in (
        f"postgresql://alpage:hidden@{address}",
        f"postgres://alpage@{address}?password=hidden",
        f"postgresql://alpage:hidden@{address}?options=hidden",
        f"postgresql://alpage:hidden@{address}?hidden=hidden&sslmode=hidden",
    ):
        with pytest.raises(AlpageError, match="cannot be used") as error:
            open_database(url)
        assert "hidden" not in str(error.value) and "127.0.0.1" in str(error.value)

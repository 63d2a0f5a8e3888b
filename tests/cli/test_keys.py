"""`alpage keys` and `alpage usage`: what an operator types."""

import csv
import datetime
import io
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Alpage, Done
from tests.server.accounts.usage_process import record

from alpage.cli import main
from alpage.server.accounts import Accounts

Run = Callable[..., Done]


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `alpage ARGUMENTS` in this process, which is quicker."""
    monkeypatch.setenv("ALPAGE_HOME", str(home))

    def call(*arguments: str | Path) -> Done:
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Done(arguments, code, said.out, said.err)

    return call


def test_a_key_from_creation_to_revocation(alpage: Alpage, home: Path) -> None:
    made = alpage(
        "keys", "create", "build", "--tenant", "ci", "--scope", "inference", "--scope", "metrics",
        "--requests-per-minute", "60", "--tokens-per-day", "100000", "--concurrent", "4",
        "--model", "smollm2", "--model", "other", "--weight", "2", "--priority", "1",
        "--expires", "2999-01-31",
    )  # fmt: skip
    secret = made.stdout.strip()
    key_id = secret.split("_")[1]
    assert made.returncode == 0 and made.stdout.count("\n") == 1 and secret.startswith("alp_")
    assert (
        made.stderr == f"This is the secret of the key {key_id} (build). It is not shown again.\n"
    )
    path = home / "data" / "alpage.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    (listed,) = json.loads(alpage("keys", "list", "--json").stdout)
    assert listed == json.loads(alpage("keys", "show", key_id, "--json").stdout)
    assert listed | {"created": None} == {
        "id": key_id, "name": "build", "tenant": "ci", "state": "active",
        "scopes": ["inference", "metrics"], "models": ["other", "smollm2"],
        "requests_per_minute": 60, "tokens_per_minute": None, "tokens_per_day": 100_000,
        "concurrent": 4, "weight": 2.0, "priority": 1, "created": None,
        "expires": "2999-02-01T00:00:00Z", "revoked": None,
    }  # fmt: skip
    table = alpage("keys", "list").stdout
    assert "60 requests/minute, 100,000 tokens/day, 4 concurrent" in table
    shown = alpage("keys", "show", key_id).stdout
    assert "tokens per day       100,000\n" in shown and "tokens per minute    -\n" in shown

    rotated = alpage("keys", "rotate", key_id)
    assert rotated.stdout.startswith(f"alp_{key_id}_") and rotated.stdout.strip() != secret
    revoked = alpage("keys", "revoke", key_id)
    assert revoked.stdout.startswith(f"revoked {key_id} (build) at 2")
    again = json.loads(alpage("keys", "revoke", key_id, "--json").stdout)
    assert again["state"] == "revoked"
    for out in (table, shown, revoked.stdout, rotated.stdout, path.read_bytes().decode("latin1")):
        assert secret not in out and secret.rpartition("_")[2] not in out


def test_json_has_the_secret_once(alpage: Alpage) -> None:
    made = json.loads(alpage("keys", "create", "a", "--admin", "--expires", "30d", "--json").stdout)
    assert made["secret"].startswith(f"alp_{made['id']}_") and made["scopes"] == ["admin"]
    expires = datetime.datetime.fromisoformat(made["expires"])
    created = datetime.datetime.fromisoformat(made["created"])
    assert expires - created == datetime.timedelta(days=30)
    assert made["tenant"] == made["id"]


def test_another_database(alpage: Alpage, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}"
    assert alpage("keys", "create", "a", ALPAGE_DATABASE=url).returncode == 0
    assert json.loads(alpage("keys", "list", "--json").stdout) == []
    (listed,) = json.loads(alpage("keys", "list", "--json", "--database", url).stdout)
    assert listed["name"] == "a"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["keys", "create", "a", "--expires", "soon"], "takes a day like 2027-01-31, not 'soon'"),
        (["keys", "create", "a", "--expires", "2020-01-31"], "--expires 2020-01-31 has passed"),
        (["keys", "create", "a", "--expires", "0d"], "--expires takes 1d to 36500d"),
        (["keys", "create", "a", "--expires", "9999999d"], "--expires takes 1d to 36500d"),
        (["keys", "create", "a", "--scope", "root"], "'root' is not one of 'inference'"),
        (["keys", "create", "a", "--concurrent", "0"], "concurrent must be between 1 and"),
        (["keys", "create", "a\nb"], "a name has 1 to 64 printable characters"),
        (["keys", "list", "--database", "mysql://u:secret@h/d"], "begins with 'mysql'"),
        (["keys", "nonsense"], "No such command 'nonsense'"),
        (["keys"], "Usage: alpage keys"),
        (["usage", "--from", "yesterday"], "--from takes a day like 2027-01-31"),
        (["usage", "--from", "2026-01-02", "--to", "2026-01-01"], "is later than --to"),
        (["usage", "--json", "--csv", "-"], "either --json or --csv"),
        (["usage", "--records"], "--records goes with --csv"),
        (["usage", "--json", "prune", "--before", "2026-01-01"], "usage prune come after it"),
        (["usage", "prune", "--before", "2999-01-01"], "is in the future"),
        (["usage", "--by", "nonsense"], "'nonsense' is not one of 'day', 'key', 'model'"),
    ],
)
def test_wrong_usage(run: Run, arguments: list[str], told: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and told in done.stderr and ":secret" not in done.stderr


def test_what_is_not_there(run: Run) -> None:
    for verb in ("show", "revoke", "rotate"):
        done = run("keys", verb, "abc")
        assert done.returncode == 1
        assert done.stderr == "alpage: no key 'abc': alpage keys list shows those there are\n"
    down = run("keys", "list", "--database", "postgresql://u:secret@127.0.0.1:1/d")
    assert down.returncode == 1 and "secret" not in down.stderr
    assert "the database postgresql://u:***@127.0.0.1:1/d cannot be used" in down.stderr


@pytest.fixture
def used(home: Path) -> None:
    """Three days of usage, one record of a client that means harm."""
    with Accounts(f"sqlite:///{home / 'data' / 'alpage.db'}") as accounts:
        for day in (1, 2, 3):
            noon = datetime.datetime(2026, 1, day, 12, tzinfo=datetime.UTC).timestamp()
            for key, model in (("a", "x"), ("b", "=1+1")):
                one = record(f"{key}{day}", time=noon, key=key, key_name=f"{key}'s", model=model)
                accounts.usage.record(one).result(30)
        bad = record("bad", time=time.time(), key=None, key_name="\x1b[2J", status=401)
        accounts.usage.record(bad).result(30)


@pytest.mark.usefixtures("used")
def test_usage(run: Run, tmp_path: Path) -> None:
    table = run("usage")
    lines = [line.split() for line in table.stdout.splitlines()]
    head = ["KEY", "KEY", "NAME", "REQUESTS", "ERRORS", "PROMPT", "CACHED", "COMPLETION"]
    assert lines[0] == head and ["a", "a's", "3", "0", "30", "12", "15"] in lines
    assert "\x1b" not in table.stdout and table.stderr == ""

    totals = json.loads(run("usage", "--json", "--by", "day", "--to", "2026-01-02").stdout)
    assert totals == [
        {"day": f"2026-01-0{day}", "requests": 2, "errors": 0, "prompt_tokens": 20,
         "cached_tokens": 8, "completion_tokens": 10} for day in (1, 2)
    ]  # fmt: skip

    file = tmp_path / "usage.csv"
    arguments = ("usage", "--by", "model", "--by", "day", "--from", "2026-01-03", "--csv")
    assert run(*arguments, file).returncode == 0
    assert file.read_text() == run(*arguments, "-").stdout
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert {row["model"] for row in rows} == {"x", "'=1+1", "smollm2"}, "no formula"

    single = run("usage", "--records", "--csv", "-", "--to", "2026-01-31").stdout
    records = list(csv.DictReader(io.StringIO(single)))
    assert [row["call"] for row in records] == ["a1", "b1", "a2", "b2", "a3", "b3"]
    assert records[0]["time"] == "2026-01-01T12:00:00Z" and records[0]["prompt_tokens"] == "10"
    assert "\x1b" not in run("usage", "--records", "--csv", "-").stdout


@pytest.mark.usefixtures("used")
def test_prune(run: Run) -> None:
    done = run("usage", "prune", "--before", "2026-01-03")
    assert done.stdout == "4 records of the days before 2026-01-03 removed\n"
    again = run("usage", "prune", "--before", "2026-01-03", "--json")
    assert json.loads(again.stdout) == {"removed": 0}
    assert len(json.loads(run("usage", "--by", "day", "--json").stdout)) == 2
    missing = run("usage", "prune")
    assert missing.returncode == 2 and "Missing option '--before'" in missing.stderr

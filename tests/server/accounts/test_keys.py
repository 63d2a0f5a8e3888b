"""Keys: made, checked, revoked in a running server, and what a wrong one costs."""

import functools
import re
import threading
import time
from collections.abc import Callable

import pytest
from sqlalchemy import text
from tests.server.accounts.postgres import Postgres

from alpage.core.errors import NotFoundError, StorageError, UsageError
from alpage.server.accounts import ANYONE, AccessError, Accounts, Limits
from alpage.server.accounts.access import STALE_SECONDS, Access
from alpage.server.accounts.database import Database, open_database
from alpage.server.accounts.keys import KeyStore


def reason(check: Callable[[], object]) -> str:
    with pytest.raises(AccessError) as error:
        check()
    return error.value.reason


def until(happens: Callable[[], bool]) -> None:
    """Wait for what another thread or process does; the test's own time-out ends it."""
    while not happens():
        time.sleep(0.02)


def test_from_creation_to_revocation(url: str) -> None:
    with Accounts(url) as accounts:
        assert not accounts.has_keys and accounts.keys() == []
        assert accounts.authenticate(None) is ANYONE
        assert accounts.authenticate("none") is ANYONE  # what clients send that need not
        limits = Limits(60, 10_000, 2**40, 4)
        key, secret = accounts.create_key(
            "build", tenant="ci", scopes=["inference", "metrics"], models=["smollm2", "b"],
            limits=limits, weight=2.5, priority=-3,
        )  # fmt: skip
        assert re.fullmatch(r"alp_[a-z2-7]{16}_[a-z2-7]{52}", secret)
        caller = accounts.authenticate(secret)
        assert (caller.key, caller.name, caller.tenant) == (key.id, "build", "ci")
        assert caller.scopes == {"inference", "metrics"} and caller.models == frozenset(
            ("smollm2", "b")
        )
        assert (caller.limits, caller.weight, caller.priority) == (limits, 2.5, -3)
        assert caller.may("metrics") and not caller.may("admin")
        assert caller.may_ask("b") and not caller.may_ask("c")
        assert accounts.has_keys and accounts.keys() == [key]
        assert reason(lambda: accounts.authenticate(None)) == "missing"
        assert reason(lambda: accounts.authenticate("")) == "missing"

        revoked = accounts.revoke_key(key.id)
        assert reason(lambda: accounts.authenticate(secret)) == "revoked"
        assert accounts.revoke_key(key.id) == revoked, "the first time stays"
        assert accounts.has_keys, "a server whose last key was revoked stays closed"
        assert reason(lambda: accounts.authenticate(None)) == "missing"


def test_admin_may_everything(url: str) -> None:
    with Accounts(url) as accounts:
        key, secret = accounts.create_key("boss", scopes=["admin"])
        caller = accounts.authenticate(secret)
        assert caller.may("inference") and caller.may("metrics") and caller.may_ask("anything")
        assert caller.tenant == key.id, "without a tenant, a key is its own"


def test_what_is_no_key(url: str) -> None:
    with Accounts(url) as accounts:
        key, secret = accounts.create_key("a")
        other = accounts.create_key("b")[1]
        wrong = [
            secret[:-1], secret + "a", secret.upper(), f" {secret}", "alp_", "alp__", "_", "alp",
            f"alp_{key.id}_{other.rpartition('_')[2]}", f"alp_{'a' * 16}_{'a' * 52}",
            "é" * 100, "\ud800", "\0", secret + "a" * 10_000_000, secret.replace("alp", "sk"),
        ]  # fmt: skip
        for sent in wrong:
            check = functools.partial(accounts.authenticate, sent)
            assert reason(check) == "unknown", sent[:80]
        assert accounts.authenticate(secret).key == key.id


def test_a_secret_is_nowhere_in_the_database(database: Database) -> None:
    _, secret = KeyStore(database).create("a")
    with database.reading() as connection:
        rows = connection.execute(text("SELECT * FROM alpage_keys")).all()
    random_part = secret.rpartition("_")[2]
    assert len(rows) == 1 and random_part not in str(rows)


def test_a_flood_of_wrong_keys_takes_no_memory_and_no_query(url: str) -> None:
    with Accounts(url) as accounts:
        accounts.create_key("a")
        access = accounts._access
        access.close()  # nothing reads the keys any more, and no check does
        accounts._database.close()
        size = len(access._known)
        for number in range(10_000):
            sent = f"alp_{number:016}_{number:052}"
            with pytest.raises(AccessError):
                access.authenticate(sent)
        assert len(access._known) == size == 1


def test_other_processes_take_effect_without_a_restart(url: str) -> None:
    """What `alpage keys` does beside a running server."""
    beside = open_database(url)
    store = KeyStore(beside)
    with Accounts(url) as server:
        assert server.authenticate("none") is ANYONE
        key, secret = store.create("late")
        until(lambda: server.has_keys)
        assert server.authenticate(secret).key == key.id
        _, fresh = store.rotate(key.id)
        until(lambda: server._access._rows == store.rows())
        assert reason(lambda: server.authenticate(secret)) == "unknown"
        assert server.authenticate(fresh).key == key.id
        store.revoke(key.id)
        until(lambda: server._access._rows == store.rows())
        assert reason(lambda: server.authenticate(fresh)) == "revoked"
        with pytest.raises(UsageError, match=f"the key {key.id} is revoked: make a new one"):
            store.rotate(key.id)
    beside.close()


def test_expiry_needs_no_reading(database: Database) -> None:
    store = KeyStore(database)
    now = [time.time()]
    key, secret = store.create("short", expires=now[0] + 1000)
    access = Access(store, wall=lambda: now[0])
    assert access.authenticate(secret).key == key.id
    now[0] += 1000
    assert reason(lambda: access.authenticate(secret)) == "expired"
    access.close()


def test_keys_hold_while_the_database_is_away_but_not_for_ever(postgres: Postgres) -> None:
    database = open_database(postgres.empty())
    now = [0.0]
    store = KeyStore(database)
    _, secret = store.create("a")
    access = Access(store, clock=lambda: now[0])
    postgres.stop()
    try:
        until(lambda: bool(access._trouble))
        now[0] += STALE_SECONDS
        assert access.authenticate(secret).name == "a"
        now[0] += 1
        with pytest.raises(StorageError, match="keys cannot be checked now: the database"):
            access.authenticate(secret)
    finally:
        postgres.start()
    until(lambda: access._read_at == now[0])
    assert access.authenticate(secret).name == "a"
    access.close()
    database.close()


def test_threads_may_check_while_keys_change(url: str) -> None:
    with Accounts(url) as accounts:
        _, secret = accounts.create_key("steady")
        failed: list[BaseException] = []
        done = threading.Event()

        def check() -> None:
            try:
                while not done.wait(0.0005):
                    assert accounts.authenticate(secret).name == "steady"
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=check) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(20):
            accounts.revoke_key(accounts.create_key(str(number))[0].id)
        done.set()
        for thread in threads:
            thread.join()
        assert not failed and len(accounts.keys()) == 21


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"name": ""}, "a name has 1 to 64 printable characters, not ''"),
        ({"name": "a\x1b[2J"}, "printable"),
        ({"name": "a" * 65}, "1 to 64"),
        ({"tenant": " "}, "a tenant has"),
        ({"scopes": []}, "scopes are inference, metrics, admin, at least one, not none"),
        ({"scopes": ["root"]}, "not root"),
        ({"models": []}, "names 1 to 100 models, not 0"),
        ({"models": ["a", "\0"]}, "a model's name has"),
        ({"limits": Limits(requests_per_minute=0)}, "requests_per_minute must be between 1"),
        ({"limits": Limits(concurrent=2**60)}, "concurrent must be between 1"),
        ({"weight": 0.0}, "a weight must be above 0, not 0.0"),
        ({"weight": float("nan")}, "not nan"),
        ({"priority": 5000}, "between -1000 and 1000, not 5000"),
        ({"expires": 1.0}, "in the future"),
        ({"expires": float("inf")}, "in the future"),
    ],
)
def test_wrong_wishes(database: Database, wrong: dict[str, object], told: str) -> None:
    store = KeyStore(database)
    with pytest.raises(UsageError, match=re.escape(told)):
        store.create(**({"name": "a"} | wrong))  # type: ignore[arg-type]
    assert store.all() == []


def test_no_such_key(database: Database) -> None:
    store = KeyStore(database)
    _, secret = store.create("a")
    asked: list[Callable[[str], object]] = [store.get, store.revoke, store.rotate]
    for ask in asked:
        with pytest.raises(NotFoundError, match="no key 'abc': alpage keys list"):
            ask("abc")
        with pytest.raises(NotFoundError, match="of that secret, the id is") as error:
            ask(secret)
        assert secret.rpartition("_")[2] not in str(error.value)


@pytest.mark.parametrize("damage", ["models = '{'", "scopes = '7'", "scopes = '[[]]'"])
def test_a_damaged_key_is_told(database: Database, damage: str) -> None:
    store = KeyStore(database)
    key, _ = store.create("a", models=["x"])
    with database.writing() as connection:
        connection.execute(text(f"UPDATE alpage_keys SET {damage}"))
    with pytest.raises(StorageError, match=f"the key {key.id} in the database is damaged"):
        Access(store)

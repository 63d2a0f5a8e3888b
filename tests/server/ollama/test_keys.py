"""The ollama client at a server that asks for keys."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import pytest
from tests.server.serving import serving

from alpage import Llama
from alpage.server.accounts import Accounts
from alpage.server.app import Surroundings
from alpage.server.door import KeyDoor
from alpage.server.pool import Pool

HELLO = [{"role": "user", "content": "Say hello to the world."}]


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[Accounts]:
    with Accounts(f"sqlite:///{tmp_path / 'accounts.db'}") as opened:
        yield opened


@pytest.fixture
def closed(accounts: Accounts, llm: Llama, tmp_path: Path) -> Iterator[str]:
    pool = Pool.of({"smollm2": llm})
    door = KeyDoor(accounts)
    around = Surroundings(pool=pool, local=True, door=door, home=tmp_path / "home")
    with serving(around) as running:
        yield running.url


def client_of(url: str, secret: str) -> ollama.Client:
    return ollama.Client(url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)


@pytest.mark.client("ollama", "keys: as the header Authorization")
def test_what_a_key_is_charged(closed: str, accounts: Accounts) -> None:
    key, secret = accounts.create_key("build")
    with client_of(closed, secret) as client:
        parts = list(client.chat("smollm2", HELLO, options={"num_predict": 5}, stream=True))
        used = (parts[-1].prompt_eval_count or 0) + (parts[-1].eval_count or 0)
        assert used > 5
        today = datetime.datetime.now(datetime.UTC).date()
        # It is in the book before the client knows that the answer is complete.
        assert accounts.usage.tokens_of(today)[key.id] == used
        used += client.embed("smollm2", ["a b", "c"]).prompt_eval_count or 0
        assert accounts.usage.tokens_of(today)[key.id] == used
        with pytest.raises(ollama.ResponseError, match="needs a key with the scope admin") as hit:
            client.pull("smollm2")
        assert hit.value.status_code == 403


def test_without_a_good_key(closed: str, accounts: Accounts) -> None:
    _, secret = accounts.create_key("other", models=["another"])
    with (
        ollama.Client(closed) as client,
        pytest.raises(ollama.ResponseError, match="this server asks for a key") as caught,
    ):
        client.chat("smollm2", HELLO)
    assert caught.value.status_code == 401
    with client_of(closed, secret) as client:
        assert list(client.list().models) == []
        with pytest.raises(ollama.ResponseError, match="no model 'smollm2' here"):
            client.generate("smollm2", "Hi", keep_alive=0)
        with pytest.raises(ollama.ResponseError, match="no model 'smollm2' here"):
            client.generate("smollm2", keep_alive=0)
    ready = httpx.get(f"{closed}/ready")  # nobody needs a key to watch
    assert ready.json() == {"status": "ready"}


def test_an_admin_may_pull(closed: str, accounts: Accounts) -> None:
    _, secret = accounts.create_key("operator", scopes=["admin"])
    with (
        client_of(closed, secret) as client,
        pytest.raises(ollama.ResponseError, match="no model named 'nonsense'") as caught,
    ):
        client.pull("nonsense")
    assert caught.value.status_code == 404

"""How long models stay loaded, as the ollama client asks for it."""

import datetime
import time
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest
from tests.server.pool.offering import Loader, offer_of
from tests.server.serving import serving

from alpage.server.app import Surroundings
from alpage.server.pool import Pool

SHORT = {"num_predict": 1}


@pytest.fixture
def loader(smollm2_path: Path) -> Loader:
    return Loader(smollm2_path)


@pytest.fixture
def offering(loader: Loader) -> Iterator[ollama.Client]:
    """A server that loads its model when it is asked for."""
    pool = Pool(offers=[offer_of("lazy", loader, keep=600.0)])
    with (
        serving(Surroundings(pool=pool, local=True)) as running,
        ollama.Client(running.url, timeout=120) as client,
    ):
        yield client
    pool.close()


def stays(client: ollama.Client) -> datetime.timedelta:
    """For how long the model is told to stay."""
    (model,) = client.ps().models
    assert model.expires_at is not None
    return model.expires_at - datetime.datetime.now(datetime.UTC)


def minutes(number: int) -> datetime.timedelta:
    return datetime.timedelta(minutes=number)


@pytest.mark.client("ollama", "keep_alive: durations, -1 and 0; loading and unloading")
def test_a_model_stays_as_long_as_is_asked(offering: ollama.Client, loader: Loader) -> None:
    assert [model.model for model in offering.list().models] == ["lazy"]
    assert (list(offering.ps().models), loader.loads) == ([], 0)
    assert offering.generate("lazy").done_reason == "load"
    assert loader.loads == 1
    assert minutes(1) < stays(offering) < minutes(11)
    offering.generate("lazy", "Hi", options=SHORT, keep_alive="2h")
    assert minutes(100) < stays(offering) < minutes(121)
    offering.chat("lazy", [{"role": "user", "content": "Hi"}], options=SHORT, keep_alive=3 * 3600)
    assert minutes(160) < stays(offering) < minutes(181)
    offering.embed("lazy", "Hi", keep_alive=-1)
    assert stays(offering) > minutes(1_000_000)
    assert offering.generate("lazy", keep_alive=0).done_reason == "unload"
    assert list(offering.ps().models) == []
    assert loader.closed
    assert offering.chat("lazy", [], keep_alive="0").done_reason == "unload"  # already
    assert loader.loads == 1
    assert offering.generate("lazy", "Hi", options=SHORT).done
    assert loader.loads == 2


def test_a_model_can_go_after_its_answer(offering: ollama.Client, loader: Loader) -> None:
    answer = offering.generate("lazy", "Hi", options=SHORT, keep_alive=0)
    assert (answer.done, answer.done_reason) == (True, "length")
    deadline = time.monotonic() + 30
    while offering.ps().models and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(offering.ps().models) == []


def test_a_model_that_is_not_loaded_is_shown_without_loading(
    offering: ollama.Client, loader: Loader
) -> None:
    shown = offering.show("lazy")
    assert (shown.modelinfo, shown.template, loader.loads) == ({}, "", 0)
    assert shown.details is not None and shown.details.family == ""


@pytest.mark.client("ollama", "keep_alive: 0 for a model that stays", refused=True)
def test_a_model_that_stays_is_not_unloaded(asking: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="keep_alive is 0, but the server keeps 'smol"):
        asking.generate("smollm2", keep_alive=0)
    with pytest.raises(ollama.ResponseError, match="no model 'other' here") as caught:
        asking.generate("other", keep_alive=0)
    assert caught.value.status_code == 404
    assert asking.generate("smollm2", "Hi", options=SHORT, keep_alive="5m").done
    assert stays(asking) > minutes(1_000_000)

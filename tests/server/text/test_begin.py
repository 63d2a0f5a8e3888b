"""A model that expects a begin-of-text token: a tiny one, since the default model expects none."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import ollama
import pytest
from tests.server.letters import BEGIN, letters_model
from tests.server.serving import serving
from tests.server.text.test_ids import asked

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.app import Surroundings
from alpage.server.pool import Pool

TEXT = "once"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    path.write_bytes(letters_model().to_bytes())
    with Llama.load(path, settings=Settings()) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def tiny_url(tiny: Llama) -> Iterator[str]:
    with serving(Surroundings(pool=Pool.of({"smollm2": tiny}), local=True)) as running:
        yield running.url


def test_the_token_comes_first_once(tiny: Llama, tiny_url: str) -> None:
    plain = tiny.tokenize(TEXT)
    assert plain and BEGIN not in plain
    assert asked(tiny_url, "tokenize", text=TEXT)["ids"] == plain
    begun = asked(tiny_url, "tokenize", text=TEXT, add_special=True)
    assert begun["ids"] == [BEGIN, *plain] == tiny.prompt_ids(TEXT)
    spelled = {"text": f"<s>{TEXT}", "parse_special": True}
    for add in (False, True):
        assert asked(tiny_url, "tokenize", add_special=add, **spelled)["ids"] == [BEGIN, *plain]
    conversation = asked(tiny_url, "tokenize", messages=[{"role": "user", "content": TEXT}])
    assert conversation["ids"].count(BEGIN) == 1


def test_ollamas_client_gets_it_too(tiny: Llama, tiny_url: str) -> None:
    with ollama.Client(tiny_url) as client:
        vectors = client.embed("smollm2", [TEXT, TEXT]).embeddings
        np.testing.assert_array_equal(np.array(vectors, np.float32), tiny.embed([TEXT, TEXT]))
        wanted = tiny.generate(TEXT, temperature=0, max_tokens=4)
        for prompt in (TEXT, f"<s>{TEXT}"):
            options = {"temperature": 0, "num_predict": 4}
            answer = client.generate("smollm2", prompt, raw=True, options=options)
            assert answer.response == wanted.text
            assert answer.prompt_eval_count == wanted.usage.prompt_tokens

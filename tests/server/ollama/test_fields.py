"""Every field that the ollama client can send is honoured, changes no answer, or is refused."""

from typing import Any

import httpx
import ollama
import pytest
from ollama._types import (
    ChatRequest,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    Message,
    Options,
    PullRequest,
    ShowRequest,
    Tool,
)
from pydantic import BaseModel

from alpage.server.ollama.embeddings import OllamaEmbed, OllamaEmbeddings
from alpage.server.ollama.fields import OllamaOptions, seconds_of
from alpage.server.ollama.models import OllamaShow
from alpage.server.ollama.pull import OllamaPull
from alpage.server.ollama.requests import (
    OllamaChat,
    OllamaGenerate,
    OllamaMessage,
    OllamaTool,
    OllamaToolCall,
)

PAIRS: list[tuple[type[BaseModel], type[BaseModel]]] = [
    (ChatRequest, OllamaChat),
    (GenerateRequest, OllamaGenerate),
    (EmbedRequest, OllamaEmbed),
    (EmbeddingsRequest, OllamaEmbeddings),
    (Options, OllamaOptions),
    (PullRequest, OllamaPull),
    (ShowRequest, OllamaShow),
    (Message, OllamaMessage),
    (Message.ToolCall, OllamaToolCall),
    (Tool, OllamaTool),
]

PROMPT = "Say hello to the world."
GREEDY = {"temperature": 0, "num_predict": 4}

# Options that are honoured have tests of their own, in test_generate.py.
HONOURED = {
    "num_ctx", "seed", "num_predict", "top_k", "top_p", "repeat_last_n", "temperature",
    "repeat_penalty", "presence_penalty", "frequency_penalty", "stop",
}  # fmt: skip
HARMLESS = {
    "numa": True, "num_batch": 64, "num_gpu": 99, "main_gpu": 1, "low_vram": True,
    "use_mmap": False, "use_mlock": True, "num_thread": 1, "num_keep": 5,
    "mirostat_tau": 5.0, "mirostat_eta": 0.1,
}  # fmt: skip
AS_IT_IS = {
    "f16_kv": True, "logits_all": False, "vocab_only": False, "embedding_only": False,
    "tfs_z": 1.0, "typical_p": 1, "mirostat": 0, "penalize_newline": True,
}  # fmt: skip
"""Each of these has one value that changes no answer."""
OTHERWISE = {
    "f16_kv": False, "logits_all": True, "vocab_only": True, "embedding_only": True,
    "tfs_z": 0.5, "typical_p": 0.7, "mirostat": 2, "penalize_newline": False,
}  # fmt: skip

REFUSED = {
    "suffix": "the end", "template": "{{ .Prompt }}", "context": [1, 2, 3], "think": True,
    "images": ["iVBORw0KGgo="], "width": 64, "height": 64, "steps": 4,
}  # fmt: skip
EMPTY = {"suffix": "", "template": "", "context": [], "images": [], "think": False}
"""What asks for nothing is taken: clients send their whole form."""


@pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=lambda m: m.__name__)
def test_no_field_is_unknown(theirs: type[BaseModel], ours: type[BaseModel]) -> None:
    assert set(theirs.model_fields) - set(ours.model_fields) == set()


def test_every_option_is_in_one_list() -> None:
    assert HONOURED.isdisjoint([*HARMLESS, *AS_IT_IS])
    assert HONOURED | set(HARMLESS) | set(AS_IT_IS) == set(Options.model_fields)
    assert set(AS_IT_IS) == set(OTHERWISE)


@pytest.mark.client("ollama", "options: where work is done (num_gpu, num_thread): no effect")
def test_options_without_effect(asking: ollama.Client) -> None:
    plain = asking.generate("smollm2", PROMPT, options=GREEDY)
    for options in (HARMLESS, AS_IT_IS):
        same = asking.generate("smollm2", PROMPT, options=GREEDY | options)
        assert same.response == plain.response
    told = Options(temperature=0, num_predict=4, num_gpu=1)
    assert asking.generate("smollm2", PROMPT, options=told).response == plain.response


@pytest.mark.client("ollama", "options: mirostat, tfs_z, typical_p", refused=True)
@pytest.mark.parametrize("name", OTHERWISE)
def test_options_that_are_refused(asking: ollama.Client, name: str) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        asking.generate("smollm2", PROMPT, options={name: OTHERWISE[name]})
    assert caught.value.status_code == 400
    assert f"options.{name} is " in caught.value.error
    assert "which changes no answer" in caught.value.error


@pytest.mark.client("ollama", "generate: suffix, template, context, images, think", refused=True)
@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_are_refused(asking: ollama.Client, name: str) -> None:
    asked: dict[str, Any] = {name: REFUSED[name]}
    with pytest.raises(ollama.ResponseError, match=f"^{name}.* is ") as caught:
        asking.generate("smollm2", PROMPT, **asked)
    assert caught.value.status_code == 400


def test_what_asks_for_nothing_is_taken(asking: ollama.Client) -> None:
    asked: dict[str, Any] = dict(EMPTY)
    assert asking.generate("smollm2", PROMPT, options={"num_predict": 1}, **asked).done


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5), (0, 0), ("0", 0), (2.5, 2.5), ("5m", 300), ("1h30m", 5400), ("1.5s", 1.5),
        ("300ms", 0.3), (-1, float("inf")), ("-1m", float("inf")), ("+.5h", 1800),
    ],
)  # fmt: skip
def test_durations(value: float | str, seconds: float) -> None:
    assert seconds_of(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "soon", "5", "m", "5 m", "5m!", "1h" * 40])
def test_what_is_no_duration(asking: ollama.Client, value: str) -> None:
    with pytest.raises(ValueError, match="it should be seconds, or a duration"):
        seconds_of(value)
    with pytest.raises(ollama.ResponseError, match=r"keep_alive is .*it should be seconds, or"):
        asking.generate("smollm2", PROMPT, keep_alive=value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON"),
        (b"[]", "the body must be a JSON object"),
        (b"{}", "model: this field is required"),
        (b'{"model": "smollm2", "msgs": []}', "msgs: there is no such field"),
        (b'{"model": "smollm2", "messages": [{"role": "king"}]}', r'messages[0].role is "king"'),
        (b'{"model": "smollm2", "tools": [{"function": {}}]}', "tools[0].function.name: this"),
        (b'{"model": "smollm2", "keep_alive": true}', "keep_alive is true"),
        (b'{"model": "smollm2", "keep_alive": NaN}', "keep_alive is NaN"),
        (b'{"model": "smollm2", "options": {"seed": 1.5}}', "options.seed is 1.5"),
        (b'{"model": "smollm2", "top_logprobs": 21}', "top_logprobs is 21"),
        (b'{"model": "smollm2", "truncate": true}', "truncate is true: supported is false"),
    ],
)
def test_malformed_bodies(url: str, body: bytes, message: str) -> None:
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{url}/api/chat", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"].startswith(message)


def test_errors_have_one_shape_before_any_route(url: str) -> None:
    for answer, status in (
        (httpx.get(f"{url}/api/nothing"), 404),
        (httpx.get(f"{url}/api/chat"), 405),
        (httpx.post(f"{url}/api/chat", content=b"{}"), 415),
        (httpx.post(f"{url}/api/chat", json={}, headers={"origin": "http://evil.test"}), 403),
    ):
        assert answer.status_code == status
        assert list(answer.json()) == ["error"]
        assert isinstance(answer.json()["error"], str)

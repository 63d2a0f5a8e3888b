"""Generations and options through the ollama client, with the default model."""

from typing import Any

import httpx
import ollama
import pytest

from alpage import Llama

PROMPT = "Say hello to the world."
SEEDED = {"seed": 7, "num_predict": 12}


@pytest.mark.client("ollama", "generate: whole answers, with a system message")
def test_a_prompt_is_a_conversation_of_one(asking: ollama.Client, llm: Llama) -> None:
    said = [
        {"role": "system", "content": "You speak like a pirate."},
        {"role": "user", "content": PROMPT},
    ]
    wanted = llm.chat(said, temperature=0, max_tokens=12)
    options = {"temperature": 0, "num_predict": 12}
    answer = asking.generate("smollm2", PROMPT, system="You speak like a pirate.", options=options)
    assert answer.response == wanted.text
    assert (answer.done, answer.done_reason, answer.context) == (True, "length", None)
    assert answer.prompt_eval_count == wanted.usage.prompt_tokens
    assert answer.eval_count == 12
    assert answer.eval_duration is not None and answer.eval_duration > 0


@pytest.mark.client("ollama", "generate: streaming")
def test_a_stream_says_the_same(asking: ollama.Client, url: str) -> None:
    whole = asking.generate("smollm2", PROMPT, options=SEEDED)
    parts = list(asking.generate("smollm2", PROMPT, options=SEEDED, stream=True))
    assert "".join(part.response or "" for part in parts) == whole.response
    assert (parts[-1].done, parts[-1].eval_count) == (True, 12)
    # Without `stream` Ollama streams, a document in each line.
    body = {"model": "smollm2", "prompt": PROMPT, "options": SEEDED}
    answer = httpx.post(f"{url}/api/generate", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert len(answer.text.splitlines()) == len(parts)


@pytest.mark.client("ollama", "generate: raw prompts")
def test_a_raw_prompt_is_all_that_the_model_sees(asking: ollama.Client, llm: Llama) -> None:
    options = {"temperature": 0, "num_predict": 12}
    plain = asking.generate("smollm2", "Once upon a time", raw=True, options=options)
    wanted = llm.generate("Once upon a time", temperature=0, max_tokens=12)
    assert plain.response == wanted.text
    assert plain.prompt_eval_count == wanted.usage.prompt_tokens
    # Control tokens are meant by whoever writes the template's text.
    text, ids = llm.render_chat([{"role": "user", "content": PROMPT}])
    written = asking.generate("smollm2", text, raw=True, options=options)
    asked = asking.generate("smollm2", PROMPT, options=options)
    assert written.response == asked.response
    assert written.prompt_eval_count == len(ids)
    with pytest.raises(ollama.ResponseError, match="with raw=true the prompt is all"):
        asking.generate("smollm2", PROMPT, raw=True, system="Be brief.")


@pytest.mark.client("ollama", "generate: format json, and a JSON schema")
def test_a_format_is_followed(asking: ollama.Client) -> None:
    schema = {"enum": ["yes", "no"]}
    answer = asking.generate("smollm2", "Is snow black?", format=schema, options={"seed": 1})
    assert answer.response in ('"yes"', '"no"')
    assert answer.done_reason == "stop"


@pytest.mark.client("ollama", "generate: an empty prompt loads the model")
def test_nothing_to_answer(asking: ollama.Client) -> None:
    answer = asking.generate("smollm2", "")
    assert (answer.done, answer.done_reason, answer.response) == (True, "load", "")


SAMPLED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": 1.5}, {"temperature": 1.5}),
    ({"top_k": 3}, {"top_k": 3}),
    ({"top_k": 0, "top_p": 1}, {"top_k": 0, "top_p": 1.0}),
    ({"top_p": 0.2}, {"top_p": 0.2}),
    ({"min_p": 0.5}, {"min_p": 0.5}),
    ({"repeat_penalty": 1.5}, {"repetition_penalty": 1.5}),
    ({"repeat_penalty": 1.5, "repeat_last_n": -1}, {"repetition_penalty": 1.5}),
    ({"repeat_penalty": 1.5, "repeat_last_n": 0}, {}),
    ({"repeat_last_n": 64}, {}),
    ({"presence_penalty": 1.5}, {"presence_penalty": 1.5}),
    ({"frequency_penalty": 1.5}, {"frequency_penalty": 1.5}),
    ({"seed": 8}, {"seed": 8}),
    ({"seed": -7}, {"seed": (1 << 64) - 7}),
]


@pytest.mark.client("ollama", "options: sampling")
@pytest.mark.parametrize(("options", "wanted"), SAMPLED, ids=str)
def test_options_are_the_facades(
    asking: ollama.Client, llm: Llama, options: dict[str, Any], wanted: dict[str, Any]
) -> None:
    defaults = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 7, "max_tokens": 12}
    told: Any = defaults | wanted
    expected = llm.chat([{"role": "user", "content": PROMPT}], **told)
    answer = asking.generate("smollm2", PROMPT, options=SEEDED | options)
    assert answer.response == expected.text


@pytest.mark.client("ollama", "options: seed -1 is any")
def test_without_a_seed_answers_differ(asking: ollama.Client) -> None:
    options = {"seed": -1, "num_predict": 12, "temperature": 2, "top_k": 0, "top_p": 1}
    texts = {asking.generate("smollm2", PROMPT, options=options).response for _ in range(3)}
    assert len(texts) > 1


@pytest.mark.client("ollama", "options: num_predict and stop")
def test_where_answers_end(asking: ollama.Client) -> None:
    greedy = {"temperature": 0}
    whole = asking.generate("smollm2", "What is the capital of France?", options=greedy)
    assert (whole.done_reason, whole.response) == ("stop", "The capital of France is Paris.")
    for unbounded in (-1, -2):
        asked = {**greedy, "num_predict": unbounded}
        same = asking.generate("smollm2", "What is the capital of France?", options=asked)
        assert same.response == whole.response
    for stop in ([" of", " is"], " of"):
        options: dict[str, Any] = {**greedy, "stop": stop}
        cut = asking.generate("smollm2", "What is the capital of France?", options=options)
        assert (cut.done_reason, cut.response) == ("stop", "The capital")
    with pytest.raises(ollama.ResponseError, match=r"options.num_predict is 0: it should be at le"):
        asking.generate("smollm2", PROMPT, options={"num_predict": 0})


@pytest.mark.client("ollama", "options: num_ctx up to the context of the loaded model")
def test_the_context_asked_for(asking: ollama.Client, llm: Llama) -> None:
    length = len(llm.render_chat([{"role": "user", "content": PROMPT}])[1])
    options = {"temperature": 0, "num_ctx": length + 5}
    answer = asking.generate("smollm2", PROMPT, options=options)
    assert (answer.eval_count, answer.done_reason) == (5, "length")
    fewer = asking.generate("smollm2", PROMPT, options={**options, "num_predict": 3})
    assert fewer.eval_count == 3
    with pytest.raises(ollama.ResponseError, match=r"no room in options.num_ctx"):
        asking.generate("smollm2", PROMPT, options={"num_ctx": length})


@pytest.mark.client("ollama", "options: num_ctx above it", refused=True)
def test_a_larger_context_is_refused(asking: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=r"options.num_ctx is 4096, but 'smollm2' is"):
        asking.generate("smollm2", PROMPT, options={"num_ctx": 4096})


@pytest.mark.client("ollama", "options: repeat_last_n with a window", refused=True)
def test_a_window_of_penalties_is_refused(asking: ollama.Client) -> None:
    options = {"repeat_penalty": 1.1, "repeat_last_n": 64}
    with pytest.raises(ollama.ResponseError, match=r"options.repeat_last_n is 64: penalties look"):
        asking.generate("smollm2", PROMPT, options=options)


def test_an_option_out_of_range_is_told_by_its_own_name(asking: ollama.Client) -> None:
    for options, message in (
        ({"repeat_penalty": 0}, "options.repeat_penalty is 0: it should be greater"),
        ({"temprature": 1}, "options.temprature: there is no such field"),
        ({"temperature": "hot"}, 'options.temperature is "hot": it should be a valid number'),
    ):
        with pytest.raises(ollama.ResponseError, match=message) as caught:
            asking.generate("smollm2", PROMPT, options=options)
        assert caught.value.status_code == 400


def test_the_context_can_shift(url: str) -> None:
    """A field that the Python client does not have: the answer goes on in a full context."""
    options = {"temperature": 0, "num_predict": 60}
    body: dict[str, Any] = {"model": "smollm2", "prompt": "word " * 480, "raw": True}
    body |= {"stream": False, "options": options}
    body["format"] = {"type": "array", "minItems": 2000, "items": {"type": "integer"}}
    stopped = httpx.post(f"{url}/api/generate", json=body, timeout=120).json()
    assert stopped["eval_count"] < 60
    assert stopped["done_reason"] == "length"
    shifted = httpx.post(f"{url}/api/generate", json={**body, "shift": True}, timeout=120).json()
    assert shifted["eval_count"] == 60
    kept = {**body, "shift": True, "options": {**options, "num_keep": 4}}
    refused = httpx.post(f"{url}/api/generate", json=kept)
    assert "options.num_keep is not supported where" in refused.json()["error"]

"""Completions through the openai client, with the default model."""

from typing import Any

import openai
import pytest

from alpage import Llama

TEXT = "The capital of France is Paris — naïve, 東京 🏔."


@pytest.mark.client("openai", "completions: texts, token ids, lists of both")
def test_text_and_ids_and_lists_of_both(client: openai.OpenAI, llm: Llama) -> None:
    prompts = ["The capital of France is", "One, two, three,"]
    ids = [llm.tokenize(prompt) for prompt in prompts]
    wanted = [llm.generate(p, temperature=0, top_p=1, max_tokens=6).text for p in prompts]

    def ask(prompt: Any) -> list[str]:
        answer = client.completions.create(
            model="smollm2", prompt=prompt, temperature=0, max_tokens=6
        )
        assert answer.object == "text_completion"
        assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
        return [choice.text for choice in answer.choices]

    assert ask(prompts) == ask(ids) == wanted
    assert ask(prompts[0]) == ask(ids[0]) == wanted[:1]


def test_sixteen_tokens_by_default_and_usage(client: openai.OpenAI, llm: Llama) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=["Once upon a time", "In"], n=2, seed=1, logit_bias={"0": -100}
    )
    assert len(answer.choices) == 4
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(llm.tokenize("Once upon a time")) + 1
    assert answer.usage.completion_tokens == 64
    assert {choice.finish_reason for choice in answer.choices} == {"length"}


@pytest.mark.client("openai", "completions: n, seed")
def test_choices_have_the_seeds_that_follow(client: openai.OpenAI) -> None:
    def ask(prompt: Any, n: int, seed: int) -> list[str]:
        answer = client.completions.create(
            model="smollm2", prompt=prompt, n=n, seed=seed, max_tokens=8
        )
        return [choice.text for choice in answer.choices]

    several = ask(["The lake", "A hill"], 2, 40)
    alone = [ask(p, 1, seed)[0] for p in ("The lake", "A hill") for seed in (40, 41)]
    assert several == alone
    assert len(set(several)) == 4


@pytest.mark.client("openai", "completions: echo and log-probabilities")
@pytest.mark.parametrize("as_ids", [False, True])
def test_echo_with_logprobs_scores_like_the_facade(
    client: openai.OpenAI, llm: Llama, as_ids: bool
) -> None:
    score = llm.logprobs(TEXT, top=2)
    prompt = llm.prompt_ids(TEXT) if as_ids else TEXT
    answer = client.completions.create(
        model="smollm2", prompt=prompt, max_tokens=0, echo=True, logprobs=2
    )
    (choice,) = answer.choices
    assert choice.text == TEXT
    assert choice.finish_reason == "length"
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1:] == [entry.logprob for entry in score.tokens[1:]]
    assert len(logprobs.tokens) == len(score.tokens)
    tops: list[Any] = logprobs.top_logprobs or []
    assert tops[0] is None
    for name, logprob, top in zip(
        logprobs.tokens[1:], logprobs.token_logprobs[1:], tops[1:], strict=True
    ):
        assert top[name] == logprob
        assert 2 <= len(top) <= 3
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(score.tokens), 0)


def test_scores_are_the_same_in_company_and_before_an_answer(
    client: openai.OpenAI, llm: Llama
) -> None:
    """As evaluation harnesses ask: many lists of ids at once, and one token of an answer."""
    texts = [TEXT, "Two and two is four.", "A lake, " * 40, "The"]
    ids = [llm.prompt_ids(text) for text in texts]
    for given in (texts, ids):
        answer = client.completions.create(
            model="smollm2", prompt=given, max_tokens=1, echo=True, logprobs=1, temperature=0
        )
        for text, own, choice in zip(texts, ids, answer.choices, strict=True):
            assert choice.logprobs is not None
            scores = choice.logprobs.token_logprobs or []
            wanted = [token.logprob for token in llm.logprobs(text).tokens]
            assert scores[: len(own)] == wanted
            assert len(scores) == len(own) + 1
            top = (choice.logprobs.top_logprobs or [])[-1]
            assert scores[-1] == max(top.values())  # greedy


def test_offsets_point_into_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt=TEXT, max_tokens=4, echo=True, logprobs=0, temperature=0
    )
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens and logprobs.text_offset
    assert logprobs.top_logprobs is None
    spelled = 0
    for name, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if name.startswith("bytes:"):
            spelled += 1
        else:
            assert choice.text[offset:].startswith(name)
    assert spelled > 0  # the text has characters of several tokens


@pytest.mark.client("openai", "completions: streaming with usage")
def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {
        "model": "smollm2", "prompt": ["Hills and", "The sea"], "max_tokens": 5, "temperature": 0,
        "echo": True, "logprobs": 1,
    }  # fmt: skip
    whole = client.completions.create(**options)
    chunks = list(
        client.completions.create(**options, stream=True, stream_options={"include_usage": True})
    )
    *parts, end = chunks
    assert end.usage == whole.usage
    for choice in whole.choices:
        own = [p.choices[0] for p in parts if p.choices[0].index == choice.index]
        assert "".join(part.text for part in own) == choice.text
        assert [p.finish_reason for p in own if p.finish_reason] == [choice.finish_reason]
        for column in ("tokens", "text_offset"):
            streamed = [value for part in own for value in getattr(part.logprobs, column)]
            assert streamed == getattr(choice.logprobs, column)


@pytest.mark.parametrize("echo", [False, True])
def test_best_of_gives_the_most_likely_and_runs_the_prompt_once(
    client: openai.OpenAI, echo: bool
) -> None:
    prompt = "A list of rivers that flow into the sea, from north to south, " * (2 + echo)
    options: dict[str, Any] = {
        "model": "smollm2", "prompt": [prompt, "Once"], "max_tokens": 6, "temperature": 1.5,
        "seed": 3, "echo": echo,
    }  # fmt: skip
    every = client.completions.create(**options, n=4, logprobs=0)
    best = client.completions.create(**options, n=2, best_of=4)
    wanted = []
    for first in (0, 4):
        scored = []
        for choice in every.choices[first : first + 4]:
            found = choice.logprobs.token_logprobs[-6:]
            scored.append((sum(found) / len(found), choice.text))
        wanted += [text for _, text in sorted(scored, reverse=True)[:2]]
    assert [choice.text for choice in best.choices] == wanted
    assert [choice.index for choice in best.choices] == [0, 1, 2, 3]
    assert best.choices[0].logprobs is None
    assert best.usage.completion_tokens == 2 * 4 * 6
    assert best.usage.prompt_tokens == every.usage.prompt_tokens
    if not echo:  # what was echoed with log-probabilities had to run
        assert every.usage.prompt_tokens_details.cached_tokens == 0
    assert best.usage.prompt_tokens_details.cached_tokens >= 16


def test_ids_may_be_special_and_echo_without_them(client: openai.OpenAI, llm: Llama) -> None:
    ids = llm.tokenize("<|im_start|>user\nHi<|im_end|>", special=True)
    answer = client.completions.create(model="smollm2", prompt=ids, max_tokens=0, echo=True)
    assert answer.choices[0].text == "user\nHi"
    assert answer.choices[0].logprobs is None


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"prompt": ""}, "the prompt is empty", "prompt"),
        ({"prompt": []}, "the prompt is empty", "prompt"),
        ({"prompt": [""]}, "the prompt is empty", None),
        ({"prompt": [[]]}, "the prompt is empty", None),
        ({"prompt": [1, "a"]}, r"prompt\[\d\]", None),
        ({"prompt": [49152]}, "token id 49152 is outside the vocabulary", None),
        ({"prompt": [-1], "echo": True}, "token id -1 is outside the vocabulary", None),
        ({"prompt": [1.5]}, r"prompt\[0\] is 1.5", None),
        ({"prompt": [True]}, r"prompt\[0\] is true", None),
        ({"max_tokens": 0}, "max_tokens is 0: that works with echo=true only", "max_tokens"),
        ({"max_tokens": -1}, "max_tokens is -1", "max_tokens"),
        ({"best_of": 1, "n": 2}, "best_of is 1: it must be at least n, 2", "best_of"),
        ({"best_of": 0}, "best_of is 0: it must be at least n, 1", "best_of"),
        ({"best_of": 3, "stream": True}, "best_of above n .* cannot be streamed", "best_of"),
        ({"best_of": 500}, "1 prompts with best_of=500 make 500 answers", "best_of"),
        ({"suffix": "end"}, 'suffix is "end": this server does not support it', "suffix"),
        ({"logprobs": 21}, "logprobs is 21", "logprobs"),
        ({"prompt": ["a"] * 100, "n": 2}, "100 prompts with n=2 make 200 answers", "n"),
    ],
)
def test_what_is_refused(
    client: openai.OpenAI, fields: dict[str, Any], message: str, param: str | None
) -> None:
    asked: dict[str, Any] = {"model": "smollm2", "prompt": "Hello", "max_tokens": 1} | fields
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.completions.create(**asked)
    if param is not None:
        assert caught.value.param == param

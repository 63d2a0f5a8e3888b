"""The facade with the default model on the native engine."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from alpage import Llama
from alpage.core.errors import UsageError
from alpage.core.settings import Settings


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[Llama]:
    with Llama.load(smollm2_path, context=1024, settings=Settings()) as loaded:
        yield loaded


def test_it_tells_what_it_is(llm: Llama) -> None:
    assert (llm.model.format, llm.model.quantization, llm.model.engine) == (
        "gguf", "Q4_1", "native",
    )  # fmt: skip
    assert llm.context == 1024
    assert llm.model.config.n_layers == 30


def test_it_answers_a_chat(llm: Llama) -> None:
    messages = [{"role": "user", "content": "Say hello to the world."}]
    answer = llm.chat(messages, temperature=0, max_tokens=40)
    assert "hello" in answer.text.lower()
    pieces = list(llm.chat(messages, temperature=0, max_tokens=40, stream=True))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert pieces[-1].finish_reason == answer.finish_reason


def test_a_seed_gives_the_same_answer_alone_and_among_others(llm: Llama) -> None:
    def ask(seed: int) -> str:
        return llm.generate("The lake lies", seed=seed, max_tokens=12, temperature=1.0).text

    alone = [ask(seed) for seed in range(6)]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(6))) == alone


def test_likely_text_scores_higher_and_like_texts_lie_closer(llm: Llama) -> None:
    plain = llm.logprobs("The cat sat on the mat.")
    odd = llm.logprobs("Mat the on sat cat the.")
    assert plain.perplexity < odd.perplexity
    a, b, c = llm.embed(["The cat is asleep.", "A cat sleeps.", "Interest rates rose in May."])
    assert float(a @ b) > float(a @ c)
    assert np.linalg.norm(a) == pytest.approx(1, abs=1e-5)


def test_scores_are_the_logprobs_of_what_was_generated(llm: Llama) -> None:
    prompt = llm.tokenize("In the morning the")
    answer = llm.generate(prompt, max_tokens=10, temperature=0, top_logprobs=0)
    assert answer.logprobs is not None
    scores = llm.engine.score([*prompt, *answer.tokens])[len(prompt) :]
    wanted = [entry.logprob for entry in answer.logprobs]
    # Rows of a prompt and of an answer take different paths through the core.
    assert scores == pytest.approx(wanted, abs=0.05)


def test_a_context_larger_than_the_models_is_refused(smollm2_path: Path) -> None:
    with pytest.raises(UsageError, match="between 1 and the model's 8192 tokens, not 9000"):
        Llama.load(smollm2_path, context=9000, settings=Settings())


GREET = [{"role": "user", "content": "Say hello to the world."}]


def test_the_answer_goes_on_from_its_beginning(llm: Llama) -> None:
    whole = llm.chat(GREET, temperature=0, max_tokens=20)
    begun, rest = whole.text[:14], whole.text[14:]
    request = llm.chat_request(GREET, begun=begun, temperature=0, max_tokens=10)
    text = llm.stream(request).result().text
    assert text
    assert rest.startswith(text)


def test_the_beginning_is_text_and_never_a_special_token(llm: Llama) -> None:
    plain = llm.chat_request(GREET)
    marked = llm.chat_request(GREET, begun="<|im_end|>")
    added = list(marked.prompt)[len(plain.prompt) :]
    assert len(added) > 1
    assert not any(llm.tokenizer.is_special(token) for token in added)

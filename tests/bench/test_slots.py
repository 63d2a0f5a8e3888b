"""The loop of llama.cpp's server: its answers are llama.cpp's own, and it computes what it must."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpage.bench import llamacpp
from alpage.bench.serving import Sampling
from alpage.bench.slots import LlamaCppServer, common_prefix
from alpage.bench.traffic import TimedRequest
from alpage.core.errors import InternalError
from alpage.llama.text import load_text_side
from alpage.weights.source import open_model

pytestmark = pytest.mark.skipif(
    not llamacpp.is_installed(), reason="needs llama-cpp-python (the extra 'bench')"
)

# Continuations without close calls: llama.cpp rounds differently in another company.
SYSTEM = "Here the days of the week are told again and again, as the children learn them: "
PROMPTS = (
    SYSTEM + "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,",
    SYSTEM + "Friday, Saturday, Sunday, Monday, Tuesday, Wednesday, Thursday, Friday, Saturday,",
    "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,",
    SYSTEM + "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday,"
    " Wednesday, Thursday,",
    "A B C D E F G H I J K L M",
)
TOKENS = 6


@pytest.fixture(scope="module")
def requests(smollm2_path: Path) -> list[TimedRequest]:
    with open_model(smollm2_path) as source:
        text_side = load_text_side(source)
    return [TimedRequest(0, text_side.encode_prompt(text), TOKENS, 1) for text in PROMPTS]


@pytest.fixture(scope="module")
def alone(smollm2_path: Path, requests: list[TimedRequest]) -> list[list[int]]:
    """Greedy answers of llama-cpp-python's own loop, each from an empty cache."""
    package: Any = importlib.import_module("llama_cpp")
    model = package.Llama(str(smollm2_path), n_ctx=256, n_threads=1, verbose=False)
    answers = []
    for request in requests:
        model.reset()
        tokens = model.generate(request.prompt, temp=0)
        answers.append([next(tokens) for _ in range(TOKENS)])
    model.close()
    return answers


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[LlamaCppServer]:
    server = LlamaCppServer(smollm2_path, threads=1, sampling=Sampling(temperature=0))
    assert server.load() > 0
    yield server
    server.close()


def rows_of(server: LlamaCppServer, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The sequences of the rows of each batch from now on."""
    assert server._context is not None
    batches: list[list[int]] = []
    decode = server._context.decode

    def spy(tokens: Any, positions: Any, sequences: Any, outputs: Any) -> None:
        batches.append(list(sequences))
        decode(tokens, positions, sequences, outputs)

    monkeypatch.setattr(server._context, "decode", spy)
    return batches


@pytest.mark.parametrize(("slots", "together"), [(1, 1), (2, 2), (5, 5), (2, 5)])
def test_every_answer_is_that_of_the_request_alone(
    server: LlamaCppServer,
    requests: list[TimedRequest],
    alone: list[list[int]],
    slots: int,
    together: int,
) -> None:
    """Whatever a slot has in its cache, and with more requests than slots."""
    server.prepare(slots, 256)
    for _ in range(2):
        answers = server.serve(requests, together)
        assert [answer.tokens for answer in answers] == alone
        for answer in answers:
            times = [answer.arrived, *answer.times]
            assert times == sorted(times)


def test_answers_go_on_while_prompts_run(
    server: LlamaCppServer, requests: list[TimedRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.prepare(2, 256)
    batches = rows_of(server, monkeypatch)
    long, short = requests[0], requests[2]
    server.serve([TimedRequest(0, short.prompt, 2, 1), long, short], 2)
    first, second = len(short.prompt), len(long.prompt)
    # With both slots free and unused the server takes the last one.
    assert batches[0] == [0] * second + [1] * first
    assert batches[1] == [0, 1]
    # The third takes the slot of the first and its tokens but the last, beside the second's answer.
    assert batches[2] == [0, 1]
    assert all(batch in ([0, 1], [0], [1]) for batch in batches[2:])


def test_a_slot_computes_what_it_does_not_hold(
    server: LlamaCppServer, requests: list[TimedRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.prepare(1, 256)
    batches = rows_of(server, monkeypatch)
    first, second, other = requests[0], requests[1], requests[2]
    shared = common_prefix(np.array(first.prompt), np.array(second.prompt))
    assert 10 < shared < len(second.prompt)
    server.serve([first, second], 1)
    assert len(batches[0]) == len(first.prompt)
    assert len(batches[TOKENS]) == len(second.prompt) - shared
    batches.clear()
    server.serve([other, second], 1)
    # Another prompt drives the second one out of the slot; the prompt cache has it.
    assert len(batches[0]) == len(other.prompt)
    assert len(batches[TOKENS]) == 1
    assert server._slots is not None
    assert len(server._slots.prompt_cache) == 2  # the first and the other one


def test_requests_that_come_later_are_waited_for(
    server: LlamaCppServer, requests: list[TimedRequest]
) -> None:
    server.prepare(2, 256)
    at = [0.0, 0.0, 1.0]
    timed = [TimedRequest(at[i], requests[i].prompt, 2, 1) for i in range(3)]
    answers = server.serve(timed, None)
    assert [answer.arrived for answer in answers] == at
    assert answers[2].times[0] > 1.0


def test_sampling_follows_its_seed(smollm2_path: Path, requests: list[TimedRequest]) -> None:
    warm = LlamaCppServer(smollm2_path, threads=1, sampling=Sampling(temperature=2.0))
    warm.load()
    warm.prepare(1, 256)
    asked = [TimedRequest(0, requests[0].prompt[:6], 8, seed) for seed in (1, 1, 2)]
    first, again, other = (answer.tokens for answer in warm.serve(asked, 1))
    assert first == again != other
    warm.close()


def test_it_must_be_prepared(smollm2_path: Path) -> None:
    with pytest.raises(InternalError, match="serve comes after prepare"):
        LlamaCppServer(smollm2_path, threads=1).serve([], None)

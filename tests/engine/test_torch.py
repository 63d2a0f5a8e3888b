"""The reference runner: pages, batches and chunks must not change what the plain model says."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import AlpageError, InputError, InternalError, UsageError
from alpage.core.types import SamplingParams
from alpage.engine.protocol import Request, Runner, StepBatch, TokenEvent
from alpage.engine.scheduler import Limits, Scheduler
from alpage.engine.torch import TorchRunner
from alpage.model.llama import Llama
from alpage.model.load import DTypeName
from alpage.weights.source import open_model

CONFIG = LlamaConfig(
    vocab_size=89,
    dim=48,
    n_layers=3,
    n_heads=6,
    n_kv_heads=2,
    head_dim=8,
    ffn_dim=61,
    context_length=256,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_model(seed: int = 0, config: LlamaConfig = CONFIG) -> Llama:
    torch.manual_seed(seed)
    model = Llama(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))
    return model


def plain_logits(model: Llama, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """What the model says without pages or company: [L, V]."""
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.from_numpy(tokens.astype(np.int64))[None])[
            0
        ].numpy()
    return logits


@dataclass(eq=False)
class Text:
    """A sequence that is being fed in pieces."""

    tokens: NDArray[np.int32]
    expected: NDArray[np.float32]
    done: int = 0
    pages: list[int] = field(default_factory=list)


def step(
    pieces: list[tuple[Text, int]], page_size: int, outputs: NDArray[np.int32] | None = None
) -> StepBatch:
    """The next `count` tokens of each text in one batch; pages must be there already."""
    width = max(len(text.pages) for text, _ in pieces)
    tables = [text.pages + [-1] * (width - len(text.pages)) for text, _ in pieces]
    tokens = [text.tokens[text.done : text.done + count] for text, count in pieces]
    positions = [np.arange(text.done, text.done + count) for text, count in pieces]
    rows = sum(count for _, count in pieces)
    return StepBatch(
        tokens=np.concatenate(tokens).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        sequences=np.repeat(np.arange(len(pieces)), [count for _, count in pieces]).astype(
            np.int32
        ),
        page_tables=np.array(tables, dtype=np.int32),
        outputs=np.arange(rows, dtype=np.int32) if outputs is None else outputs,
    )


def feed_all(runner: Runner, model: Llama, rng: np.random.Generator, texts: int) -> Iterator[float]:
    """Random texts come, are fed in random pieces beside one another, and give pages back.

    Yields, for each step, the largest difference from the plain model's logits.
    """
    free = rng.permutation(runner.page_count).tolist()
    waiting = [
        rng.integers(0, CONFIG.vocab_size, rng.integers(1, 40), dtype=np.int32)
        for _ in range(texts)
    ]
    running: list[Text] = []
    while waiting or running:
        while waiting and len(running) < 4:
            tokens = waiting.pop()
            running.append(Text(tokens, plain_logits(model, tokens)))
        pieces = []
        for text in rng.permutation(np.array(running, dtype=object)).tolist():
            left = len(text.tokens) - text.done
            count = min(left, int(rng.choice([0, 1, 1, 2, 7, 19])))
            if not count:
                continue
            while len(text.pages) * runner.page_size < text.done + count:
                text.pages.append(free.pop(int(rng.integers(len(free)))))
            pieces.append((text, count))
        if not pieces:
            continue
        batch = step(pieces, runner.page_size)
        chosen = rng.permutation(batch.tokens.size)[: rng.integers(1, batch.tokens.size + 1)]
        logits = runner.forward(replace(batch, outputs=chosen.astype(np.int32)))
        rows = [text.expected[text.done : text.done + count] for text, count in pieces]
        expected = np.concatenate(rows)[chosen]
        assert logits.shape == expected.shape and logits.dtype == np.float32
        yield float(np.abs(logits - expected).max())
        for text, count in pieces:
            text.done += count
            if text.done == len(text.tokens):
                free.extend(text.pages)
                running.remove(text)
    assert sorted(free) == list(range(runner.page_count))


@pytest.mark.parametrize("page_size", [1, 4, 16])
@pytest.mark.parametrize("seed", range(4))
def test_interleaved_texts_equal_the_model_alone(page_size: int, seed: int) -> None:
    model = make_model(seed)
    runner: Runner = TorchRunner(model, page_count=-(-176 // page_size), page_size=page_size)
    differences = list(feed_all(runner, model, np.random.default_rng(seed), texts=12))
    assert len(differences) > 10
    assert max(differences) < 1e-5


@pytest.mark.parametrize(
    "config",
    [
        replace(CONFIG, tied=True, n_kv_heads=6),
        replace(
            CONFIG, n_heads=4, n_kv_heads=1, head_dim=16, rope_scaling=RopeScaling("linear", 3)
        ),
        replace(CONFIG, head_dim=32, rope_scaling=RopeScaling("llama3", 8, 1, 4, 32)),
    ],
)
def test_every_kind_of_model_can_be_paged(config: LlamaConfig) -> None:
    model = make_model(config=config)
    runner = TorchRunner(model, page_count=40, page_size=5)
    assert max(feed_all(runner, model, np.random.default_rng(7), texts=8)) < 1e-5


def test_rounded_cache_is_close_to_the_exact_one() -> None:
    model = make_model()
    runner = TorchRunner(model, page_count=16, kv_dtype="bfloat16")
    assert 1e-4 < max(feed_all(runner, model, np.random.default_rng(1), texts=8)) < 0.1


def test_two_texts_share_the_pages_of_an_equal_beginning() -> None:
    model = make_model()
    rng = np.random.default_rng(2)
    runner = TorchRunner(model, page_count=6, page_size=4)
    first, second = rng.integers(0, 89, (2, 11), dtype=np.int32)
    second[:8] = first[:8]
    one = Text(first, plain_logits(model, first), pages=[5, 2, 0])
    two = Text(second, plain_logits(model, second), done=8, pages=[5, 2, 3])
    runner.forward(step([(one, 8)], 4))
    one.done = 8
    logits = runner.forward(step([(one, 3), (two, 3)], 4))
    np.testing.assert_allclose(logits[:3], one.expected[8:], atol=1e-5)
    np.testing.assert_allclose(logits[3:], two.expected[8:], atol=1e-5)


def test_hidden_states_and_their_order() -> None:
    model = make_model()
    tokens = np.arange(9, dtype=np.int32)
    text = Text(tokens, plain_logits(model, tokens), pages=[1])
    runner = TorchRunner(model, page_count=2)
    batch = step([(text, 9)], 16, outputs=np.array([8, 0, 8], dtype=np.int32))
    states = runner.hidden(batch)
    with torch.inference_mode():
        expected = model.hidden(torch.arange(9)[None])[0, [8, 0, 8]]
    np.testing.assert_allclose(states, expected.numpy(), atol=1e-5)
    nothing = replace(batch, outputs=np.empty(0, dtype=np.int32))
    assert runner.forward(nothing).shape == (0, 89)
    assert runner.hidden(nothing).shape == (0, 48)


def test_scheduler_answers_as_the_model_does() -> None:
    """Greedy answers of many requests, in a pool so small that some must wait or start again."""
    model = make_model()
    scheduler = Scheduler(
        TorchRunner(model, page_count=9, page_size=4), limits=Limits(rows=7, scored=7, running=4)
    )
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, 89, length).tolist() for length in (1, 13, 6, 9, 3, 11, 2)]
    sampling = SamplingParams(temperature=0, max_tokens=14)
    for number, prompt in enumerate(prompts):
        scheduler.add(number, Request(prompt, sampling))
    answers: dict[int, list[int]] = {number: [] for number in range(len(prompts))}
    while scheduler.busy:
        for number, event in scheduler.step():
            if isinstance(event, TokenEvent):
                answers[number].append(event.token)
    assert scheduler.preemptions > 0 and scheduler.free_pages == 9
    for number, prompt in enumerate(prompts):
        tokens = list(prompt)
        for _ in range(14):
            tokens.append(int(plain_logits(model, np.array(tokens, np.int32))[-1].argmax()))
        assert answers[number] == tokens[len(prompt) :]


def batch_of_four() -> StepBatch:
    tokens = np.arange(4, dtype=np.int32)
    text = Text(tokens, np.empty(0, dtype=np.float32), pages=[1])
    return step([(text, 4)], 4)


def ids(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tokens": ids(0, 1, 89, 3)}, InputError, "token id 89 is outside the vocabulary of 89"),
        ({"tokens": ids(0, -1, 2, 3)}, InputError, "token id -1 is outside"),
        ({"tokens": ids()}, InternalError, "of one length, not 0, 4 and 4"),
        ({"positions": ids(0, 1, 2)}, InternalError, "of one length, not 4, 3 and 4"),
        ({"positions": ids(0, 1, 3, 4)}, InternalError, "do not ascend by one"),
        ({"positions": ids(3, 2, 1, 0)}, InternalError, "do not ascend by one"),
        ({"positions": ids(-1, 0, 1, 2)}, InternalError, "do not ascend by one"),
        ({"positions": ids(1, 2, 3, 4)}, InternalError, r"cannot hold 5 positions"),
        ({"sequences": ids(0, 0, 1, 1)}, InternalError, "sequence 1"),
        ({"sequences": ids(-1, -1, -1, -1)}, InternalError, "sequence -1 has no page table"),
        ({"page_tables": ids(-1)[None]}, InternalError, "cannot hold 4 positions"),
        ({"page_tables": ids(2)[None]}, InternalError, "cannot hold 4 positions"),
        ({"page_tables": np.empty((1, 0), np.int32)}, InternalError, "cannot hold 4 positions"),
        ({"outputs": ids(4)}, InternalError, "of a step of 4 rows"),
        ({"outputs": ids(-1)}, InternalError, "of a step of 4 rows"),
        (
            {
                "positions": ids(0, 1, 0, 1),
                "sequences": ids(0, 0, 1, 1),
                "page_tables": np.ones((2, 1), np.int32),
            },
            InternalError,
            "write to the same place",
        ),
    ],
)
def test_batches_that_break_their_promises(
    changes: dict[str, NDArray[np.int32]], error: type[AlpageError], message: str
) -> None:
    runner = TorchRunner(make_model(), page_count=2, page_size=4)
    with pytest.raises(error, match=message):
        runner.forward(replace(batch_of_four(), **changes))
    assert runner.forward(batch_of_four()).shape == (4, 89)  # and it goes on working


def test_closed_runner_and_impossible_sizes() -> None:
    runner = TorchRunner(make_model(), page_count=2, page_size=4)
    runner.close()
    runner.close()
    with pytest.raises(InternalError, match="closed"):
        runner.forward(batch_of_four())
    with pytest.raises(UsageError, match="0 pages of 16 tokens"):
        TorchRunner(make_model(), page_count=0)


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("float32", 0.0, 2e-4), ("bfloat16", 1e-3, 1.5)]
)
def test_default_model_in_pages(
    smollm2_path: Path, dtype: DTypeName, low: float, high: float
) -> None:
    rng = np.random.default_rng(3)
    with open_model(smollm2_path) as source:
        exact = TorchRunner.load(source, page_count=4)
        runner = TorchRunner.load(source, page_count=4, dtype=dtype, kv_dtype=dtype)
    tokens = rng.integers(0, source.config.vocab_size, 40, dtype=np.int32)
    whole = exact.forward(step([(Text(tokens, np.empty(0, np.float32), pages=[0, 1, 2]), 40)], 16))
    text = Text(tokens, whole, pages=[3, 0, 2])
    pieces = []
    for count in (17, 1, 1, 21):
        pieces.append(runner.forward(step([(text, count)], 16)))
        text.done += count
    difference = np.abs(np.concatenate(pieces) - whole).max()
    assert low <= difference < high

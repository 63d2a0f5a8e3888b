"""Perplexity: which tokens count, on a model that is plain arithmetic; and the real one."""

import math
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engine.fakes import NoAdapters, Stateless

from alpage.core.config import LlamaConfig
from alpage.core.errors import FormatError, InputError, UsageError
from alpage.engine.native import NativeRunner
from alpage.engine.protocol import StepBatch
from alpage.evals import perplexity as module
from alpage.evals.perplexity import Ids, Perplexity, perplexity, runner_scorer
from alpage.llama.text import load_text_side
from alpage.weights.source import open_model

VOCAB = 50


class Counting(NoAdapters, Stateless):
    """Logits that depend on the token and its position; remembers what was run and asked for."""

    page_size = 16
    page_count = 100
    config = LlamaConfig(
        vocab_size=VOCAB, dim=8, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, ffn_dim=8,
        context_length=1600,
    )  # fmt: skip

    def __init__(self) -> None:
        self.run: list[tuple[int, int]] = []  # position, token
        self.asked: list[int] = []  # positions
        self.sizes: list[tuple[int, int]] = []  # rows, outputs

    def forward(self, batch: StepBatch) -> NDArray[np.float32]:
        assert not batch.sequences.any()
        last = int(batch.positions[-1]) // self.page_size
        assert batch.page_tables[0, : last + 1].tolist() == list(range(last + 1))
        self.run += zip(batch.positions.tolist(), batch.tokens.tolist(), strict=True)
        self.asked += batch.positions[batch.outputs].tolist()
        self.sizes.append((len(batch.tokens), len(batch.outputs)))
        return logits_of(batch.tokens[batch.outputs], batch.positions[batch.outputs])

    def hidden(self, batch: StepBatch) -> NDArray[np.float32]:
        raise AssertionError("perplexity needs logits")

    def close(self) -> None:
        raise AssertionError("the caller closes its runner")


def logits_of(tokens: Ids, positions: Ids) -> NDArray[np.float32]:
    columns = np.arange(VOCAB)
    return np.sin(tokens[:, None] * 1.7 + positions[:, None] * 0.3 + columns).astype(np.float32) * 3


def expected_losses(chunk: Ids, first: int) -> NDArray[np.float64]:
    """-log softmax, in double, of tokens first + 1 and on."""
    places = np.arange(first, len(chunk) - 1)
    logits = logits_of(chunk[places], places.astype(np.int32)).astype(np.float64)
    norm = np.log(np.exp(logits).sum(axis=1))
    losses: NDArray[np.float64] = norm - logits[np.arange(len(places)), chunk[places + 1]]
    return losses


def text(count: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(3).integers(0, VOCAB, count)]


@pytest.mark.parametrize("bos", [None, 7])
def test_the_second_half_of_each_chunk_counts(bos: int | None) -> None:
    ids = text(150)
    found = perplexity(runner_scorer(Counting()), ids, context=40, bos=bos)
    losses = []
    for start in (0, 40, 80):
        chunk = np.array(ids[start : start + 40], np.int32)
        if bos is not None:
            chunk[0] = bos
        losses += expected_losses(chunk, 20).tolist()
    assert len(losses) == 3 * 19
    mean = np.mean(losses)
    assert found.loss == pytest.approx(mean, rel=1e-6)
    assert found.value == pytest.approx(math.exp(mean), rel=1e-5)
    error = math.exp(mean) * math.sqrt((np.mean(np.square(losses)) - mean**2) / (len(losses) - 1))
    assert found.standard_error == pytest.approx(error, rel=1e-5)
    assert (found.scored, found.chunks, found.context) == (57, 3, 40)


def test_the_bos_token_takes_the_first_place_of_every_chunk() -> None:
    runner = Counting()
    ids = text(80)
    perplexity(runner_scorer(runner), ids, context=40, bos=49)
    assert [token for position, token in runner.run if position == 0] == [49, 49]
    assert [token for position, token in runner.run if position == 1] == [ids[1], ids[41]]


@pytest.mark.parametrize(("context", "logit_bytes"), [(1600, 1 << 30), (1500, 20_000), (8, 1)])
def test_rows_run_once_and_only_scored_ones_ask_for_logits(
    context: int, logit_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOGIT_BYTES", logit_bytes)
    runner, ids = Counting(), text(context)
    losses = -runner_scorer(runner)(np.array(ids, np.int32), context // 2)
    assert runner.run == list(enumerate(ids[:-1]))  # the last one predicts nothing that is known
    assert runner.asked == list(range(context // 2, context - 1))
    assert max(rows for rows, _ in runner.sizes) <= 512
    assert max(outputs for _, outputs in runner.sizes) <= max(16, logit_bytes // (4 * VOCAB))
    np.testing.assert_allclose(
        losses, expected_losses(np.array(ids, np.int32), context // 2), rtol=1e-4, atol=1e-5
    )


def test_progress_is_told_after_each_chunk() -> None:
    told: list[tuple[int, int, Perplexity]] = []
    ids = text(100)
    score = runner_scorer(Counting())
    found = perplexity(score, ids, context=20, chunks=4, progress=lambda *a: told.append(a))
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[-1][2] == found
    assert told[1][2] == perplexity(score, ids[:40], context=20)


@pytest.mark.parametrize(
    ("tokens", "context", "chunks", "message"),
    [
        (79, 40, None, r"the text has 79 tokens; 2 chunks of 40 need 80"),
        (119, 40, 3, r"the text has 119 tokens; 3 chunks of 40 need 120"),
        (0, 512, None, r"the text has 0 tokens"),
    ],
)
def test_a_text_that_is_too_short(
    tokens: int, context: int, chunks: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        perplexity(runner_scorer(Counting()), text(tokens), context=context, chunks=chunks)


@pytest.mark.parametrize(("context", "chunks"), [(7, None), (40, 0), (-1, None)])
def test_numbers_that_make_no_sense(context: int, chunks: int | None) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        perplexity(runner_scorer(Counting()), text(500), context=context, chunks=chunks)


def test_damaged_weights_are_named() -> None:
    class Broken(Counting):
        def forward(self, batch: StepBatch) -> NDArray[np.float32]:
            return np.full((len(batch.outputs), VOCAB), np.nan, np.float32)

    with pytest.raises(FormatError, match="NaN"):
        perplexity(runner_scorer(Broken()), text(80), context=40)


def test_native_and_reference_agree_on_the_real_model(smollm2_path: Path) -> None:
    """A short text; the committed benchmark does this with 100,000 tokens."""
    from alpage.engine.torch import TorchRunner

    words = (Path(__file__).parents[2] / "LICENSE").read_text("utf-8")
    with open_model(smollm2_path) as source:
        ids = load_text_side(source).encode_prompt(words)
        native = NativeRunner(source, threads=1, context_tokens=64)
        reference = TorchRunner.load(source, page_count=4)
        found = perplexity(runner_scorer(native), ids, context=64, chunks=2)
        right = perplexity(runner_scorer(reference), ids, context=64, chunks=2)
    native.close()
    reference.close()
    assert 2 < right.value < 40
    assert found.value == pytest.approx(right.value, rel=0.01)  # 62 tokens: noise is larger
    assert found.scored == right.scored == 2 * 31

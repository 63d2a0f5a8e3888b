"""How much each column of each matrix matters, measured by running the model on a text.

A product's error is the sum over columns of (error of the weights) x (input of the column), so
errors of the columns with large inputs cost most: importance is the mean squared input, as in
llama.cpp's `llama-imatrix`.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError, InputError
from alpage.engine.native import NativeRunner
from alpage.engine.protocol import StepBatch
from alpage.llama.text import load_text_side
from alpage.weights.contents import ModelSource

CONTEXT = 512
"""Tokens of one chunk; chunks do not see each other."""
LEAST_TOKENS = 32

Progress = Callable[[int, int], None]
"""Called with tokens done and tokens in all."""


def text_ids(source: ModelSource, text: str, limit: int) -> list[int]:
    """The first `limit` ids of `text`; `InputError` where it has fewer than LEAST_TOKENS."""
    # A token has at least one byte, and hardly ever more than 64.
    ids = load_text_side(source).encode_prompt(text[: 64 * limit])[:limit]
    if len(ids) < LEAST_TOKENS:
        raise InputError(
            f"the calibration text has {len(ids)} tokens; at least {LEAST_TOKENS} are needed, and "
            "some thousand make a good one"
        )
    return ids


def importance(
    source: ModelSource,
    ids: Sequence[int],
    *,
    threads: int | None = None,
    isa: str | None = None,
    progress: Progress | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Mean squared input of each column, float32 [columns] by canonical name.

    Tied embeddings have none: half of their work is to be looked up. `FormatError` where the
    model's activations are not finite.
    """
    runner = NativeRunner(source, threads=threads, context_tokens=CONTEXT, isa=isa)
    try:
        runner.observe()
        pages = np.arange(runner.page_count, dtype=np.int32)[None]
        for start in range(0, len(ids), CONTEXT):
            tokens = np.array(ids[start : start + CONTEXT], np.int32)
            rows = np.arange(len(tokens), dtype=np.int32)
            runner.hidden(StepBatch(tokens, rows, np.zeros_like(rows), pages, rows))
            if progress is not None:
                progress(min(start + CONTEXT, len(ids)), len(ids))
        found = runner.mean_squares()
    finally:
        runner.close()
    if source.config.tied:
        del found["output.weight"]
    for name, values in found.items():
        if not np.isfinite(values).all():
            raise FormatError(f"{source.path}: what tensor {name} multiplies is not finite")
    return found

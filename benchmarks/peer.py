"""llama.cpp as a scorer of texts, to stand beside Alpage's engines in the parity table."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.bench.llamacpp import Context, library

_CHUNK = 512


class LlamaCppScorer:
    """A `Scorer` (`alpage.evals.perplexity`) for chunks of at most 512 tokens."""

    def __init__(self, model: Path, threads: int) -> None:
        self._low: Any = library()
        self._model = self._low.llama_model_load_from_file(
            str(model).encode(), self._low.llama_model_default_params()
        )
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self._context = Context(
            self._low, self._model, positions=_CHUNK, sequences=1, threads=threads, flash=True
        )
        vocabulary = self._low.llama_model_get_vocab(self._model)
        self._vocab_size = int(self._low.llama_vocab_n_tokens(vocabulary))

    def __call__(self, tokens: NDArray[np.int32], first: int, /) -> NDArray[np.float64]:
        """Logprobs of `tokens[first + 1:]`, in double precision."""
        rows = len(tokens) - 1
        self._context.rewind(1, 0)
        self._context.decode(
            tokens[:rows].tolist(), range(rows), [0] * rows, [row >= first for row in range(rows)]
        )
        found = np.empty(rows - first, np.float64)
        for index, row in enumerate(range(first, rows)):
            logits = self._context.logits(row, self._vocab_size).astype(np.float64)
            logits -= logits.max()
            found[index] = logits[tokens[row + 1]] - np.log(np.exp(logits).sum())
        return found

    def close(self) -> None:
        """Free context and model."""
        self._context.close()
        self._low.llama_model_free(self._model)

"""llama.cpp's side of a benchmark, through llama-cpp-python's low-level interface.

Everything is as llama.cpp's own `llama-bench` and `llama-batched-bench` have it: physical batches
of 512, an F16 cache, one cache stream for each sequence, flash attention on or off.
"""

import ctypes
import importlib
import importlib.util
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.bench.cases import Case, token_ids
from alpage.core.errors import CapacityError, FormatError, InternalError, ResourceError, UsageError

TESTED_VERSION = "0.3.36"
HOW_TO_INSTALL = f'CMAKE_ARGS="-DGGML_NATIVE=ON" pip install llama-cpp-python=={TESTED_VERSION}'

_BATCH = 512
_WARM_STEPS = 2
# Kept here for good: llama.cpp calls it for as long as the process lives.
_SILENCE: Any = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(
    lambda level, text, data: None
)


def is_installed() -> bool:
    """Whether llama-cpp-python can be imported (it is not imported here)."""
    return importlib.util.find_spec("llama_cpp") is not None


def check_installed() -> None:
    """UsageError with how to install it, where llama-cpp-python is missing."""
    if not is_installed():
        raise UsageError(
            "--against llama.cpp needs llama-cpp-python, which is not installed; build it for "
            f"this machine: {HOW_TO_INSTALL}"
        )


def library() -> Any:
    """The low-level module, made silent. ResourceError when it cannot be loaded or is too old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            package: Any = importlib.import_module("llama_cpp")
        except (ImportError, OSError, RuntimeError) as error:
            raise ResourceError(
                f"llama-cpp-python cannot be loaded ({error}); build it again: {HOW_TO_INSTALL}"
            ) from error
    low: Any = package.llama_cpp
    if not hasattr(low, "LLAMA_FLASH_ATTN_TYPE_ENABLED"):
        raise ResourceError(
            f"llama-cpp-python {package.__version__} is too old; install {TESTED_VERSION}: "
            f"{HOW_TO_INSTALL}"
        )
    low.llama_log_set(_SILENCE, None)
    low.llama_backend_init()
    return low


class Context:
    """A llama.cpp context: a cache for `sequences` of `positions` tokens, and a batch to fill."""

    def __init__(
        self, low: Any, model: Any, *, positions: int, sequences: int, threads: int, flash: bool
    ) -> None:
        self._low = low
        each = -(-positions // 256) * 256
        params = low.llama_context_default_params()
        params.n_ctx = each * sequences
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = _BATCH
        params.n_outputs_max_per_seq = 0
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            low.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else low.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._context = low.llama_init_from_model(model, params)
        if not self._context:
            raise CapacityError(f"llama.cpp has no memory for {each * sequences} tokens of cache")
        self._memory = low.llama_get_memory(self._context)
        self._batch = low.llama_batch_init(_BATCH, 0, 1)

    def close(self) -> None:
        """Free the cache."""
        self._low.llama_batch_free(self._batch)
        self._low.llama_free(self._context)

    def rewind(self, sequences: int, depth: int) -> None:
        """Forget everything from position `depth` on."""
        for sequence in range(sequences):
            self._low.llama_memory_seq_rm(self._memory, sequence, depth, -1)

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        outputs: Sequence[bool],
    ) -> None:
        """One batch of at most 512 rows, computed when this returns."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for row, (token, position, sequence, output) in enumerate(
            zip(tokens, positions, sequences, outputs, strict=True)
        ):
            batch.token[row] = token
            batch.pos[row] = position
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
            batch.logits[row] = output
        status = self._low.llama_decode(self._context, batch)
        self._low.llama_synchronize(self._context)
        if status:
            raise InternalError(f"llama_decode returned {status} for {len(tokens)} rows")

    def prefill(self, tokens: Sequence[int], sequence: int = 0) -> None:
        """Prompt tokens from position 0, logits of the last one."""
        for first in range(0, len(tokens), _BATCH):
            part = tokens[first : first + _BATCH]
            outputs = [False] * len(part)
            outputs[-1] = first + len(part) == len(tokens)
            positions = range(first, first + len(part))
            self.decode(part, positions, [sequence] * len(part), outputs)

    def logits(self, row: int, vocab_size: int) -> NDArray[np.float32]:
        """Logits of a row of the last batch, a copy [vocab_size]."""
        pointer = self._low.llama_get_logits_ith(self._context, row)
        return np.ctypeslib.as_array(pointer, (vocab_size,)).copy()


class LlamaCppSide:
    """See `Side`."""

    variants = ("flash attention", "no flash attention")

    def __init__(self, path: Path, *, threads: int) -> None:
        self._path = path
        self._threads = threads
        self._low = library()
        self._model: Any = None
        self._contexts: dict[str, Context] = {}

    def load(self) -> float:
        """Weights (with llama.cpp's own repacking), vocabulary and one context."""
        self.close()
        low = self._low
        start = perf_counter()
        self._model = low.llama_model_load_from_file(
            str(self._path).encode(), low.llama_model_default_params()
        )
        if not self._model:
            raise FormatError(f"llama.cpp cannot load {self._path}")
        self._contexts = {"": self._context(512, 1, self.variants[0])}
        return perf_counter() - start

    def close(self) -> None:
        """Free contexts and model."""
        self._drop()
        if self._model:
            self._low.llama_model_free(self._model)
        self._model = None

    def prepare(self, case: Case) -> None:
        """Contexts of exactly this shape, brought to the case's depth."""
        self._drop()
        for variant in self.variants:
            context = self._context(case.positions, case.sequences, variant)
            self._contexts[variant] = context
            if case.depth:
                tokens = token_ids(case.depth, self.vocab_size).tolist()
                for sequence in range(case.sequences):
                    context.prefill(tokens, sequence)

    def run(self, case: Case, variant: str) -> float:
        """See `Side`."""
        context = self._contexts[variant]
        if case.kind == "prefill":
            tokens = token_ids(case.tokens, self.vocab_size).tolist()
            context.prefill(tokens[:32])
            context.rewind(1, 0)
            start = perf_counter()
            context.prefill(tokens)
        else:
            rows = range(case.sequences)
            ids = token_ids(case.tokens * len(rows), self.vocab_size).reshape(case.tokens, -1)
            steps = ids.tolist()
            self._decode(context, case, steps[:_WARM_STEPS])
            context.rewind(case.sequences, case.depth)
            start = perf_counter()
            self._decode(context, case, steps)
        seconds = perf_counter() - start
        context.rewind(case.sequences, case.depth)
        return case.sequences * case.tokens / seconds

    @property
    def vocab_size(self) -> int:
        """Tokens that the model knows."""
        vocabulary = self._low.llama_model_get_vocab(self._model)
        return int(self._low.llama_vocab_n_tokens(vocabulary))

    def facts(self) -> Mapping[str, Any]:
        """See `Side`."""
        return {
            "version": f"llama-cpp-python {importlib.import_module('llama_cpp').__version__}",
            "build": self._low.llama_print_system_info().decode().strip().rstrip("| "),
            "threads": self._threads,
            "cache_type": "f16",
        }

    def _context(self, positions: int, sequences: int, variant: str) -> Context:
        return Context(
            self._low, self._model, positions=positions, sequences=sequences,
            threads=self._threads, flash=variant == self.variants[0],
        )  # fmt: skip

    def _decode(self, context: Context, case: Case, steps: list[list[int]]) -> None:
        rows = range(case.sequences)
        outputs = [True] * len(rows)
        for step, tokens in enumerate(steps):
            context.decode(tokens, [case.depth + step] * len(rows), rows, outputs)

    def _drop(self) -> None:
        for context in self._contexts.values():
            context.close()
        self._contexts.clear()

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
    """A llama.cpp context: a cache for `sequences` of `positions` tokens, and a batch to fill.

    `batch` rows at most are decoded in one call, in physical batches of 512. `outputs`: rows of a
    batch that may have logits (0: all). `flash`: whether attention is fused; None: as llama.cpp
    has it.
    """

    def __init__(
        self, low: Any, model: Any, *, positions: int, sequences: int, threads: int,
        flash: bool | None, batch: int = _BATCH, outputs: int = 0,
    ) -> None:  # fmt: skip
        self._low = low
        self.positions = -(-positions // 256) * 256
        params = low.llama_context_default_params()
        params.n_ctx = self.positions * sequences
        params.n_seq_max = sequences
        params.n_batch, params.n_ubatch = batch, _BATCH
        params.n_outputs_max, params.n_outputs_max_per_seq = outputs, min(outputs, 1)
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = {
            True: low.LLAMA_FLASH_ATTN_TYPE_ENABLED,
            False: low.LLAMA_FLASH_ATTN_TYPE_DISABLED,
            None: low.LLAMA_FLASH_ATTN_TYPE_AUTO,
        }[flash]
        self.handle = low.llama_init_from_model(model, params)
        if not self.handle:
            raise CapacityError(
                f"llama.cpp has no memory for {self.positions * sequences} tokens of cache"
            )
        self._memory = low.llama_get_memory(self.handle)
        self._batch = _Batch(low, batch)

    def close(self) -> None:
        """Free the cache."""
        self._low.llama_free(self.handle)

    def rewind(self, sequences: int, depth: int) -> None:
        """Forget everything from position `depth` on."""
        for sequence in range(sequences):
            self.forget(sequence, depth)

    def forget(self, sequence: int, depth: int) -> None:
        """Forget one sequence from position `depth` on."""
        self._low.llama_memory_seq_rm(self._memory, sequence, depth, -1)

    def decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        outputs: Sequence[bool],
    ) -> None:
        """One batch, computed when this returns."""
        filled = self._batch.fill(tokens, positions, sequences, outputs)
        status = self._low.llama_decode(self.handle, filled)
        self._low.llama_synchronize(self.handle)
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
        pointer = self._low.llama_get_logits_ith(self.handle, row)
        return np.ctypeslib.as_array(pointer, (vocab_size,)).copy()


class _Batch:
    """Arrays for `rows` rows, which llama.cpp reads in place."""

    def __init__(self, low: Any, rows: int) -> None:
        self._tokens, self._positions, self._sequences = np.zeros((3, rows), np.int32)
        self._outputs = np.zeros(rows, np.int8)
        self._ones = np.ones(rows, np.int32)  # each row belongs to one sequence
        number = ctypes.POINTER(ctypes.c_int32)
        first = self._sequences.ctypes.data
        self._own_sequence = (number * rows)(
            *(ctypes.cast(first + 4 * row, number) for row in range(rows))
        )
        self._struct = low.llama_batch(
            token=self._tokens.ctypes.data_as(number),
            pos=self._positions.ctypes.data_as(number),
            n_seq_id=self._ones.ctypes.data_as(number),
            seq_id=ctypes.cast(self._own_sequence, ctypes.POINTER(number)),
            logits=self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        outputs: Sequence[bool],
    ) -> Any:
        """The structure that `llama_decode` takes."""
        rows = self._struct.n_tokens = len(tokens)
        self._tokens[:rows] = tokens
        self._positions[:rows] = positions
        self._sequences[:rows] = sequences
        self._outputs[:rows] = outputs
        return self._struct


def load_model(low: Any, path: Path) -> Any:
    """Weights and vocabulary, to be freed with `llama_model_free`; FormatError."""
    model = low.llama_model_load_from_file(str(path).encode(), low.llama_model_default_params())
    if not model:
        raise FormatError(f"llama.cpp cannot load {path}")
    return model


def library_facts(low: Any, threads: int) -> dict[str, Any]:
    """Version, build and settings, for a report."""
    return {
        "version": f"llama-cpp-python {importlib.import_module('llama_cpp').__version__}",
        "build": low.llama_print_system_info().decode().strip().rstrip("| "),
        "threads": threads,
        "cache_type": "f16",
    }


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
        start = perf_counter()
        self._model = load_model(self._low, self._path)
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
        return library_facts(self._low, self._threads)

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

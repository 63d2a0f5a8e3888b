"""The native core as a runner: weights repacked at load, then ids in and logits out."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage import _native
from alpage.core.config import LlamaConfig
from alpage.core.errors import CapacityError, FormatError, InternalError, UsageError
from alpage.core.processors import usable_processors
from alpage.core.types import KvType
from alpage.engine.protocol import StepBatch
from alpage.weights.lora import LoraAdapter
from alpage.weights.source import ModelSource
from alpage.weights.tensor import Tensor, TensorType

PAGE_TOKENS: int = _native.PAGE_TOKENS
PARTS = (
    "attention.wq", "attention.wk", "attention.wv", "attention.wo",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
)  # fmt: skip
"""The matrices of a layer."""


class NativeRunner:
    """A `Runner` on the CPU. Not thread-safe: one thread drives it.

    `context_tokens` is the size of the page pool, shared by all sequences. `threads` defaults to
    the processors that this process may use, `isa` to the best instruction set of the machine.
    `kv` "int8" halves the cache: symmetric, one float32 scale a token, layer and head.
    Raises `FormatError` for NaN or infinite weights, `CapacityError` when memory does not suffice,
    `UsageError` for an instruction set that the machine does not run, or another `kv`.
    """

    def __init__(
        self,
        source: ModelSource,
        *,
        threads: int | None = None,
        context_tokens: int,
        isa: str | None = None,
        kv: KvType = "bf16",
    ) -> None:
        self.config: LlamaConfig = source.config
        self.kv: KvType = kv
        self._fingerprint: str | None = None
        self.page_size = PAGE_TOKENS
        self.page_count = -(-context_tokens // PAGE_TOKENS)
        if kv not in ("bf16", "int8"):
            raise UsageError(f"the type of the cache is 'bf16' or 'int8', not {kv!r}")
        if isa is not None and isa not in available_isas():
            raise UsageError(
                f"this machine does not run {isa}; it runs {', '.join(available_isas())}"
            )
        try:
            self._model = _build(source, threads or usable_processors(), isa or "")
            self._model.finish(self.page_count, kv)
        except MemoryError as error:
            raise CapacityError(
                f"not enough memory for {source.path.name} with room for {context_tokens} tokens"
            ) from error

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return str(self._model.isa)

    @property
    def threads(self) -> int:
        """Threads of the pool."""
        return int(self._model.threads)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the repacked weight matrices."""
        return int(self._model.weight_bytes)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the whole page pool; memory is taken as pages are used."""
        return int(self._model.cache_bytes)

    @property
    def cache_fingerprint(self) -> str:
        """See `Runner`. The first use reads all weights once. Not cryptographic."""
        if self._fingerprint is None:
            c = self.config
            self._fingerprint = (
                f"native{_native.CACHE_LAYOUT}-{self.isa}-{self.kv}-{PAGE_TOKENS}x{c.n_layers}x"
                f"{c.n_kv_heads}x{c.head_dim}-{self._model.weight_digest():016x}"
            )
        return self._fingerprint

    def read_page(self, page: int) -> bytes:
        """See `Runner`."""
        try:
            return bytes(self._model.read_page(page))
        except (IndexError, TypeError) as error:
            raise InternalError(f"a page that is not there was read: {error}") from error

    def write_page(self, page: int, data: bytes) -> None:
        """See `Runner`."""
        try:
            self._model.write_page(page, data)
        except (IndexError, TypeError, ValueError) as error:
            raise InternalError(f"these bytes are no page of this cache: {error}") from error

    def forward(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [outputs, vocab_size]; valid until the next call."""
        return self._run(batch, hidden=False)

    def hidden(self, batch: StepBatch) -> NDArray[np.float32]:
        """States after the final norm [outputs, dim]; valid until the next call."""
        return self._run(batch, hidden=True)

    def _run(self, batch: StepBatch, *, hidden: bool) -> NDArray[np.float32]:
        try:
            result: NDArray[np.float32] = self._model.forward(
                batch.tokens, batch.positions, batch.sequences, batch.page_tables, batch.outputs,
                hidden, batch.adapters,
            )  # fmt: skip
        except (ValueError, IndexError) as error:
            raise InternalError(f"the scheduler built an impossible batch: {error}") from error
        except MemoryError as error:
            raise CapacityError(f"not enough memory for {len(batch.tokens)} rows") from error
        return result

    def set_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Keep `adapter` in `slot` (0 or more) as bfloat16, in place of what was there.

        Raises `FormatError` for one that does not fit the model or whose weights do not stay
        finite, `CapacityError` when memory does not suffice; then the slot is as before.
        """
        matrices = []
        for name, matrix in adapter.matrices.items():
            layer, part = _place(name)
            matrices.append((part, layer, matrix.a, matrix.b, matrix.scale))
        try:
            finite = self._model.set_adapter(slot, matrices)
        except ValueError as error:
            raise FormatError(f"adapter {adapter.name} does not fit this model: {error}") from error
        except MemoryError as error:
            raise CapacityError(f"not enough memory for adapter {adapter.name}") from error
        if not finite:
            raise FormatError(f"adapter {adapter.name} has weights too large for bfloat16")

    def free_adapter(self, slot: int) -> None:
        """Forget the adapter in `slot`; `InternalError` where there is none."""
        try:
            self._model.free_adapter(slot)
        except IndexError as error:
            raise InternalError(str(error)) from error

    @property
    def adapter_bytes(self) -> int:
        """Bytes of all adapters that are set."""
        return int(self._model.adapter_bytes)

    def time_stages(self) -> None:
        """From now on add up the time of each stage of a pass, from zero."""
        self._model.time_stages()

    def stage_seconds(self) -> dict[str, float]:
        """Seconds by stage since `time_stages`, in the order of a pass; empty before it.

        As one thread sees them: a stage ends when the last thread is done with it.
        """
        return dict(self._model.stage_seconds())

    def observe(self) -> None:
        """From now on add up the squares of what each matrix multiplies, from zero."""
        self._model.observe()

    def mean_squares(self) -> dict[str, NDArray[np.float32]]:
        """Mean squared input of each column of each matrix since `observe`, by canonical name.

        float32 [columns]. The head, tied or not, is "output.weight", over output rows; what
        `hidden` gives are output rows too. Empty where nothing was observed.
        """
        rows, outputs = (self._model.observed_rows(name) for name in ("", "output"))
        names = [f"layers.{i}.{part}.weight" for i in range(self.config.n_layers) for part in PARTS]
        found = {}
        for name, count in [*((name, rows) for name in names), ("output.weight", outputs)]:
            if count:
                layer, part = _place(name)
                found[name] = (self._model.squares(part, layer) / count).astype(np.float32)
        return found

    def close(self) -> None:
        """Release weights, cache and threads."""
        del self._model


def available_isas() -> list[str]:
    """Instruction sets that this machine runs, the plainest first."""
    return list(_native.available_isas())


def read_rate(threads: int, size: int) -> float:
    """Bytes a second that `threads` read together from `size` bytes of memory."""
    return float(_native.read_rate(threads, size))


def packed_bytes(tensor: Tensor) -> int:
    """Bytes that the core keeps of a tensor (native/src/kernels/kernels.h).

    Quants of any type are kept as they are; of floats a matrix has words of two bytes, and a
    scale for each 32.
    """
    if tensor.type.block_size > 1 or len(tensor.shape) < 2:
        return tensor.nbytes
    return tensor.rows * -(-tensor.columns // 32) * (32 * 2 + 2)


def product_rate(kind: TensorType, rows: int, threads: int, isa: str) -> float:
    """Multiply-adds a second of products of `rows` rows with weights that lie in the caches."""
    return float(_native.product_rate(int(kind), rows, threads, isa))


def sample_row(
    logits: NDArray[np.float32], history: NDArray[np.int32], prompt_length: int, *args: Any
) -> tuple[int, float | None, list[int], list[float]]:
    """The native sampler; arguments and result as `engine.sampling.sample_reference`."""
    token, logprob, top = _native.sample(logits, history, prompt_length, *args)
    return token, logprob, [i for i, _ in top], [p for _, p in top]


def _build(source: ModelSource, threads: int, isa: str) -> Any:
    c = source.config
    model = _native.Model(
        c.vocab_size, c.dim, c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.ffn_dim,
        c.norm_eps, list(c.inverse_frequencies()), threads, isa,
    )  # fmt: skip
    for name, tensor in source.tensors.items():
        layer, part = _place(name)
        if len(tensor.shape) == 1:
            finite = model.set_vector(part, layer, np.ascontiguousarray(tensor.dequantize()))
        else:
            finite = model.set_matrix(
                part, layer, int(tensor.type), tensor.rows, tensor.columns, tensor.data,
                tensor.row_order,
            )  # fmt: skip
            tensor.release()
        if not finite:
            raise FormatError(
                f"{source.path}: tensor {name} holds NaN or infinite weights: the file is damaged"
            )
    return model


def _place(name: str) -> tuple[int, str]:
    """Canonical name -> (layer, the core's name); layer is 0 outside of layers."""
    parts = name.removesuffix(".weight").split(".")
    return (int(parts[1]), parts[-1]) if parts[0] == "layers" else (0, parts[-1])

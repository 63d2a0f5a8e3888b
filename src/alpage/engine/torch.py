"""The reference model behind the runner protocol: the oracle of every faster path.

Paging is applied to `model/llama.py` from outside, as a `Cache`: all rows of a step go through the
linear layers together, and attention runs sequence by sequence over the pages of each. Plain
rather than fast. PyTorch may round a row differently in another batch company (about 1e-6 of the
logits), so sampling can differ where two tokens are that close.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from alpage.core.errors import CapacityError, FormatError, InputError, InternalError, UsageError
from alpage.engine.protocol import StepBatch
from alpage.model.llama import Llama, attend
from alpage.model.load import DTypeName, load, parse_dtype
from alpage.weights.lora import LoraAdapter, LoraMatrix
from alpage.weights.source import ModelSource


class TorchRunner:
    """`Runner` on the reference model, on CPU or CUDA, wherever the model is."""

    def __init__(
        self,
        model: Llama,
        *,
        page_count: int,
        page_size: int = 16,
        kv_dtype: DTypeName = "float32",
    ) -> None:
        """Reserve `page_count` pages of `page_size` tokens.

        `kv_dtype` "bfloat16" rounds keys and values as the native cache does. `CapacityError` when
        the pages do not fit in memory.
        """
        if page_count < 1 or page_size < 1:
            raise UsageError(f"cannot make {page_count} pages of {page_size} tokens")
        self.config = model.config
        self.page_size = page_size
        self.page_count = page_count
        self._model: Llama | None = model.eval()
        self._device = model.tok_embeddings.weight.device
        self._adapters: dict[int, LoraAdapter] = {}
        slots = page_count * page_size
        shape = (self.config.n_layers, slots, self.config.n_kv_heads, self.config.head_dim)
        number_type = parse_dtype(kv_dtype)
        self._fingerprint: str | None = None
        try:
            # Zeros: `read_page` also reads places that nobody has filled yet.
            self._keys = torch.zeros(shape, dtype=number_type, device=self._device)
            self._values = torch.zeros_like(self._keys)  # both [layers, slots, K, E]
        except RuntimeError as error:  # torch.OutOfMemoryError on CUDA, its base on CPU
            size = slots * self.config.kv_bytes_per_token(number_type.itemsize)
            raise CapacityError(
                f"{page_count} pages of {page_size} tokens take {size / 1e9:.1f} GB of key/value "
                f"cache, more than is free on {self._device}"
            ) from error

    @classmethod
    def load(
        cls,
        source: ModelSource,
        *,
        page_count: int,
        page_size: int = 16,
        dtype: DTypeName = "float32",
        kv_dtype: DTypeName = "float32",
        device: str = "cpu",
        threads: int | None = None,
    ) -> Self:
        """Dequantise the weights of `source` into a model in `dtype` on `device`, and run it.

        Errors are those of `alpage.model.load.build` and of the constructor. `threads` sets the
        number of PyTorch's own threads, for the whole process; None leaves it as it is.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        model = load(source, dtype=dtype, device=device)
        return cls(model, page_count=page_count, page_size=page_size, kv_dtype=kv_dtype)

    def forward(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [outputs, vocab_size] of the rows `batch.outputs`."""
        return self._run(batch, head=True)

    def hidden(self, batch: StepBatch) -> NDArray[np.float32]:
        """States after the final norm [outputs, dim] of the rows `batch.outputs`."""
        return self._run(batch, head=False)

    @property
    def cache_fingerprint(self) -> str:
        """See `Runner`. The first use reads all weights once."""
        if self._fingerprint is None:
            facts = hashlib.blake2b(repr(astuple(self.config)).encode(), digest_size=16)
            for name, values in self._running().state_dict().items():
                facts.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
                facts.update(_bytes(values))
            kind = str(self._keys.dtype).removeprefix("torch.")
            self._fingerprint = (
                f"torch-{torch.__version__}-{self._device.type}-{kind}-{self.page_size}-"
                f"{facts.hexdigest()}"
            )
        return self._fingerprint

    def read_page(self, page: int) -> bytes:
        """See `Runner`."""
        keys, values = self._page(page)
        return _bytes(keys) + _bytes(values)

    def write_page(self, page: int, data: bytes) -> None:
        """See `Runner`."""
        parts = self._page(page)
        size = sum(part.nbytes for part in parts)
        if len(data) != size:
            raise InternalError(f"a page of this cache has {size} bytes, not {len(data)}")
        half = size // 2
        for part, start in zip(parts, (0, half), strict=True):
            flat = torch.frombuffer(bytearray(data[start : start + half]), dtype=part.dtype)
            part.copy_(flat.reshape(part.shape))

    def _page(self, page: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one page, to read and write: [layers, page_size, K, E] each."""
        self._running()
        if not 0 <= page < self.page_count:
            raise InternalError(f"page {page} of {self.page_count}")
        places = slice(page * self.page_size, (page + 1) * self.page_size)
        return self._keys[:, places], self._values[:, places]

    def _running(self) -> Llama:
        if self._model is None:
            raise InternalError("this runner is closed")
        return self._model

    def set_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Keep `adapter` in `slot` in float32; `FormatError` when it does not fit the model."""
        if self._model is None or slot < 0:
            raise InternalError(f"no adapter can be set in slot {slot} of this runner")
        modules = dict(self._model.named_modules())
        for name, matrix in adapter.matrices.items():
            linear = modules.get(name.removesuffix(".weight"))
            wanted = (matrix.b.shape[0], matrix.a.shape[1])
            if not isinstance(linear, nn.Linear) or linear.weight.shape != wanted:
                raise FormatError(
                    f"adapter {adapter.name} does not fit this model: it adds {wanted[0]} x "
                    f"{wanted[1]} to {name}"
                )
        self._adapters[slot] = adapter

    def free_adapter(self, slot: int) -> None:
        """Forget the adapter in `slot`; `InternalError` where there is none."""
        if self._adapters.pop(slot, None) is None:
            raise InternalError(f"no adapter in slot {slot}")

    @property
    def adapter_bytes(self) -> int:
        """Bytes of all adapters that are set, in float32."""
        return sum(4 * adapter.size for adapter in self._adapters.values())

    def close(self) -> None:
        """Let go of model and pages; further calls raise `InternalError`."""
        self._model = None
        self._keys = self._values = torch.empty(0)

    def _run(self, batch: StepBatch, *, head: bool) -> NDArray[np.float32]:
        model = self._running()
        _check_rows(batch, self.config.vocab_size)
        spans = _spans(batch, self.page_size, self.page_count)
        with torch.inference_mode(), self._adapted(model, batch):
            cache = PagedCache(self._keys, self._values, batch.positions, spans)
            tokens = self._on_device(batch.tokens)[None]  # [1, L]
            states = model.hidden(tokens, cache)[0]  # [L, D]
            wanted = states[self._on_device(batch.outputs)]  # [outputs, D]
            result = model.logits(wanted) if head else wanted.float()  # [outputs, V or D]
            array: NDArray[np.float32] = result.cpu().numpy()
            return array

    @contextmanager
    def _adapted(self, model: Llama, batch: StepBatch) -> Iterator[None]:
        """For one pass, let the rows of each sequence go through its adapter."""
        rows = {} if batch.adapters is None else _adapter_rows(batch, self._adapters)
        modules = dict(model.named_modules())
        handles = []
        for slot, chosen in rows.items():
            for name, matrix in self._adapters[slot].matrices.items():
                linear = modules[name.removesuffix(".weight")]
                added = _Addition(matrix, self._on_device(chosen), self._device)
                handles.append(linear.register_forward_hook(added))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _on_device(self, ids: NDArray[np.int32]) -> Tensor:
        return torch.from_numpy(ids.astype(np.int64)).to(self._device)


class _Addition:
    """A forward hook: y[rows] += scale * b (a x[rows]), computed in float32."""

    def __init__(self, matrix: LoraMatrix, rows: Tensor, device: torch.device) -> None:
        self._rows = rows  # [n]
        self._a = torch.from_numpy(matrix.a).to(device)  # [R, in]
        self._b = torch.from_numpy(matrix.b).to(device)  # [out, R]
        self._scale = matrix.scale

    def __call__(self, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        """Output [1, L, out] for inputs[0] [1, L, in]."""
        x = inputs[0][0, self._rows].float()  # [n, in]
        added = self._scale * (x @ self._a.T @ self._b.T)  # [n, out]
        result = output.clone()
        result[0, self._rows] = (output[0, self._rows].float() + added).to(output.dtype)
        return result


def _adapter_rows(
    batch: StepBatch, adapters: dict[int, LoraAdapter]
) -> dict[int, NDArray[np.int32]]:
    """The rows of a step by the slot of their adapter."""
    assert batch.adapters is not None
    if batch.adapters.shape != (len(batch.page_tables),):
        raise InternalError(
            f"a step of {len(batch.page_tables)} sequences names {batch.adapters.size} adapters"
        )
    of_rows = batch.adapters[batch.sequences]  # [rows]
    slots = [int(slot) for slot in np.unique(of_rows) if slot != -1]
    for slot in slots:
        if slot not in adapters:
            raise InternalError(f"no adapter in slot {slot}")
    return {slot: np.flatnonzero(of_rows == slot).astype(np.int32) for slot in slots}


@dataclass(frozen=True, slots=True)
class Span:
    """The rows of one sequence in a step, and where the cache keeps that sequence."""

    first: int  # its first row of the batch
    stop: int  # the row after its last
    slots: NDArray[np.int64]  # [T]: slots[i] holds position i; the last stop - first are new


class PagedCache:
    """The `Cache` of one step: rows of many sequences lie behind one another in one batch of 1.

    Slot p * page_size + i of `keys` and `values` [layers, slots, K, E] is place i of page p.
    """

    def __init__(
        self, keys: Tensor, values: Tensor, positions: NDArray[np.int32], spans: list[Span]
    ) -> None:
        device = keys.device
        self._keys, self._values = keys, values
        self._positions = torch.from_numpy(positions.astype(np.int64)).to(device)  # [L]
        self._rows = [slice(span.first, span.stop) for span in spans]
        self._slots = [torch.from_numpy(span.slots).to(device) for span in spans]  # [T] each
        new = [span.slots[span.first - span.stop :] for span in spans]
        self._new = torch.from_numpy(np.concatenate(new)).to(device)  # [L]

    def positions(self, length: int) -> Tensor:
        """Positions of the rows: [L]."""
        if length != self._positions.numel():
            raise InternalError(f"a step of {self._positions.numel()} rows was run on {length}")
        return self._positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write k, v [1, K, L, E] to the new slots; attention output [1, H, L, E] for q."""
        keys, values = self._keys[layer], self._values[layer]  # [slots, K, E]
        keys[self._new] = k[0].transpose(0, 1).to(keys.dtype)  # [L, K, E]
        values[self._new] = v[0].transpose(0, 1).to(values.dtype)  # [L, K, E]
        mixed = []
        for rows, slots in zip(self._rows, self._slots, strict=True):
            seen_k = keys[slots].transpose(0, 1)[None].to(q.dtype)  # [1, K, T, E]
            seen_v = values[slots].transpose(0, 1)[None].to(q.dtype)  # [1, K, T, E]
            mixed.append(attend(q[:, :, rows], seen_k, seen_v))  # [1, H, rows, E]
        return torch.cat(mixed, dim=2)  # [1, H, L, E]


def _bytes(values: Tensor) -> bytes:
    """The numbers of a tensor in order, whatever their type."""
    return values.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes()


def _check_rows(batch: StepBatch, vocab_size: int) -> None:
    """Refuse what torch would answer with an assertion on the device, or by wrapping around."""
    rows = batch.tokens.size
    if not rows or batch.positions.shape != (rows,) or batch.sequences.shape != (rows,):
        raise InternalError(
            f"a step needs tokens, positions and sequences of one length, not {rows}, "
            f"{batch.positions.size} and {batch.sequences.size}"
        )
    if batch.outputs.size and not 0 <= batch.outputs.min() <= batch.outputs.max() < rows:
        raise InternalError(f"outputs {batch.outputs} of a step of {rows} rows")
    strange = batch.tokens[(batch.tokens < 0) | (batch.tokens >= vocab_size)]
    if strange.size:
        raise InputError(f"token id {strange[0]} is outside the vocabulary of {vocab_size}")


def _spans(batch: StepBatch, page_size: int, page_count: int) -> list[Span]:
    """One span for each sequence of `batch`; `InternalError` when it breaks its promises."""
    edges = np.flatnonzero(np.diff(batch.sequences)) + 1
    bounds = [0, *edges.tolist(), batch.tokens.size]
    spans = []
    for first, stop in pairwise(bounds):
        row, positions = int(batch.sequences[first]), batch.positions[first:stop]
        start, total = int(positions[0]), int(positions[-1]) + 1
        if start < 0 or not np.array_equal(positions, np.arange(start, total)):
            raise InternalError(f"positions of sequence {row} do not ascend by one: {positions}")
        if not 0 <= row < len(batch.page_tables):
            raise InternalError(f"sequence {row} has no page table")
        pages = batch.page_tables[row, : -(-total // page_size)].astype(np.int64)
        reach = pages.size * page_size
        if reach < total or pages.min() < 0 or pages.max() >= page_count:
            raise InternalError(f"pages {pages} of sequence {row} cannot hold {total} positions")
        slots = (pages[:, None] * page_size + np.arange(page_size)).reshape(-1)[:total]
        spans.append(Span(first, stop, slots))
    written = np.concatenate([span.slots[span.first - span.stop :] for span in spans])
    if np.unique(written).size != written.size:
        raise InternalError("two rows of a step write to the same place of the cache")
    return spans

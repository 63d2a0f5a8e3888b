"""Models of Llama's sizes with random weights: for measuring speed where no such model is at hand.

Sizes: Meta's model cards of Llama 3.1 (8B) and 3.2 (1B, 3B).
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from alpage.convert.metadata import shape_metadata
from alpage.core.config import LlamaConfig, RopeScaling
from alpage.core.errors import UsageError
from alpage.tokenizer import Tokenizer, to_gguf_metadata
from alpage.tokenizer.bytelevel import BYTE_TO_CHAR
from alpage.tokenizer.pretokenize import pre_tokenizer
from alpage.tokenizer.tiktoken import LLAMA3_SPECIALS, RANKS
from alpage.tokenizer.vocabulary import Vocabulary
from alpage.weights.contents import Lineage, ModelSource
from alpage.weights.gguf_write import STRING
from alpage.weights.names import expected_shapes
from alpage.weights.tensor import Tensor, TensorType


def _llama3(factor: float, **sizes: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=RANKS + len(LLAMA3_SPECIALS),
        context_length=131_072,
        rope_scaling=RopeScaling("llama3", factor),
        **sizes,
    )


SHAPES: dict[str, LlamaConfig] = {
    "1b": _llama3(32, dim=2048, n_layers=16, n_heads=32, n_kv_heads=8, head_dim=64, ffn_dim=8192,
                  tied=True),
    "3b": _llama3(32, dim=3072, n_layers=28, n_heads=24, n_kv_heads=8, head_dim=128, ffn_dim=8192,
                  tied=True),
    "8b": _llama3(8, dim=4096, n_layers=32, n_heads=32, n_kv_heads=8, head_dim=128,
                  ffn_dim=14_336),
}  # fmt: skip

_SPREAD = 0.02
"""Standard deviation of the weights, as models are initialised."""
_POOL = 1 << 22
_LICENCE = "cc0-1.0"


class RandomTensor(Tensor):
    """A `Tensor` in F16 whose rows are made when they are asked for, each time the same.

    Row r is a window of one pool of normal numbers; where it begins follows from r and the name.
    """

    __slots__ = ("_pool",)

    _pool: NDArray[np.float16]

    def __init__(self, name: str, shape: tuple[int, ...], pool: NDArray[np.float16]) -> None:
        """`pool` is longer than a row."""
        values = {
            "name": name, "shape": shape, "type": TensorType.F16, "row_order": None, "_pool": pool,
        }  # fmt: skip
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @property
    def data(self) -> NDArray[np.uint8]:
        """The whole weight, uint8 [rows * row_bytes]."""
        return self.raw_rows(0, self.rows).reshape(-1)

    def raw_rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop - 1`: uint8 [stop - start, row_bytes]."""
        return self.raw_gather(np.arange(start, stop, dtype=np.int32))

    def raw_gather(self, order: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Rows `order`: uint8 [order.size, row_bytes]."""
        windows = sliding_window_view(self._pool, self.columns)
        first = zlib.crc32(self.name.encode())
        # A large odd step: neighbouring rows begin far from one another.
        starts = (first + order.astype(np.int64) * 2_654_435_761) % len(windows)
        return np.ascontiguousarray(windows[starts]).view(np.uint8)

    def release(self) -> None:
        """Nothing is held."""


def random_model(shape: str, seed: int = 1) -> ModelSource:
    """A model of the size `shape` (a key of SHAPES) in F16, in memory as a pool of 8 MB.

    Its tokenizer knows single bytes and Llama 3's special tokens. `UsageError` for other shapes.
    """
    config = SHAPES.get(shape.lower())
    if config is None:
        raise UsageError(f"there is no shape {shape!r:.40}; there are {', '.join(SHAPES)}")
    normal = np.random.default_rng(seed).standard_normal(_POOL, np.float32)
    pool = (normal * np.float32(_SPREAD)).astype(np.float16)
    tensors: dict[str, Tensor] = {}
    for name, size in expected_shapes(config):
        if len(size) == 1:
            ones = np.ones(size, np.float32).view(np.uint8)
            tensors[name] = Tensor(name, size, TensorType.F32, ones)
        else:
            tensors[name] = RandomTensor(name, size, pool)
    entries = {
        "general.architecture": ((STRING,), "llama"),
        "general.type": ((STRING,), "model"),
        "general.license": ((STRING,), _LICENCE),
        **shape_metadata(config),
        **to_gguf_metadata(_tokenizer()),
    }
    return ModelSource(
        path=Path(f"random-{shape.lower()}"),
        format="gguf",
        config=config,
        tensors=tensors,
        name=f"random-{shape.lower()}",
        quantization="F16",
        gguf_metadata={key: value for key, (_, value) in entries.items()},
        gguf_kinds={key: kinds for key, (kinds, _) in entries.items()},
        bos_id=RANKS,
        licence=_LICENCE,
        lineage=Lineage(contributions=("random weights, for measuring speed",)),
    )


def _tokenizer() -> Tokenizer:
    """Llama 3's numbers of tokens: bytes, one pair, tokens that no text has, and special ones."""
    pair = BYTE_TO_CHAR[ord(" ")], "t"
    known = [*BYTE_TO_CHAR, "".join(pair)]
    fillers = [f"[unused {token}]" for token in range(len(known), RANKS)]
    ids = {text: RANKS + place for place, text in enumerate(LLAMA3_SPECIALS)}
    vocabulary = Vocabulary(
        pieces=[*known, *fillers, *LLAMA3_SPECIALS],
        merges=[pair],
        special=frozenset(ids.values()),
        unused=frozenset(range(len(known), RANKS)),
        bos_id=RANKS,
        eos_id=ids["<|end_of_text|>"],
        add_bos=True,
        stop_ids=frozenset({ids["<|end_of_text|>"], ids["<|eot_id|>"]}),
    )
    return Tokenizer(vocabulary, pre_tokenizer("llama-bpe"), ignore_merges=True)

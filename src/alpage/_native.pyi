"""Alpage's native core (bindings: native/bindings.cpp). engine/native.py wraps it."""

import numpy as np
from numpy.typing import NDArray

PAGE_TOKENS: int
CACHE_LAYOUT: int

def available_isas() -> list[str]: ...

class Model:
    def __init__(
        self,
        vocab_size: int,
        dim: int,
        n_layers: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        ffn_dim: int,
        norm_eps: float,
        inverse_frequencies: list[float],
        threads: int,
        isa: str,
    ) -> None: ...
    def set_matrix(
        self,
        name: str,
        layer: int,
        type: int,  # noqa: A002
        rows: int,
        columns: int,
        data: NDArray[np.uint8],
        order: NDArray[np.int32] | None,
    ) -> bool: ...
    def set_vector(self, name: str, layer: int, data: NDArray[np.float32]) -> bool: ...
    def finish(self, pages: int, kv: str = "bf16") -> None: ...
    def forward(
        self,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        sequences: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        outputs: NDArray[np.int32],
        hidden: bool,
        adapters: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]: ...
    def read_page(self, page: int) -> bytes: ...
    def write_page(self, page: int, data: bytes) -> None: ...
    def weight_digest(self) -> int: ...
    def set_adapter(
        self,
        slot: int,
        matrices: list[tuple[str, int, NDArray[np.float32], NDArray[np.float32], float]],
    ) -> bool: ...
    def free_adapter(self, slot: int) -> None: ...
    def time_stages(self) -> None: ...
    def stage_seconds(self) -> list[tuple[str, float]]: ...
    def observe(self) -> None: ...
    def squares(self, name: str, layer: int) -> NDArray[np.float64]: ...
    def observed_rows(self, name: str) -> int: ...
    @property
    def isa(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    @property
    def adapter_bytes(self) -> int: ...

def read_rate(threads: int, size: int) -> float: ...
def product_rate(kind: int, rows: int, threads: int, isa: str) -> float: ...
def encode(
    weights: NDArray[np.uint8],
    from_type: int,
    rows: int,
    columns: int,
    to_type: int,
    importance: NDArray[np.float32] | None,
    threads: int,
    isa: str,
    out: NDArray[np.uint8],
) -> int: ...
def sample(
    logits: NDArray[np.float32],
    history: NDArray[np.int32],
    prompt_length: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    presence_penalty: float,
    frequency_penalty: float,
    bias_ids: NDArray[np.int32],
    bias_values: NDArray[np.float32],
    seed: int,
    step: int,
    top_logprobs: int,
    allowed: NDArray[np.uint32] | None = None,
) -> tuple[int, float | None, list[tuple[int, float]]]: ...

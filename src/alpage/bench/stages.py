"""`alpage bench --stages`: how long each stage of a forward pass takes, beside its limits."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpage.bench.cases import MEMORY, Case
from alpage.bench.native import AlpageSide
from alpage.bench.turns import Progress
from alpage.core.config import LlamaConfig
from alpage.engine.native import packed_bytes, product_rate
from alpage.weights.contents import ModelSource
from alpage.weights.source import open_model
from alpage.weights.tensor import Tensor, TensorType

CASES = (
    Case("decode", 32),
    Case("decode", 32, depth=1024),
    Case("decode", 16, depth=128, sequences=16),
    Case("prefill", 512),
)
PRODUCTS = {
    "qkv": ("attention.wq", "attention.wk", "attention.wv"),
    "out": ("attention.wo",),
    "gate and up": ("feed_forward.w1", "feed_forward.w3"),
    "down": ("feed_forward.w2",),
}
"""Stages that multiply with weights, and the matrices of a layer that they read."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage over all layers of one forward pass.

    `bytes` of weights, or of the cache, that it reads; `products`: multiply-adds with weights.
    `limit`: seconds that it takes at least, by the rates measured on this machine in the same run:
    the longer of reading and multiplying. 0 where neither is known.
    """

    name: str
    seconds: float
    bytes: int
    products: int
    limit: float


@dataclass(frozen=True, slots=True)
class Stages:
    """One case: `rows` tokens in each pass."""

    case: str
    rows: int
    read_rate: float
    """Bytes a second."""
    product_rates: Mapping[str, float]
    """Multiply-adds a second by weight type, weights in the processors' own caches."""
    stages: list[Stage]

    @property
    def seconds(self) -> float:
        """Of a whole pass."""
        return sum(stage.seconds for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def title(self) -> str:
        """One line above the table."""
        rates = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in self.product_rates.items())
        return (
            f"{self.case}: {self.seconds * 1e3:.2f} ms a pass of {self.rows:,} "
            f"token{'s' * (self.rows > 1)}. Limits: memory {self.read_rate / 1e9:.1f} GB/s, "
            f"products from the caches {rates} billion/s"
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows."""
        head = ["stage", "ms", "share", "GB/s", "G products/s", "limit, ms", "of the limit"]
        rows = []
        for stage in self.stages:
            cells = [stage.name, f"{stage.seconds * 1e3:.3f}"]
            cells.append(f"{stage.seconds / self.seconds:.1%}")
            for count in (stage.bytes, stage.products):
                cells.append(f"{count / stage.seconds / 1e9:.1f}" if count else "")
            known = stage.limit > 0
            cells += [f"{stage.limit * 1e3:.3f}" if known else ""]
            cells += [f"{stage.limit / stage.seconds:.0%}" if known else ""]
            rows.append(cells)
        return head, rows


def measure_stages(
    path: Path, *, threads: int, isa: str | None, runs: int, progress: Progress
) -> list[Stages]:
    """Medians would mix passes: of `runs` runs the fastest is shown, whole."""
    with open_model(path) as source:
        config, work = source.config, _weights(source, packed_bytes)
    cases = [case for case in CASES if case.positions <= config.context_length]
    side = AlpageSide(path, threads=threads, isa=isa, cases=cases)
    progress("loading")
    side.load()
    progress("reading memory")
    bandwidth = side.run(MEMORY, "") * 1e9
    found = []
    for case in cases:
        progress(case.name)
        side.prepare(case)
        passes = [side.stages(case) for _ in range(runs + 1)][1:]  # the first warms up
        seconds = min(passes, key=lambda stages: sum(stages.values()))
        rows = case.tokens if case.kind == "prefill" else case.sequences
        rates = {
            kind.name: product_rate(kind, min(rows, 512), threads, str(side.facts()["isa"]))
            for kind in sorted({w.kind for w in work.values()})
        }
        stages = list(_stages(seconds, case, config, work, bandwidth, rates))
        found.append(Stages(case.name, rows, bandwidth, rates, stages))
    side.close()
    return found


@dataclass(frozen=True, slots=True)
class _Weights:
    kind: TensorType  # of most of them
    bytes: int
    count: int


def bytes_of_a_step(source: ModelSource, size: Callable[[Tensor], int]) -> int:
    """Bytes of weights that a decoding step reads, by each tensor's size for the engine.

    A tied embedding is read once.
    """
    return sum(weights.bytes for weights in _weights(source, size).values())


def _weights(source: ModelSource, size: Callable[[Tensor], int]) -> dict[str, _Weights]:
    """What each stage reads of a model's weights in one pass."""
    layers = range(source.config.n_layers)
    names = {
        stage: [f"layers.{i}.{part}.weight" for i in layers for part in parts]
        for stage, parts in PRODUCTS.items()
    }
    tied = "output.weight" not in source.tensors
    names["head"] = ["tok_embeddings.weight" if tied else "output.weight"]
    result = {}
    for stage, those in names.items():
        tensors = [source.tensors[name] for name in those]
        counts = {t.type: 0 for t in tensors}
        for tensor in tensors:
            counts[tensor.type] += tensor.rows * tensor.columns
        kind = max(counts, key=lambda k: counts[k])
        result[stage] = _Weights(kind, sum(map(size, tensors)), sum(counts.values()))
    return result


def _stages(
    seconds: Mapping[str, float],
    case: Case,
    config: LlamaConfig,
    work: Mapping[str, _Weights],
    bandwidth: float,
    rates: Mapping[str, float],
) -> Iterator[Stage]:
    prefill = case.kind == "prefill"
    rows = case.tokens if prefill else case.sequences
    for name, taken in seconds.items():
        size = products = 0
        limit = 0.0
        if name in work:
            weights = work[name]
            size = weights.bytes
            products = weights.count * (1 if prefill and name == "head" else rows)
            limit = max(size / bandwidth, products / rates[weights.kind.name])
        elif name == "attention" and not prefill:
            # Positions grow while the case runs.
            positions = case.depth + case.tokens // 2
            size = rows * positions * config.kv_bytes_per_token()
            limit = size / bandwidth
        yield Stage(name, taken, size, products, limit)

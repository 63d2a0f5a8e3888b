"""What a model file or folder holds, whatever its format."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from alpage.core.config import LlamaConfig
from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.mapped import MappedFile
from alpage.weights.names import (
    Dialect,
    expected_shapes,
    from_canonical,
    half_from_interleaved,
    rotary_heads,
    to_canonical,
)
from alpage.weights.tensor import Tensor

END_TOKENS = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>")
"""Special tokens that end an answer even where a file names only one of them."""


PARAMS = "params.json"
"""The file that makes a folder one in Meta's layout."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a model comes from, as far as its file or the catalogue says."""

    authors: str | None = None
    base_models: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    contributions: tuple[str, ...] = ()
    """What was done since: by whom it was tuned or quantised."""


@dataclass(frozen=True, eq=False, slots=True)
class ModelSource:
    """An open model: configuration, weights by canonical name, and what its text layer needs.

    The weights look into memory-mapped files until `close`; the files must not change or shrink
    meanwhile. Metadata and template are the file's own words: untrusted.
    """

    path: Path
    format: Literal["gguf", "huggingface", "meta"]
    config: LlamaConfig
    tensors: Mapping[str, Tensor]
    name: str
    quantization: str
    """Label of the weights' type: "Q4_1", "Q4_K_M", "BF16"."""
    chat_template: str | None = None
    gguf_metadata: Mapping[str, Any] | None = None
    """All metadata of a GGUF file, among them the tokenizer (`tokenizer.ggml.*`)."""
    gguf_kinds: Mapping[str, tuple[int, ...]] | None = None
    """GGUF's value kinds of that metadata (`gguf.Header.kinds`)."""
    tokenizer_file: Path | None = None
    """tokenizer.json, or else tokenizer.model, of a folder."""
    bos_id: int | None = None
    eos_ids: frozenset[int] = frozenset()
    add_bos: bool = False
    """Whether a prompt begins with `bos_id`."""
    licence: str | None = None
    lineage: Lineage = field(default_factory=Lineage)
    files: tuple[MappedFile, ...] = field(default=(), repr=False)

    @property
    def file_bytes(self) -> int:
        """Size of all weight files, in bytes."""
        return sum(file.size for file in self.files)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights as stored."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def release(self) -> None:
        """Give the memory of weights that were looked at back; they come again when needed."""
        for file in self.files:
            file.release()

    def close(self) -> None:
        """Forget the weights and give their memory back; tensors must not be used afterwards."""
        assert isinstance(self.tensors, dict)
        self.tensors.clear()
        for file in self.files:
            file.close()

    def __enter__(self) -> "ModelSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def assemble(
    config: LlamaConfig, stored: Mapping[str, Tensor], dialect: Dialect, where: Path
) -> dict[str, Tensor]:
    """The weights that `config` asks for, under canonical names, each of the right shape.

    `stored` has the file's own names. A weight that is missing, of another shape, or that Llama
    does not have is refused by name: leaving one out would compute something else silently.
    The interleaved query and key rows of GGUF and Meta's files get their row order here.
    """
    found = {_canonical(name, dialect, where): tensor for name, tensor in stored.items()}
    result: dict[str, Tensor] = {}
    for name, shape in expected_shapes(config):
        tensor = found.pop(name, None)
        if tensor is None:
            theirs = from_canonical(name, dialect)
            raise FormatError(f"{where} lacks tensor {theirs} of shape {_text(shape)}")
        if tensor.shape != shape:
            raise FormatError(
                f"{where}: tensor {tensor.name} should have shape {_text(shape)}, "
                f"not {_text(tensor.shape)}"
            )
        heads = rotary_heads(name, config) if dialect != "huggingface" else None
        order = half_from_interleaved(heads, config.head_dim) if heads else None
        result[name] = tensor.placed(name, order)
    for tensor in found.values():
        raise FormatError(
            f"{where} holds tensor {tensor.name}, which a Llama model of {config.n_layers} layers "
            f"with {'tied' if config.tied else 'separate'} output weights does not have"
        )
    return result


def _canonical(name: str, dialect: Dialect, where: Path) -> str:
    canonical = to_canonical(name, dialect)
    if canonical is not None:
        return canonical
    if name.endswith(".bias"):
        raise UnsupportedError(
            f"{where} has bias weights ({name}); Alpage runs llama, without them"
        )
    raise UnsupportedError(f"{where} has a weight that Llama does not have: {name}")


def _text(shape: tuple[int, ...]) -> str:
    return "[" + ", ".join(str(n) for n in shape) + "]"


def main_type(tensors: Mapping[str, Tensor]) -> str:
    """The type of most weights, counted over the matrices."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        if len(tensor.shape) == 2:
            counts[tensor.type.name] += tensor.size
    return counts.most_common(1)[0][0]

"""`alpage convert`: a model in one format out of a model in another, whole and with its papers."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from alpage.convert import gguf, hf, meta
from alpage.convert.card import write_papers
from alpage.convert.place import check_target, staged_folder
from alpage.convert.rights import Identity, exported
from alpage.convert.rows import FLOATS, encode_floats
from alpage.convert.text import write_hf_text, write_meta_text
from alpage.core.errors import FormatError, UsageError
from alpage.weights.contents import ModelSource, main_type
from alpage.weights.gguf_write import Progress
from alpage.weights.tensor import Tensor, TensorType

Layout = Literal["gguf", "hf", "meta"]
FloatName = Literal["keep", "F32", "F16", "BF16"]

_TITLES = {"gguf": "GGUF", "hf": "Hugging Face's layout", "meta": "Meta's layout"}


@dataclass(frozen=True, slots=True)
class Converted:
    """What was written: its files, their bytes, who it is, and what a person should know."""

    target: Path
    files: tuple[Path, ...]
    identity: Identity
    stored: str
    """The type of most weights."""
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.stat().st_size for file in self.files)


def convert(
    source: ModelSource,
    target: Path,
    to: Layout,
    *,
    kind: FloatName = "keep",
    identity: Identity | None = None,
    name: str | None = None,
    licence: str | None = None,
    shard_bytes: int | None = None,
    shards: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write `source` to `target` in the layout `to`, whole or not at all.

    `target` is a folder, or for GGUF a file where its name ends in .gguf. `kind` is the type of
    the weights; "keep" leaves floating point as it is, and quantised blocks too in GGUF; in the
    other layouts they become F16. `identity` is what is known of the source beyond its files;
    `name` and `licence` are the user's. Raises `UsageError` for a target that is in the way or
    that Llama's licence does not allow, `UnsupportedError` for what the layout cannot say.
    """
    if shards != 1 and to != "meta":
        raise UsageError("--shards is for Meta's layout; --shard-size splits the other ones")
    if shard_bytes is not None and to == "meta":
        raise UsageError("Meta's layout is split with --shards, by processors and not by size")
    single = to == "gguf" and target.suffix == ".gguf"
    if single and shard_bytes is not None:
        raise UsageError(f"several files need a folder; give one instead of {target.name}")
    stored = _stored(source, to, kind)
    step = f"converted from {_origin(source)} to {_TITLES[to]}, {stored}"
    result = exported(identity or Identity.of(source), step, name=name, licence=licence)
    if single and result.terms is not None:
        raise UsageError(
            f"the {result.terms.title} asks that its text and a NOTICE travel with the model, and "
            f"one file has no room for them: give a folder instead of {target.name}"
        )
    check_target(source, target, force=force, folder=not single)
    if single:
        files = gguf.export_gguf(
            source,
            target,
            choose=_chooser(kind),
            identity=result,
            shard_bytes=shard_bytes,
            progress=progress,
        )
        return Converted(target, tuple(files), result, stored, ())
    with staged_folder(target) as folder:
        notes = _fill(source, folder, to, kind, result, shard_bytes, shards, progress)
        stored_as = f"{stored} in {_TITLES[to]}"
        notes += write_papers(folder, source.path, result, source.config, stored_as)
        _sync(folder)
    files = sorted(file for file in target.iterdir() if file.is_file())
    return Converted(target, tuple(files), result, stored, tuple(notes))


def _fill(
    source: ModelSource,
    folder: Path,
    to: Layout,
    kind: FloatName,
    identity: Identity,
    shard_bytes: int | None,
    shards: int,
    progress: Progress | None,
) -> list[str]:
    """Write weights, configuration and text files; returns notes."""
    if to == "gguf":
        gguf.export_gguf(
            source,
            folder / f"{_file_name(identity.name)}.gguf",
            choose=_chooser(kind),
            identity=identity,
            shard_bytes=shard_bytes,
            progress=progress,
        )
        return []
    choose = _FloatChooser(source, kind)
    if to == "meta":
        meta.write_weights(source, folder, choose=choose, shards=shards, progress=progress)
        return write_meta_text(source, folder)
    ends = write_hf_text(source, folder)
    hf.write_config(folder, source.config, choose.main, bos_id=ends.bos_id, eos_ids=ends.eos_ids)
    hf.write_weights(source, folder, choose=choose, shard_bytes=shard_bytes, progress=progress)
    return []


def _origin(source: ModelSource) -> str:
    layout = {"gguf": "GGUF", "huggingface": _TITLES["hf"], "meta": _TITLES["meta"]}
    return f"{source.quantization} in {layout[source.format]}"


def _stored(source: ModelSource, to: Layout, kind: FloatName) -> str:
    """The type of most weights of the result."""
    if to == "gguf":
        return source.quantization if kind == "keep" else kind
    return _FloatChooser(source, kind).main.name


def _chooser(kind: FloatName) -> gguf.Choose:
    return gguf.keep if kind == "keep" else lambda _name, _shape, _stored: TensorType[kind]


class _FloatChooser:
    """The type of each weight in a layout that holds floating point alone."""

    def __init__(self, source: ModelSource, kind: FloatName) -> None:
        self._keep = kind == "keep"
        if kind == "keep":
            stored = TensorType[main_type(source.tensors)]
            kind = "F16" if stored not in FLOATS else stored.name  # type: ignore[assignment]
        self.main = TensorType[kind]

    def __call__(self, _name: str, tensor: Tensor) -> TensorType:
        if len(tensor.shape) == 1 and self._keep:
            # GGUF stores vectors as F32: they become again what they were, where nothing is lost.
            return self.main if _holds(self.main, tensor) else TensorType.F32
        return tensor.type if self._keep and tensor.type in FLOATS else self.main


def _holds(kind: TensorType, tensor: Tensor) -> bool:
    """Whether a vector's values are exactly numbers of `kind`."""
    values = tensor.dequantize()
    try:
        raw = encode_floats(values, kind)
    except FormatError:
        return False
    again = Tensor(tensor.name, tensor.shape, kind, raw).dequantize()
    return bool(np.array_equal(values, again))


def _file_name(name: str) -> str:
    """A model's name as a file's: no folder, nothing hidden."""
    plain = "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip(".-")
    return plain[:150] or "model"


def _sync(folder: Path) -> None:
    """Put every file on the disk before the folder appears."""
    for file in _regular(folder):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def _regular(folder: Path) -> Iterator[Path]:
    return (file for file in folder.iterdir() if file.is_file())

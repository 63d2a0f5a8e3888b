"""A model of any format into one GGUF file, or into several of a bounded size."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.convert.ahead import Buffers, Make, Work, made_ahead
from alpage.convert.metadata import Entries, model_metadata, type_metadata
from alpage.convert.place import staged_files, synced
from alpage.convert.rights import Identity
from alpage.convert.rope import factors_of
from alpage.convert.rows import Encoder, encode_floats, pieces
from alpage.convert.sizes import shifted, split
from alpage.convert.text import tokenizer_metadata
from alpage.core.errors import FormatError
from alpage.weights.contents import ModelSource
from alpage.weights.gguf_write import I32, U16, Progress, write_gguf
from alpage.weights.names import from_canonical, interleaved_from_half, rotary_heads
from alpage.weights.tensor import Tensor, TensorType

Choose = Callable[[str, tuple[int, ...], TensorType], TensorType]
"""Canonical name, shape and stored type of a matrix -> the type that it is written in."""

_ROPE = "rope_freqs.weight"

RELEASED_BYTES = 64 << 20
"""Bytes of the source that stay in memory after use, until they are given back together."""


def keep(_name: str, _shape: tuple[int, ...], stored: TensorType) -> TensorType:
    """The choice that changes nothing."""
    return stored


def export_gguf(
    source: ModelSource,
    target: Path,
    *,
    choose: Choose = keep,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    encode: Encoder = encode_floats,
    identity: Identity | None = None,
    file_type: int | None = None,
    shard_bytes: int | None = None,
    threads: int = 1,
    buffers: Buffers | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Write `source` to `target` (whole or not at all, replacing what is there) in GGUF.

    Vectors are written as F32, matrices in the type that `choose` gives; where that is the stored
    type, the bytes are copied. `importance` has a weight for each column, float32 [columns], by
    canonical name. `file_type` is `general.file_type` where the main type does not say it.
    With `shard_bytes`, weights beyond that size go to parts NAME-00001-of-0000N.gguf instead.
    `threads` convert, beside the one that writes; `encode` is called in all of them, and may
    take its results' memory from `buffers`. Returns the files. `progress` hears bytes of weights
    done and in all.
    """
    plan = _Plan(source, choose, importance or {}, encode)
    with made_ahead(plan.works(), threads, buffers) as tensors:
        metadata = _metadata(source, identity or Identity.of(source), plan.types, file_type)
        parts = split(tensors, shard_bytes)
        total = sum(tensor.nbytes for tensor in tensors)
        names = part_names(target, len(parts))
        done = 0
        with staged_files(names) as places:
            for index, (place, part) in enumerate(zip(places, parts, strict=True)):
                entries = metadata if index == 0 else {}
                if len(parts) > 1:
                    entries = entries | _split_entries(index, len(parts), len(tensors))
                with synced(place) as file:
                    write_gguf(file, entries, part, progress=shifted(progress, done, total))
                done += sum(tensor.nbytes for tensor in part)
    return names


def part_names(target: Path, count: int) -> list[Path]:
    """`target` itself, or the names of its parts as llama.cpp counts them."""
    if count == 1:
        return [target]
    stem = target.name.removesuffix(".gguf")
    return [target.with_name(f"{stem}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1)]


def _split_entries(index: int, count: int, tensors: int) -> Entries:
    return {
        "split.no": ((U16,), index),
        "split.count": ((U16,), count),
        "split.tensors.count": ((I32,), tensors),
    }


def _metadata(
    source: ModelSource,
    identity: Identity,
    types: Mapping[str, tuple[int, TensorType]],
    file_type: int | None,
) -> Entries:
    known: Any = (source.gguf_metadata or {}).get("general.file_type")
    unchanged = all(kind is source.tensors[name].type for name, (_, kind) in types.items())
    if file_type is None and unchanged and type(known) is int:
        file_type = known
    entries = model_metadata(
        source, name=identity.name, licence=identity.licence, lineage=identity.lineage
    )
    return entries | type_metadata(types, file_type) | tokenizer_metadata(source)


class _Plan:
    """Which tensors are written, and how."""

    def __init__(
        self,
        source: ModelSource,
        choose: Choose,
        importance: Mapping[str, NDArray[np.float32]],
        encode: Encoder,
    ) -> None:
        self._source = source
        self._importance = importance
        self._encode = encode
        self._held = 0
        self.types = {
            name: (tensor.size, choose(name, tensor.shape, tensor.type))
            for name, tensor in source.tensors.items()
            if len(tensor.shape) == 2
        }

    def works(self) -> list[Work]:
        """The tensors of the file, in its order."""
        works = [self._work(name, tensor) for name, tensor in self._source.tensors.items()]
        factors = factors_of(self._source.config)
        if factors is not None:
            data = np.array(factors, np.float32).view(np.uint8)
            works.insert(
                0,
                Work(
                    _ROPE,
                    (len(factors),),
                    TensorType.F32,
                    lambda: iter([lambda: data]),
                    functools.partial(self._used, 0),
                ),
            )
        return works

    def _work(self, name: str, tensor: Tensor) -> Work:
        kind = self.types[name][1] if name in self.types else TensorType.F32
        kind.row_bytes(tensor.columns)  # refuses a type whose blocks do not fit
        return Work(
            from_canonical(name, "gguf"),
            tensor.shape,
            kind,
            functools.partial(self._pieces, name, tensor, kind),
            functools.partial(self._used, tensor.nbytes),
        )

    def _used(self, nbytes: int) -> None:
        """Notes that a tensor is done with, and gives memory back, many tensors at once.

        Each time costs a processor some microseconds for every thread.
        """
        self._held += nbytes
        if self._held >= RELEASED_BYTES:
            self._source.release()
            self._held = 0

    def _pieces(self, name: str, tensor: Tensor, kind: TensorType) -> Iterator[Make]:
        heads = rotary_heads(name, self._source.config)
        order = interleaved_from_half(heads, self._source.config.head_dim) if heads else None
        for make in pieces(
            tensor,
            kind,
            order=order,
            importance=self._importance.get(name),
            encode=self._encode,
        ):
            yield functools.partial(self._named, name, make)

    def _named(self, name: str, make: Make) -> NDArray[np.uint8]:
        """What `make` gives; its errors say which tensor they are about."""
        try:
            return make()
        except FormatError as error:
            raise FormatError(f"{self._source.path}: tensor {name}: {error}") from error

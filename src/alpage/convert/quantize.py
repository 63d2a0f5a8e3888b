"""A model into a smaller one, in one GGUF file: the types of a mix, importance where a text is."""

import functools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alpage.convert.ahead import Buffers
from alpage.convert.gguf import export_gguf
from alpage.convert.mixes import ALIASES, MIXES, type_chooser
from alpage.convert.rights import Identity, exported
from alpage.core.errors import UsageError
from alpage.core.processors import usable_processors
from alpage.weights.contents import ModelSource
from alpage.weights.gguf_write import Progress
from alpage.weights.quantize import encode
from alpage.weights.tensor import TensorType


@dataclass(frozen=True, slots=True)
class Quantized:
    """What was made. Bytes are those of the weights."""

    path: Path
    mix: str
    bytes_before: int
    bytes_after: int
    file_bytes: int
    tensors: dict[str, int]
    """Tensors of each type, the most frequent first."""
    bits_per_weight: float
    notes: tuple[str, ...]
    """What a person must still do before passing the file on."""


def mix_name(asked: str) -> str:
    """The key of MIXES that was asked for, in any case; `UsageError` with all of them if none."""
    name = asked.upper().replace("-", "_")
    name = ALIASES.get(name, name)
    if name not in MIXES:
        raise UsageError(f"there is no type {asked!r}; there are {', '.join(MIXES)}")
    return name


def quantize(
    source: ModelSource,
    target: Path,
    mix: str,
    *,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
    calibrated_on: str = "",
    identity: Identity | None = None,
    name: str | None = None,
    licence: str | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Write `source` to the GGUF file `target` (whole or not at all) with the types of `mix`.

    Weights that have their type already are copied bit by bit. `importance`: from
    `convert.calibrate`, and `calibrated_on` its text's name for the lineage. `identity` is what is
    known of the source beside its files; `name` and `licence` are the user's (`UsageError` as in
    `convert.rights.exported`). `progress` hears bytes of weights done and in all.
    """
    kind = mix_name(mix)
    choose = type_chooser(kind, source.config, calibrated=bool(importance))
    step = f"quantised to {kind}"
    if importance:
        step += f", calibrated on {calibrated_on}," if calibrated_on else ", calibrated,"
    known = Identity.of(source) if identity is None else identity
    result = exported(known, step, name=name, licence=licence)
    buffers = Buffers()
    export_gguf(
        source,
        target,
        choose=choose,
        importance=importance,
        encode=functools.partial(encode, threads=1, empty=buffers.take),
        identity=result,
        file_type=MIXES[kind].file_type,
        threads=threads or usable_processors(),
        buffers=buffers,
        progress=progress,
    )
    types: Counter[str] = Counter()
    after = weights = 0
    for canonical, tensor in source.tensors.items():
        matrix = len(tensor.shape) == 2
        stored = choose(canonical, tensor.shape, tensor.type) if matrix else TensorType.F32
        types[stored.name] += 1
        after += tensor.rows * stored.row_bytes(tensor.columns)
        weights += tensor.size
    return Quantized(
        path=target,
        mix=kind,
        bytes_before=source.weight_bytes,
        bytes_after=after,
        file_bytes=target.stat().st_size,
        tensors=dict(types.most_common()),
        bits_per_weight=8 * after / weights,
        notes=_duties(result, target),
    )


def _duties(identity: Identity, target: Path) -> tuple[str, ...]:
    """What Llama's licence asks for that one file has no room for."""
    terms = identity.terms
    if terms is None:
        return ()
    text = (
        f"before you pass {target.name} on, put the text of the {terms.title} beside it, and a "
        f'file NOTICE that says "{terms.notice}"'
    )
    return (f'{text}; and show "{terms.badge}" with it' if terms.badge else text,)

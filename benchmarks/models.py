"""The same model in every weight type, made from one GGUF file."""

import ctypes
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from alpage.bench.llamacpp import library

PLAIN = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
"""Types that the package `gguf` can write."""
MIXED = {"Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "Q6_K": "Q6_K"}
"""Types that llama.cpp writes: its usual mixtures, with its own choice where a row does not fit."""
TYPES = (*PLAIN, *MIXED)


def make(source: Path, kind: str, target: Path, threads: int) -> None:
    """Write `source` to `target` with every matrix in type `kind`; vectors stay in F32.

    Weights are dequantised first, so what is made is a model of slightly other weights: compare
    engines on it, not it with `source`. K types need llama-cpp-python.
    """
    if kind in PLAIN:
        _requantise(source, kind, target)
        return
    plain = target.with_suffix(".f32.gguf")
    try:
        _requantise(source, "F32", plain)
        quantise_with_llama_cpp(plain, target, MIXED[kind], threads)
    finally:
        plain.unlink(missing_ok=True)


def tensor_types(path: Path) -> dict[str, int]:
    """How many matrices of a file have which type, the most frequent first."""
    tensors = gguf.GGUFReader(path).tensors
    found = Counter(t.tensor_type.name for t in tensors if len(t.shape) > 1)
    return dict(found.most_common())


def _requantise(source: Path, kind: str, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    wanted = gguf.GGMLQuantizationType[kind]
    writer: Any = gguf.GGUFWriter(target, "llama")
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue  # the writer makes these
        value = entry.contents()
        if name == "general.file_type":
            value = int(_file_type(kind))
        kinds = (entry.types[0], entry.types[-1] if len(entry.types) > 1 else None)
        writer.add_key_value(name, value, *kinds)
    for tensor in reader.tensors:
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if len(tensor.shape) > 1:
            data = gguf.quants.quantize(data, wanted)
            writer.add_tensor(tensor.name, data, raw_dtype=wanted)
        else:
            writer.add_tensor(tensor.name, np.asarray(data, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _file_type(kind: str) -> gguf.LlamaFileType:
    name = "ALL_F32" if kind == "F32" else f"MOSTLY_{kind}"
    return gguf.LlamaFileType[name]


def quantise_with_llama_cpp(
    source: Path,
    target: Path,
    mixture: str,
    threads: int,
    importance: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """llama.cpp's own `llama_model_quantize`; `importance` by the tensors' names in the file."""
    low = library()
    params = low.llama_model_quantize_default_params()
    name = "ALL_F32" if mixture == "F32" else f"MOSTLY_{mixture}"
    params.ftype = getattr(low, f"LLAMA_FTYPE_{name}")
    params.nthread = threads
    params.allow_requantize = True
    if importance:
        entries = [
            low.llama_model_imatrix_data(
                name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size
            )
            for name, values in importance.items()
        ]
        end = low.llama_model_imatrix_data(None, None, 0)
        params.imatrix = (low.llama_model_imatrix_data * (len(entries) + 1))(*entries, end)
    status = low.llama_model_quantize(str(source).encode(), str(target).encode(),
                                      ctypes.byref(params))  # fmt: skip
    if status or not target.exists():
        raise RuntimeError(f"llama.cpp could not write {target} as {mixture}: status {status}")

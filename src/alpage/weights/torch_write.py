"""Writer of PyTorch checkpoints: the zip archive that `torch.save` makes of a table of weights.

Weights stream through, one chunk in memory at a time. `torch.load(weights_only=True)` reads the
file, memory-mapped too: storages are uncompressed and begin at multiples of 64 bytes.
"""

import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import IO

from alpage.core.errors import UnsupportedError
from alpage.weights.gguf_write import PlannedTensor, Progress, write_chunks
from alpage.weights.tensor import TensorType

_STORAGES = {
    TensorType.F32: "FloatStorage",
    TensorType.F16: "HalfStorage",
    TensorType.BF16: "BFloat16Storage",
}
_ALIGNMENT = 64
_PADDING = 0x4246  # "FB": the extra field with which PyTorch pads
_LOCAL_HEADER, _FIELD_HEADER, _LARGE_FIELD = 30, 4, 20
_DATE = (1980, 1, 1, 0, 0, 0)


def write_torch(
    file: IO[bytes],
    tensors: Sequence[PlannedTensor],
    *,
    name: str = "archive",
    shared: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a whole checkpoint of F32, F16 and BF16 tensors; `UnsupportedError` for other types.

    `shared` names tensors that are others again (new name -> name of one of `tensors`); their
    weights are stored once. `name` is the folder inside the archive.
    """
    for tensor in tensors:
        if tensor.type not in _STORAGES:
            raise UnsupportedError(
                f"PyTorch's checkpoints hold F32, F16 and BF16 weights; {tensor.name} is "
                f"{tensor.type.name}"
            )
    total, done = sum(tensor.nbytes for tensor in tensors), 0
    with zipfile.ZipFile(file, "w") as archive:
        for member, content in (
            ("data.pkl", _program(tensors, shared or {})),
            ("byteorder", b"little"),
        ):
            with archive.open(_info(archive, f"{name}/{member}", len(content)), "w") as out:
                out.write(content)
        for key, tensor in enumerate(tensors):
            with archive.open(_info(archive, f"{name}/data/{key}", tensor.nbytes), "w") as out:
                done = write_chunks(out, tensor, done, total, progress)
        with archive.open(_info(archive, f"{name}/version", 2), "w") as out:
            out.write(b"3\n")


def _info(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """The entry of a member whose contents begin at a multiple of 64 bytes."""
    info = zipfile.ZipInfo(name, _DATE)
    info.file_size = size
    assert archive.fp is not None
    start = archive.fp.tell() + _LOCAL_HEADER + len(name.encode()) + _FIELD_HEADER
    if size * 1.05 > zipfile.ZIP64_LIMIT:  # when `zipfile` adds the field of large sizes
        start += _LARGE_FIELD
    padding = -start % _ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
    return info


def _program(tensors: Sequence[PlannedTensor], shared: Mapping[str, str]) -> bytes:
    """The pickle (protocol 2) of a dictionary of tensors, as `torch.save` lays it out."""
    places = {tensor.name: (key, tensor) for key, tensor in enumerate(tensors)}
    entries = [(tensor.name, tensor.name) for tensor in tensors] + list(shared.items())
    out = [b"\x80\x02}("]
    for name, original in entries:
        key, tensor = places[original]
        out += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n("]
        storage = _STORAGES[tensor.type].encode()
        count = tensor.nbytes // tensor.type.block_bytes
        out += [b"(", _text("storage"), b"ctorch\n" + storage + b"\n", _text(str(key))]
        out += [_text("cpu"), _number(count), b"tQ", _number(0)]
        strides = (tensor.shape[-1], 1) if len(tensor.shape) == 2 else (1,)
        for numbers in (tensor.shape, strides):
            out += [b"(", *(_number(number) for number in numbers), b"t"]
        out.append(b"\x89ccollections\nOrderedDict\n)RtR")
    return b"".join([*out, b"u."])


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _number(value: int) -> bytes:
    raw = value.to_bytes(8, "little", signed=True)
    return b"\x8a\x08" + raw

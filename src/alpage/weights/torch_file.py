"""Reader of PyTorch checkpoints (`torch.save`): a zip archive of numbers, memory-mapped.

The numbers lie uncompressed in the archive, one member a storage; `torch_pickle` reads the table
that says where each tensor lies in them. Nothing in the file is run, and every offset and stride is
held against the member's size before a weight is looked at.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.fields import is_plain
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import TensorType
from alpage.weights.torch_pickle import View, read_table

MAX_TABLE = 1 << 22
"""Bytes of the pickle; that of Llama 3.1 405B takes about 200 kB a shard."""
MAX_MEMBERS = 1 << 17
MAX_NAME = 256
_LOCAL = struct.Struct("<4s22xHH")
_ENCRYPTED = 1


@dataclass(frozen=True, eq=False, slots=True)
class TorchTensor:
    """A tensor of a checkpoint: `rows` is uint8 [rows, row_bytes], a view of the mapped file.

    `shape` is (rows, columns) or (n,). Rows follow each other at a fixed distance, which may be
    more than their length; within a row nothing is left out.
    """

    name: str
    shape: tuple[int, ...]
    type: TensorType
    rows: NDArray[np.uint8]


def read_torch(file: MappedFile) -> dict[str, TorchTensor]:
    """Every tensor by its name in the checkpoint.

    Raises `FormatError` for a file that is damaged or truncated, `UnsupportedError` for what is no
    table of F32, F16 or BF16 weights, with its name.
    """
    _check_start(file)
    members = _members(file)
    tables = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tables) != 1:
        raise FormatError(
            f"{file.path} is a zip archive, but not of torch.save: {len(tables)} tables of tensors"
        )
    prefix = tables[0].removesuffix("data.pkl")
    order = members.get(prefix + "byteorder")
    if order is not None and bytes(_data(file, order)[:8]) == b"big":
        raise UnsupportedError(f"{file.path} is big-endian; Alpage reads little-endian")
    info = members[tables[0]]
    if info.file_size > MAX_TABLE:
        raise FormatError(f"{file.path} is damaged: its table takes {info.file_size:,} bytes")
    program = _data(file, info).tobytes()
    if zlib.crc32(program) != info.CRC:
        raise FormatError(f"{file.path} is damaged: the checksum of its table is wrong")
    tensors: dict[str, TorchTensor] = {}
    for name, view in read_table(program, file.path).items():
        if not is_plain(name, MAX_NAME):
            raise FormatError(f"{file.path} is damaged: a tensor is named {name[:40]!r}")
        if not isinstance(view, View):
            raise UnsupportedError(
                f"{file.path}: entry {name} is a {type(view).__name__}, not a tensor; Alpage reads "
                "checkpoints that hold the weights alone"
            )
        tensors[name] = _tensor(file, members, prefix, name, view)
    return tensors


def _check_start(file: MappedFile) -> None:
    head = bytes(file.data[:4])
    if head == b"PK\3\4":
        return
    if head[:1] == b"\x80":
        raise UnsupportedError(
            f"{file.path} is a checkpoint of PyTorch before 1.6, a bare pickle, which runs code "
            "when it is opened; whoever made it can save it again with a newer PyTorch, or as "
            "safetensors"
        )
    raise FormatError(f"{file.path} is not a PyTorch checkpoint (it begins with {head!r})")


def _members(file: MappedFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's directory."""
    try:
        with zipfile.ZipFile(file.path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, EOFError) as error:
        raise FormatError(
            f"{file.path} is truncated or damaged: its zip directory is not there ({error}); the "
            "download is incomplete; pull it again"
        ) from None
    if len(infos) > MAX_MEMBERS:
        raise FormatError(f"{file.path} is damaged: {len(infos):,} members in the archive")
    members = {info.filename: info for info in infos}
    if len(members) != len(infos):
        raise FormatError(f"{file.path} is damaged: a member of the archive occurs twice")
    return members


def _data(file: MappedFile, info: zipfile.ZipInfo) -> NDArray[np.uint8]:
    """The bytes of a member, as a view of the mapped file."""
    name = info.filename[-80:]
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
        raise UnsupportedError(
            f"{file.path}: member {name!r} is compressed or encrypted; torch.save stores plainly"
        )
    start = info.header_offset
    if start < 0 or start + _LOCAL.size > file.size:
        raise FormatError(f"{file.path} is damaged: member {name!r} begins behind the end")
    magic, name_length, extra_length = _LOCAL.unpack_from(file.data, start)
    start += _LOCAL.size + name_length + extra_length
    if magic != b"PK\3\4" or start + info.file_size > file.size:
        raise FormatError(f"{file.path} is damaged: member {name!r} is not where it should be")
    return file.array[start : start + info.file_size]


def _tensor(
    file: MappedFile, members: dict[str, zipfile.ZipInfo], prefix: str, name: str, view: View
) -> TorchTensor:
    info = members.get(f"{prefix}data/{view.storage.key}")
    if info is None:
        raise FormatError(f"{file.path} is damaged: the storage of tensor {name} is missing")
    data = _data(file, info)
    item = view.storage.type.block_bytes
    if view.storage.count * item > data.size:
        raise FormatError(
            f"{file.path} is damaged: tensor {name} lies in a storage of {data.size:,} bytes that "
            f"should have {view.storage.count * item:,}"
        )
    distance = _check_view(file, name, view)
    shape = view.shape
    count, columns = (1, shape[0]) if len(shape) == 1 else shape
    rows: NDArray[np.uint8] = np.ndarray(
        (count, columns * item), np.uint8, data, view.offset * item, (distance * item, 1)
    )
    return TorchTensor(name, shape, view.storage.type, rows)


def _check_view(file: MappedFile, name: str, view: View) -> int:
    """The distance of the rows, in numbers.

    Errors for a view that is no matrix or that leaves its storage.
    """
    shape, strides = view.shape, view.strides
    if len(shape) not in (1, 2) or len(strides) != len(shape):
        raise UnsupportedError(
            f"{file.path}: tensor {name} has {len(shape)} dimensions; the weights of Llama have 1 "
            "or 2"
        )
    if min(shape) < 1 or max(*shape, 1) >= 1 << 40 or view.offset < 0:
        raise FormatError(f"{file.path} is damaged: tensor {name} has shape {list(shape)}")
    distance = strides[0] if len(shape) == 2 and shape[0] > 1 else shape[-1]
    if (shape[-1] > 1 and strides[-1] != 1) or distance < shape[-1]:
        raise UnsupportedError(
            f"{file.path}: tensor {name} is stored transposed or expanded (strides "
            f"{list(strides)}); save it contiguous"
        )
    rows = shape[0] if len(shape) == 2 else 1
    if view.offset + (rows - 1) * distance + shape[-1] > view.storage.count:
        raise FormatError(
            f"{file.path} is damaged: tensor {name} of shape {list(shape)} goes beyond its storage "
            f"of {view.storage.count:,} numbers"
        )
    return distance

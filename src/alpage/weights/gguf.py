"""Reader of the GGUF container, versions 2 and 3: metadata and tensors, memory-mapped.

Nothing in the file is believed: every count, length and offset is held against the size of the
file before memory is taken for it, so the memory used is at most a few times the header's size.
Format: `docs/gguf.md` of the ggml project.
"""

import struct
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from alpage.core.errors import FormatError, UnsupportedError
from alpage.weights.gguf_strings import decode_together
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import Tensor, TensorType

MAX_HEADER = 1 << 28
"""Bytes. The largest vocabularies take about 20 MB."""
MAX_ENTRIES = 1 << 16
"""Metadata entries, and tensors. Llama 3.1 405B has 1,138 tensors."""
MAX_STRING = 1 << 24
MAX_NAME = 256
"""Bytes of a key or of a tensor's name; the longest in use have about 60."""
MAX_ELEMENTS = 1 << 21
"""Array elements of all metadata together; a vocabulary of 262,144 has 1.3 million."""
MAX_DEPTH = 4
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_MANY = 64  # strings of an array; fewer are read one by one
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q",
            12: "<d"}  # fmt: skip
_NUMBER = {kind: struct.Struct(code) for kind, code in _NUMBERS.items()}
_DTYPE = {kind: np.dtype(code) for kind, code in _NUMBERS.items()}

_OTHER_TYPES = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One entry of the tensor table: `shape` in numpy's order, `offset` from the data's start."""

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int


@dataclass(frozen=True, slots=True)
class Header:
    """All before the weights: metadata, the tensor table, and where the weights begin."""

    version: int
    metadata: dict[str, Any]
    infos: list[TensorInfo]
    alignment: int
    data_start: int
    kinds: dict[str, tuple[int, ...]]
    """GGUF's value kind of each metadata entry, so that it can be written as it was read: (kind,)
    for one value, (9, kind of the elements) for an array, (9, 9, kind) for arrays in an array
    ((9, 9) where those differ)."""


def read_header(file: MappedFile) -> Header:
    """Parse metadata and tensor table; `FormatError` or `UnsupportedError` for what is wrong."""
    version = _check_magic(file)
    cursor = _Cursor(file)
    cursor.position = 8
    tensor_count, entry_count = cursor.number(_U64), cursor.number(_U64)
    # The smallest table entry: empty name, 1 dimension, type, offset; the smallest metadata
    # entry: empty key, type, one byte.
    cursor.check_count(tensor_count, 32, "tensors")
    cursor.check_count(entry_count, 13, "metadata entries")
    if max(tensor_count, entry_count) > MAX_ENTRIES:
        cursor.damaged(f"more than {MAX_ENTRIES:,} tensors or metadata entries")
    metadata: dict[str, Any] = {}
    kinds: dict[str, tuple[int, ...]] = {}
    for _ in range(entry_count):
        key = cursor.name("a metadata key")
        if key in metadata:
            raise FormatError(f"{file.path} is damaged: metadata key {key!r} occurs twice")
        metadata[key], kinds[key] = cursor.value(cursor.number(_U32), key, 0)
    infos = [_read_info(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not _is_alignment(alignment):
        raise FormatError(
            f"{file.path} is damaged: general.alignment must be a power of two from 1 to 65536, "
            f"not {alignment!r:.80}"
        )
    start = -(-cursor.position // alignment) * alignment
    return Header(version, metadata, infos, alignment, start, kinds)


def read_tensors(file: MappedFile, header: Header) -> dict[str, Tensor]:
    """Every tensor by its name in the file, in file order, as views of the mapped file.

    Checks types, alignment, overlaps and that the file holds every byte it promises.
    """
    sized = [(info, *_tensor_size(file, info)) for info in header.infos]
    needed = max((header.data_start + i.offset + size for i, _, size in sized), default=0)
    for info, _, _ in sized:
        if info.offset % header.alignment:
            raise FormatError(
                f"{file.path} is damaged: tensor {info.name} begins at offset {info.offset}, "
                f"which is not a multiple of {header.alignment}"
            )
    if needed > file.size:
        raise FormatError(
            f"{file.path} is truncated: it has {file.size:,} of the {needed:,} bytes that its "
            "header announces; the download is incomplete; pull it again"
        )
    tensors: dict[str, Tensor] = {}
    end, previous = 0, ""
    for info, kind, size in sorted(sized, key=lambda item: item[0].offset):
        if info.offset < end:
            raise FormatError(f"{file.path} is damaged: tensors {previous} and {info.name} overlap")
        if info.name in tensors:
            raise FormatError(f"{file.path} is damaged: tensor {info.name} occurs twice")
        start = header.data_start + info.offset
        data = file.array[start : start + size]
        tensors[info.name] = Tensor(info.name, info.shape, kind, data)
        end, previous = info.offset + size, info.name
    return tensors


def _check_magic(file: MappedFile) -> int:
    """The version, 2 or 3, of a file that begins as a GGUF file does."""
    head = bytes(file.data[:8])
    if head[:4] != b"GGUF":
        if b"GGUF".startswith(head):
            raise _truncated(file)
        hint = ""
        if head[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
            hint = ": it is in GGUF's predecessor GGML; convert it"
        elif head[:2] == b"PK":
            hint = ": it is a zip archive (a PyTorch checkpoint?); those are not opened"
        elif head.lstrip()[:1] == b"<":
            hint = ": it looks like a web page, saved in place of the model"
        raise FormatError(f"{file.path} is not a GGUF file (it begins with {head[:4]!r}){hint}")
    if len(head) < 8:
        raise _truncated(file)
    version = int.from_bytes(head[4:], "little")
    if version in (2, 3):
        return version
    if int.from_bytes(head[4:], "big") in (1, 2, 3):
        raise UnsupportedError(f"{file.path} is a big-endian GGUF file; Alpage reads little-endian")
    raise UnsupportedError(f"{file.path} is GGUF version {version}; Alpage reads versions 2 and 3")


def _read_info(cursor: "_Cursor") -> TensorInfo:
    name = cursor.name("a tensor name")
    dimensions = cursor.number(_U32)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.damaged(f"tensor {name!r} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} can be")
    shape = tuple(cursor.number(_U64) for _ in range(dimensions))[::-1]
    if 0 in shape:
        cursor.damaged(f"tensor {name!r} has shape {shape}, with a dimension of 0")
    return TensorInfo(name, shape, cursor.number(_U32), cursor.number(_U64))


def _tensor_size(file: MappedFile, info: TensorInfo) -> tuple[TensorType, int]:
    """The type and the bytes of a tensor."""
    try:
        kind = TensorType(info.type_id)
    except ValueError:
        name = _OTHER_TYPES.get(info.type_id, f"number {info.type_id}")
        known = ", ".join(t.name for t in TensorType)
        raise UnsupportedError(
            f"{file.path}: tensor {info.name} has type {name}; Alpage reads {known}"
        ) from None
    size = 1
    for dimension in info.shape[:-1]:
        size *= dimension
    try:
        return kind, size * kind.row_bytes(info.shape[-1])
    except FormatError as error:
        raise FormatError(f"{file.path} is damaged: tensor {info.name}: {error}") from None


def _is_alignment(value: object) -> bool:
    return type(value) is int and 1 <= value <= 1 << 16 and value & (value - 1) == 0


def _truncated(file: MappedFile) -> FormatError:
    return FormatError(
        f"{file.path} is truncated: it ends after {file.size:,} bytes, inside its header; "
        "the download is incomplete; pull it again"
    )


@dataclass(slots=True)
class _Cursor:
    """A place in the header; every step is held against its end."""

    file: MappedFile
    position: int = 0
    elements: int = 0
    end: int = field(init=False)

    def __post_init__(self) -> None:
        self.end = min(self.file.size, MAX_HEADER)

    def damaged(self, what: str) -> NoReturn:
        raise FormatError(f"{self.file.path} is damaged: {what}")

    def ran_out(self, what: str) -> NoReturn:
        """The header does not end where it should: say which of the two limits was met."""
        if self.end == MAX_HEADER:
            self.damaged(f"its header is larger than {MAX_HEADER:,} bytes, at {what}")
        raise _truncated(self.file)

    def advance(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they began."""
        start = self.position
        if count > self.end - start:
            self.ran_out(what)
        self.position = start + count
        return start

    def check_count(self, count: int, smallest: int, what: str) -> None:
        """`count` things of at least `smallest` bytes each must fit into the rest."""
        if count * smallest > self.end - self.position:
            if count * smallest > max(self.file.size, MAX_HEADER):
                self.damaged(f"it claims {count:,} {what} in {self.file.size:,} bytes")
            self.ran_out(what)

    def number(self, form: struct.Struct) -> Any:
        return form.unpack_from(self.file.data, self.advance(form.size, "a number"))[0]

    def string(self, what: str, limit: int) -> str:
        length = self.number(_U64)
        if length > limit:
            self.damaged(f"{what} is {length:,} bytes long; at most {limit:,} can be")
        start = self.advance(length, what)
        try:
            return str(self.file.data[start : start + length], "utf-8")
        except UnicodeDecodeError:
            self.damaged(f"{what} is not UTF-8 text")

    def name(self, what: str) -> str:
        """A key or tensor name, fit to appear in a message."""
        name = self.string(what, MAX_NAME)
        if not name.isprintable():
            self.damaged(f"{what} has control characters: {name[:40]!r}")
        return name

    def value(self, kind: int, key: str, depth: int) -> tuple[Any, tuple[int, ...]]:
        """One metadata value and its kinds (see `Header.kinds`); arrays become lists."""
        if kind in _NUMBER:
            return self.number(_NUMBER[kind]), (kind,)
        if kind == _STRING:
            return self.string(f"the text of {key!r}", MAX_STRING), (kind,)
        if kind == _BOOL:
            return self.booleans(1, key)[0], (kind,)
        if kind != _ARRAY:
            self.damaged(f"metadata {key!r} has unknown type {kind}")
        values, inner = self.array(key, depth + 1)
        return values, (_ARRAY, *inner)

    def array(self, key: str, depth: int) -> tuple[list[Any], tuple[int, ...]]:
        if depth > MAX_DEPTH:
            self.damaged(f"metadata {key!r} nests arrays more than {MAX_DEPTH} deep")
        kind, count = self.number(_U32), self.number(_U64)
        smallest = {_STRING: 8, _BOOL: 1, _ARRAY: 12}.get(kind)
        if smallest is None:
            smallest = _NUMBER[kind].size if kind in _NUMBER else 1
        self.check_count(count, smallest, f"elements of {key!r}")
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            self.damaged(f"its metadata arrays have more than {MAX_ELEMENTS:,} elements")
        if kind in _NUMBER:
            start = self.advance(count * smallest, key)
            values: list[Any] = np.frombuffer(
                self.file.data[start : self.position], dtype=_DTYPE[kind]
            ).tolist()
            return values, (kind,)
        if kind == _STRING:
            return self.strings(count, key), (kind,)
        if kind == _BOOL:
            return self.booleans(count, key), (kind,)
        nested = [self.value(kind, key, depth) for _ in range(count)]
        forms = {form for _, form in nested}
        return [value for value, _ in nested], forms.pop() if len(forms) == 1 else (kind,)

    def booleans(self, count: int, key: str) -> list[bool]:
        start = self.advance(count, key)
        raw = self.file.data[start : self.position]
        if raw.strip(b"\0\1"):
            self.damaged(f"metadata {key!r} holds a truth value other than 0 and 1")
        return [byte == 1 for byte in raw]

    def strings(self, count: int, key: str) -> list[str]:
        """Texts of an array; the usual ones of a vocabulary all at once."""
        if count >= _MANY:
            together = decode_together(self.file.data, self.position, count, self.end)
            if together is not None:
                found, self.position = together
                return found
        data, length_at, end = self.file.data, _U64.unpack_from, self.end
        position = self.position
        result = []
        try:
            for _ in range(count):
                if end - position < 8:
                    self.ran_out(key)
                (length,) = length_at(data, position)
                start, position = position + 8, position + 8 + length
                if length > MAX_STRING:
                    self.damaged(f"a text in {key!r} is {length:,} bytes long")
                if position > end:
                    self.ran_out(key)
                result.append(str(data[start:position], "utf-8"))
        except UnicodeDecodeError:
            self.damaged(f"a text in {key!r} is not UTF-8")
        self.position = position
        return result

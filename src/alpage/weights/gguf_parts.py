"""A GGUF model in one file or in several, `NAME-00001-of-0000N.gguf`, as if it were in one.

Format: the split files of llama.cpp's `llama-gguf-split`. Each part is a GGUF file that says which
part it is (`split.no`, from 0), of how many (`split.count`), and how many tensors all hold together
(`split.tensors.count`). The model's own metadata is in the first; a tensor is whole in one part.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError, NotFoundError
from alpage.weights.fields import Fields
from alpage.weights.gguf import Header, read_header, read_tensors
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import Tensor

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_KEYS = "split."


@dataclass(frozen=True, eq=False, slots=True)
class Container:
    """All files of a model, the first one's header without its `split.*` keys, all tensors."""

    files: tuple[MappedFile, ...]
    header: Header
    tensors: dict[str, Tensor]

    @property
    def path(self) -> Path:
        """The first file's path."""
        return self.files[0].path


@dataclass(frozen=True, eq=False, slots=True)
class _Part:
    """One open part and what it says of itself."""

    file: MappedFile
    header: Header
    fields: Fields

    @property
    def count(self) -> int:
        """Parts of the model; 1 or less: the file is no part."""
        return self.fields.integer("split.count", 1)

    @property
    def total(self) -> int:
        """Tensors of all parts together."""
        return self.fields.integer("split.tensors.count")


def model_stem(name: str) -> str:
    """The name that all parts of a model share, without numbers; else `name` without `.gguf`."""
    match = _PART.fullmatch(name)
    return match["stem"] if match else name.removesuffix(".gguf")


def part_set(name: str) -> str:
    """The same text for all parts of one model in a folder, and another for every other file."""
    match = _PART.fullmatch(name)
    return f"{match['stem']}-of-{match['count']}" if match else name


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open the GGUF file `path`, and if it is a part of a model, any of them, all the others.

    The files stay open when the block is left, and are closed when it fails. Raises the errors of
    `read_header` and `read_tensors`; `NotFoundError` for a missing part; `FormatError` for parts
    that do not belong together.
    """
    files: list[MappedFile] = []
    try:
        opened = _open(path, files)
        yield _whole(opened) if opened.count <= 1 else _joined(opened, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _open(path: Path, files: list[MappedFile]) -> _Part:
    file = MappedFile(path)
    files.append(file)
    header = read_header(file)
    return _Part(file, header, Fields(path, header.metadata))


def _whole(part: _Part) -> Container:
    tensors = read_tensors(part.file, part.header)
    return Container((part.file,), _unsplit(part.header), tensors)


def _joined(opened: _Part, files: list[MappedFile]) -> Container:
    """The model that `opened` (the only one of `files`) is a part of."""
    path = opened.file.path
    name = _PART.fullmatch(path.name)
    if name is None:
        raise FormatError(
            f"{path} is a part of a model in {opened.count} files; its name should end in the "
            f"part's number, as in model-00001-of-{opened.count:05}.gguf, with the others beside it"
        )
    number, count = int(name["number"]), int(name["count"])
    _check_place(opened, number, count)
    parts = [opened] * count
    for other in range(1, count + 1):
        if other == number:
            continue
        sibling = path.with_name(f"{name['stem']}-{other:05}-of-{count:05}.gguf")
        if not sibling.exists():
            raise NotFoundError(f"part {other} of {count} is missing: there is no file {sibling}")
        parts[other - 1] = _open(sibling, files)
        _check_place(parts[other - 1], other, count)
        _check_same_model(opened, parts[other - 1])
    tensors = _all_tensors(parts)
    first = parts[0]
    return Container(tuple(part.file for part in parts), _unsplit(first.header), tensors)


def _check_place(part: _Part, number: int, count: int) -> None:
    """The part must be the one that its name says: `number` (from 1) of `count`."""
    path = part.file.path
    if part.count <= 1:
        raise FormatError(f"{path} is no part of a model: it lacks split.count")
    place = part.fields.integer("split.no") + 1
    if (place, part.count) != (number, count):
        raise FormatError(
            f"{path} should be part {number} of {count}, as its name says, but it is part {place} "
            f"of {part.count}"
        )


def _check_same_model(one: _Part, other: _Part) -> None:
    """What both parts say must agree: the number of tensors, and metadata that both have."""
    differing = [
        key
        for key, value in other.header.metadata.items()
        if not key.startswith(_KEYS)
        and key in one.header.metadata
        and one.header.metadata[key] != value
    ]
    if one.total != other.total:
        differing = ["split.tensors.count"]
    if differing:
        raise FormatError(
            f"{one.file.path} and {other.file.path} are parts of different models: "
            f"{differing[0]} differs"
        )


def _all_tensors(parts: list[_Part]) -> dict[str, Tensor]:
    result: dict[str, Tensor] = {}
    homes: dict[str, Path] = {}
    for part in parts:
        path = part.file.path
        for name, tensor in read_tensors(part.file, part.header).items():
            if name in result:
                raise FormatError(f"tensor {name} is in two parts: {homes[name]} and {path}")
            result[name], homes[name] = tensor, path
    if len(result) != parts[0].total:
        raise FormatError(
            f"the {len(parts)} parts of {parts[0].file.path} hold {len(result)} tensors together; "
            f"split.tensors.count says {parts[0].total}"
        )
    return result


def _unsplit(header: Header) -> Header:
    """`header` without the keys that are true of one part only."""
    metadata: dict[str, Any] = {
        key: value for key, value in header.metadata.items() if not key.startswith(_KEYS)
    }
    return replace(header, metadata=metadata)

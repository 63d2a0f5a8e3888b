"""PyTorch's checkpoints: what torch.save writes is read, and nothing in them is ever run."""

import collections
import os
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alpage.core.errors import AlpageError, FormatError, UnsupportedError
from alpage.weights.mapped import MappedFile
from alpage.weights.tensor import TensorType
from alpage.weights.torch_file import read_torch
from alpage.weights.torch_pickle import read_table


def save(path: Path, value: Any, **options: Any) -> MappedFile:
    torch.save(value, path, **options)
    return MappedFile(path)


def rewrite(source: Path, target: Path, change: dict[str, bytes], **options: Any) -> MappedFile:
    """The archive again, with other contents for some members (named from their folder on)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **options) as new:
        for info in old.infolist():
            name = info.filename.split("/", 1)[1]
            new.writestr(info.filename, change.get(name, old.read(info)))
    return MappedFile(target)


def test_what_torch_saves_is_read_bit_by_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = torch.randn(9, 8)
    table = collections.OrderedDict(
        single=torch.randn(4, 6),
        half=torch.randn(5, 3).half(),
        brain=torch.randn(7, 2).bfloat16(),
        vector=torch.nn.Parameter(torch.randn(11)),
        columns=wide[:, 2:5],
        last_rows=wide[6:],
        one_row=wide[:1].t()[:1].t(),
    )
    table["again"] = table["single"]
    for options in ({}, {"pickle_protocol": 4}):
        tensors = read_torch(save(tmp_path / "x.pth", table, **options))
        assert list(tensors) == list(table)
        for name, tensor in table.items():
            found = tensors[name]
            bits = tensor.detach().contiguous().view(torch.uint8).numpy()
            assert found.shape == tuple(tensor.shape)
            assert np.array_equal(found.rows.reshape(-1), bits.reshape(-1)), name
        assert tensors["brain"].type is TensorType.BF16
        assert not any(tensor.rows.flags.writeable for tensor in tensors.values())


def test_the_state_of_a_module_is_read(tmp_path: Path) -> None:
    module = torch.nn.Linear(4, 3)
    tensors = read_torch(save(tmp_path / "x.pth", module.state_dict()))
    assert list(tensors) == ["weight", "bias"]


class Attack:
    def __reduce__(self) -> Any:
        return os.mkdir, (str(Path(os.environ["ATTACK"])),)


def test_code_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "broken-in"
    monkeypatch.setenv("ATTACK", str(target))
    for value in (Attack(), {"a": Attack()}, {"a": [1, (Attack(),)]}, [Attack]):
        for protocol in (2, 3, 4, 5):
            file = save(tmp_path / "x.pth", value, pickle_protocol=protocol)
            with pytest.raises(UnsupportedError, match=r"(posix|nt)\.mkdir|Attack"):
                read_torch(file)
    assert not target.exists()
    torch.load(tmp_path / "x.pth", weights_only=False)  # the attack is a real one
    pickle.loads(pickle.dumps(Attack()))
    assert target.exists()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": torch.ones(2, 2, dtype=torch.int64)}, r"torch\.LongStorage"),
        ({"a": torch.ones(2, 2, dtype=torch.float64)}, r"torch\.DoubleStorage"),
        ({"a": torch.ones(2, 2).to_sparse()}, "_rebuild_sparse"),
        ({"a": torch.ones(4, 3).t()}, "transposed"),
        ({"a": torch.ones(3).expand(4, 3)}, "transposed or expanded"),
        ({"a": torch.ones(2, 2, 2)}, "3 dimensions"),
        ({"a": torch.tensor(1.0)}, "0 dimensions"),
        ({"a": 5}, "entry a is a int, not a tensor"),
        ({"model": {"a": torch.ones(2)}}, "entry model is a dict"),
    ],
)
def test_what_is_no_weight_is_refused_by_name(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        read_torch(save(tmp_path / "x.pth", value))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([torch.ones(2)], "a list, not a table"),
        ({3: torch.ones(2)}, "a int as its key"),
        ({((),): 1}, "a tuple as its key"),
        ({"a\n": torch.ones(2)}, "is named"),
        ({"a": torch.ones(0, 2)}, r"shape \[0, 2\]"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, value: Any, words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read_torch(save(tmp_path / "x.pth", value))


def test_old_and_other_files_are_refused(tmp_path: Path) -> None:
    old = tmp_path / "old.pth"
    torch.save({"a": torch.ones(2)}, old, _use_new_zipfile_serialization=False)
    with pytest.raises(UnsupportedError, match=r"before 1\.6"):
        read_torch(MappedFile(old))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("letter.txt", "hello")
    with pytest.raises(FormatError, match=r"not of torch\.save"):
        read_torch(MappedFile(tmp_path / "other.zip"))
    (tmp_path / "page").write_text("<html>")
    with pytest.raises(FormatError, match="not a PyTorch checkpoint"):
        read_torch(MappedFile(tmp_path / "page"))


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save(path, {"a": torch.ones(4, 4)})
    target = tmp_path / "y.pth"
    with pytest.raises(UnsupportedError, match="compressed"):
        read_torch(rewrite(path, target, {}, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(FormatError, match="storage of 60 bytes that should have 64"):
        read_torch(rewrite(path, target, {"data/0": bytes(60)}))
    with pytest.raises(UnsupportedError, match="big-endian"):
        read_torch(rewrite(path, target, {"byteorder": b"big"}))
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        (tmp_path / "cut.pth").write_bytes(data[:length])
        with pytest.raises(AlpageError):
            read_torch(MappedFile(tmp_path / "cut.pth"))


def pickled(size: tuple[int, ...], strides: tuple[int, ...], offset: int, count: int) -> bytes:
    """The program of a table with one tensor, whose numbers may be anything."""

    def numbers(values: tuple[int, ...]) -> bytes:
        longs = b"".join(b"\x8a" + bytes([8]) + struct.pack("<q", value) for value in values)
        return b"(" + longs + b"t"

    one = b"\x8a\x08" + struct.pack("<q", count)
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpu" + one + b"tQ"
    where = b"\x8a\x08" + struct.pack("<q", offset)
    view = storage + where + numbers(size) + numbers(strides) + b"\x89}"
    return b"\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + view + b"tRs."


@pytest.mark.parametrize(
    ("size", "strides", "offset", "count"),
    [
        ((4, 4), (4, 1), 1, 16),
        ((5, 4), (4, 1), 0, 16),
        ((4, 4), (5, 1), 0, 16),
        ((4, 4), (4, 1), -1, 16),
        ((4, 4), (-4, 1), 15, 16),
        ((4, 4), (1 << 62, 1), 0, 16),
        ((1 << 62, 4), (4, 1), 0, 16),
        ((4, 1 << 62), (4, 1), 0, 16),
        ((1 << 33, 1 << 33), (4, 1), 0, 16),
        ((4, -4), (4, 1), 0, 16),
        ((4, 4), (4, 1), 0, 17),
        ((4, 4), (4, 1), 0, -16),
        ((4, 4), (4,), 0, 16),
        ((16,), (2,), 0, 16),
        ((17,), (1,), 0, 16),
    ],
)
def test_no_view_leaves_its_storage(
    tmp_path: Path, size: tuple[int, ...], strides: tuple[int, ...], offset: int, count: int
) -> None:
    path = tmp_path / "x.pth"
    save(path, {"a": torch.arange(16.0).view(4, 4)})
    right = rewrite(path, tmp_path / "y.pth", {"data.pkl": pickled((4, 4), (4, 1), 0, 16)})
    assert np.array_equal(read_torch(right)["a"].rows.view(np.float32)[3], [12, 13, 14, 15])
    wrong = rewrite(path, tmp_path / "z.pth", {"data.pkl": pickled(size, strides, offset, count)})
    with pytest.raises((FormatError, UnsupportedError)):
        read_torch(wrong)


@pytest.mark.parametrize(
    "program",
    [
        b"", b".", b"}", b"\x80\x09}.", b"t.", b"u.", b"h\5.", b"j\xff\xff\xff\xff.", b"}b.",
        b"R.", b"Q.", b"X\xff\xff\xff\xffa.", b"]r\xff\xff\xff\xff.", b"\x8a\xff.",
        b"\x8b\xff\xff\xff\x7f.",
        b"\x96\0\0\0\0\0\1\0\0.", b"\x82\1.", b"c" + b"a" * 1000, b"]]a.", b"}]s.", b"(((((.",
        b"\x85.", b"N)R.", b"ccollections\nOrderedDict\n)R(X\1\0\0\0au.",
    ],
)  # fmt: skip
def test_broken_programs_are_refused(program: bytes) -> None:
    with pytest.raises((FormatError, UnsupportedError)):
        read_table(program, Path("x.pth"))


def test_changed_programs_give_an_error_or_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    save(path, {"a": torch.ones(4, 4), "b": torch.ones(3).half()})
    with zipfile.ZipFile(path) as archive:
        program = archive.read("x/data.pkl")
    chance = random.Random(5)
    for _ in range(3000):
        changed = bytearray(program)
        for _ in range(chance.choice((1, 1, 2, 5))):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            assert isinstance(read_table(bytes(changed), path), dict)
        except AlpageError as error:
            assert str(path) in str(error)


def test_memory_is_bounded_by_the_program() -> None:
    """Names of nested tuples, and millions of empty tables, are refused before they grow."""
    nested = b")q\0" + b"h\0h\0\x86q\0" * 60 + b"h\0X\1\0\0\0a\x93."
    with pytest.raises(FormatError, match="a name is no text"):
        read_table(nested, Path("x.pth"))
    for program in (b"}" * 4_000_000, b"(" * 4_000_000, b")" + b"\x85" * 4_000_000, b"}0" * 9):
        with pytest.raises((FormatError, UnsupportedError)):
            read_table(program, Path("x.pth"))

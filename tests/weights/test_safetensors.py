"""The safetensors container: right files, and every kind of damage refused."""

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from alpage.core.errors import AlpageError, FormatError, UnsupportedError
from alpage.weights.mapped import MappedFile
from alpage.weights.safetensors import read_safetensors


def written(path: Path, table: Any, data: bytes = b"") -> Path:
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(first: int, last: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_files_of_the_safetensors_package(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = {f"t{i}": torch.randn(i + 1, 7).to(dtype) for i in range(5)}
    tensors["vector"] = torch.randn(33).to(dtype)
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt"})
    file = MappedFile(path)
    found = read_safetensors(file)
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].shape == tuple(tensor.shape)
        assert np.array_equal(found[name].dequantize(), tensor.float().numpy())
    del found
    file.close()


@pytest.mark.parametrize(
    ("table", "data", "message"),
    [
        ({"a": entry(0, 8, [2])}, b"1234", "is truncated: it has 4 of the 8 bytes of weights"),
        ({"a": entry(0, 4, [1])}, b"12345678", "4 unclaimed bytes after the last tensor"),
        ({"a": entry(4, 8, [1])}, b"12345678", "4 unclaimed bytes before tensor a"),
        ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12), "tensor a and tensor b"),
        ({"a": entry(8, 4, [1])}, bytes(8), "overlap"),
        ({"a": entry(0, 8, [3])}, bytes(8), "takes 12 bytes, not the 8 between its offsets"),
        ({"a": entry(0, 4, [])}, bytes(4), "has shape []"),
        ({"a": entry(0, 0, [0])}, b"", "has shape [0]"),
        ({"a": entry(0, 4, [-1])}, bytes(4), "shape of tensor 'a' makes no sense"),
        ({"a": entry(0, 4, [1.0])}, bytes(4), "shape of tensor 'a' makes no sense"),
        ({"a": entry(0, 4, [True])}, bytes(4), "shape of tensor 'a' makes no sense"),
        ({"a": entry(0, 4, [1] * 9)}, bytes(4), "shape of tensor 'a' makes no sense"),
        ({"a": entry(0, 1 << 63, [1])}, bytes(4), "data_offsets of tensor 'a' makes no sense"),
        ({"a": entry(0, 4, [1 << 40, 1 << 40])}, bytes(4), "takes 4,835,703,278,458,516,698,824"),
        ({"a": {"dtype": "F32", "shape": [1]}}, bytes(4), "data_offsets of tensor 'a'"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, bytes(4), "data_offsets"),
        ({"a": {"dtype": 7, "shape": [1], "data_offsets": [0, 4]}}, bytes(4), "dtype should be"),
        ({"a": [0, 4]}, bytes(4), "a should be an object, not a list of 2"),
        ({"a": None}, bytes(4), "tensor a has no description"),
        ({"a\x1b": entry(0, 4, [1])}, bytes(4), r"a tensor is named 'a\x1b'"),
        (b'{"a": {}, "a": {}}', b"", "the key 'a' occurs twice"),
        (b"{" * 100_000, b"", "not valid JSON"),
        (b'{"a":' * 100_000, b"", "not valid JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", b"", "not valid JSON"),
        (b'{"\xff": 1}', b"", "not UTF-8"),
        (b"[1, 2]", b"", "not a safetensors file"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, table: Any, data: bytes, message: str) -> None:
    path = written(tmp_path / "model.safetensors", table, data)
    with pytest.raises(FormatError) as caught:
        read_safetensors(MappedFile(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", ["I64", "F8_E4M3", "F64"])
def test_types_that_are_not_read_are_named(tmp_path: Path, dtype: str) -> None:
    path = written(tmp_path / "m", {"a": entry(0, 8, [1], dtype)}, bytes(8))
    with pytest.raises(UnsupportedError, match=f"tensor a has type {dtype}; Alpage reads F32"):
        read_safetensors(MappedFile(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "or a truncated one: it has 2 bytes"),
        (struct.pack("<Q", 1 << 40) + b"{}", "not a safetensors file"),
        (
            struct.pack("<Q", 100) + b"{}",
            "is truncated: it has 10 bytes, its table alone takes 108",
        ),
    ],
)
def test_files_that_end_in_their_table(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        read_safetensors(MappedFile(path))
    assert message in str(caught.value)


def test_flipped_bytes_never_surprise(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"t{i}": torch.zeros(4, 4) for i in range(4)}, path)
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    rng = random.Random(0)
    refused = 0
    for _ in range(2000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            bad[rng.randrange(header)] = rng.randrange(256)
        path.write_bytes(bad)
        try:
            for tensor in read_safetensors(MappedFile(path)).values():
                assert tensor.dequantize().shape == tensor.shape
        except AlpageError:
            refused += 1
    assert refused > 1000


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=8) | st.floats(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["a", "dtype", "shape", "data_offsets", "__metadata__"]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_any_json_never_surprises(tmp_path_factory: pytest.TempPathFactory, table: Any) -> None:
    path = written(tmp_path_factory.getbasetemp() / "any.safetensors", table, bytes(16))
    try:
        read_safetensors(MappedFile(path))
    except AlpageError:
        return
    assert False, f"{table!r} claims none of the 16 bytes"  # noqa: B011

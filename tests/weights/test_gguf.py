"""The GGUF container: read as the `gguf` package reads it, and every kind of damage refused."""

import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.weights.gguf_files import (
    ARRAY,
    BOOL,
    F32,
    STRING,
    U32,
    GgufFile,
    Stored,
    text,
    tiny_model,
)

from alpage.core.errors import AlpageError, FormatError, UnsupportedError
from alpage.weights.gguf import read_header, read_tensors
from alpage.weights.mapped import MappedFile
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType


def refusal(path: Path) -> AlpageError:
    with pytest.raises(AlpageError) as caught:
        open_model(path).close()
    assert str(path) in str(caught.value)
    return caught.value


def test_the_default_model_reads_as_the_gguf_package_reads_it(smollm2_path: Path) -> None:
    file = MappedFile(smollm2_path)
    header = read_header(file)
    tensors = read_tensors(file, header)
    reader = gguf.GGUFReader(smollm2_path)
    fields = {k: v.contents() for k, v in reader.fields.items() if not k.startswith("GGUF.")}
    assert header.metadata == fields
    assert header.version == 3
    assert list(tensors) == [tensor.name for tensor in reader.tensors]
    for theirs in reader.tensors:
        ours = tensors[theirs.name]
        assert ours.shape == tuple(int(n) for n in theirs.shape[::-1])
        assert ours.type == int(theirs.tensor_type)
        assert np.array_equal(ours.data, theirs.data.view(np.uint8).reshape(-1))


def test_a_file_of_the_gguf_packages_writer(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    values = {"u8": 200, "i8": -3, "u16": 60000, "i16": -3000, "u64": 1 << 60, "i64": -(1 << 60)}
    writer.add_uint8("u8", 200)
    writer.add_int8("i8", -3)
    writer.add_uint16("u16", 60000)
    writer.add_int16("i16", -3000)
    writer.add_uint64("u64", 1 << 60)
    writer.add_int64("i64", -(1 << 60))
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_array("words", ["a", "ü", ""])
    writer.add_array("numbers", [1, -2, 3])
    data = np.arange(96, dtype=np.float32).reshape(3, 32)
    writer.add_tensor("a", data)
    writer.add_tensor("b", data.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = MappedFile(path)
    header = read_header(file)
    for key, value in values.items():
        assert header.metadata[key] == value
    assert header.metadata["f64"] == 0.1
    assert header.metadata["yes"] is True
    assert header.metadata["words"] == ["a", "ü", ""]
    assert header.metadata["numbers"] == [1, -2, 3]
    tensors = read_tensors(file, header)
    assert np.array_equal(tensors["a"].dequantize(), data)
    assert np.array_equal(tensors["b"].dequantize(), data)


def test_version_2_and_other_alignments_open(tmp_path: Path) -> None:
    model = tiny_model()
    model.version = 2
    open_model(model.write(tmp_path / "v2.gguf")).close()
    for alignment in (8, 64, 4096):
        model = tiny_model().set("general.alignment", U32, alignment)
        model.alignment = alignment
        open_model(model.write(tmp_path / f"{alignment}.gguf")).close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello world, I am text", "not a GGUF file"),
        (b"<!DOCTYPE html><html>", "looks like a web page"),
        (b"PK\x03\x04 a PyTorch checkpoint", "zip archive"),
        (b"tjgg\x01\x00\x00\x00", "GGUF's predecessor GGML"),
        (b"GG", "is truncated: it ends after 2 bytes"),
        (b"GGUF\x03\x00", "is truncated: it ends after 6 bytes"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1; Alpage reads versions 2 and 3"),
        (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), "GGUF version 9"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "lacks general.architecture"),
    ],
)  # fmt: skip
def test_what_is_no_usable_gguf_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert message in str(refusal(path))


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.gguf"
    os.mkfifo(pipe)  # opening it would wait for a writer for ever
    assert "not a regular file" in str(refusal(pipe))
    assert "there is no file" in str(refusal(tmp_path / "nothing.gguf"))
    plain = tmp_path / "plain"
    plain.write_bytes(b"x")
    assert "there is no file" in str(refusal(plain / "below.gguf"))


def _overlap(model: GgufFile) -> None:
    model.tensor("blk.0.attn_q.weight").offset = 32


def _misalign(model: GgufFile) -> None:
    model.tensor("blk.1.ffn_norm.weight").offset = 100_004


def _beyond(model: GgufFile) -> None:
    model.tensor("blk.1.ffn_norm.weight").offset = 1 << 62


def _twice(model: GgufFile) -> None:
    model.tensors.append(Stored("output_norm.weight", (32,), 0, bytes(128)))


def _key_twice(model: GgufFile) -> None:
    model.metadata.append(("general.name", STRING, "again"))


def _no_dimensions(model: GgufFile) -> None:
    model.tensor("output_norm.weight").dims = ()


def _five_dimensions(model: GgufFile) -> None:
    model.tensor("output_norm.weight").dims = (32, 1, 1, 1, 1)


def _zero_dimension(model: GgufFile) -> None:
    model.tensor("output_norm.weight").dims = (32, 0)


def _huge_dimensions(model: GgufFile) -> None:
    model.tensor("output_norm.weight").dims = (1 << 63, 1 << 63, 1 << 63, 1 << 63)


def _torn_block(model: GgufFile) -> None:
    model.tensor("output_norm.weight").type_id = TensorType.Q4_K


def _setting(key: str, kind: int, value: object) -> Callable[[GgufFile], None]:
    def change(model: GgufFile) -> None:
        model.set(key, kind, value)

    return change


def _nested(depth: int) -> bytes:
    """The body of an array in an array ... `depth` deep; the innermost has no elements."""
    return struct.pack("<IQ", ARRAY, 1) * (depth - 1) + struct.pack("<IQ", U32, 0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_overlap, "tensors token_embd.weight and blk.0.attn_q.weight overlap"),
        (_misalign, "blk.1.ffn_norm.weight begins at offset 100004, which is not a multiple of 32"),
        (_beyond, "is truncated"),
        (_twice, "tensor output_norm.weight occurs twice"),
        (_key_twice, "metadata key 'general.name' occurs twice"),
        (_no_dimensions, "has 0 dimensions; 1 to 4 can be"),
        (_five_dimensions, "has 5 dimensions; 1 to 4 can be"),
        (_zero_dimension, "with a dimension of 0"),
        (_huge_dimensions, "is truncated"),
        (_torn_block, "row of 32 weights is not a whole number of Q4_K blocks of 256"),
        (_setting("general.alignment", U32, 24), "must be a power of two"),
        (_setting("general.alignment", U32, 0), "must be a power of two"),
        (_setting("general.alignment", STRING, "32"), "must be a power of two"),
        (_setting("x", 77, b"1234"), "metadata 'x' has unknown type 77"),
        (_setting("x", ARRAY, struct.pack("<IQ", 77, 3) + bytes(12)), "unknown type 77"),
        (_setting("x", BOOL, b"\x02"), "a truth value other than 0 and 1"),
        (_setting("x", ARRAY, (BOOL, [1, 0, 7])), "a truth value other than 0 and 1"),
        (_setting("x", STRING, b"\xff\xfe"), "the text of 'x' is not UTF-8"),
        (_setting("x", ARRAY, struct.pack("<IQ", STRING, 1) + text(b"\xc3")), "is not UTF-8"),
        (_setting("x", ARRAY, _nested(5)), "nests arrays more than 4 deep"),
        (_setting("x", ARRAY, _nested(10_000)), "nests arrays more than 4 deep"),
        (_setting("x", ARRAY, struct.pack("<IQ", STRING, 1 << 60)), "claims 1,152,921,504,606,84"),
        (_setting("x", ARRAY, struct.pack("<IQ", U32, 1 << 20)), "is truncated"),
        (_setting("x", ARRAY, struct.pack("<IQ", 0, 2_500_000) + bytes(2_500_000)),
         "more than 2,097,152 elements"),
        (_setting("a\x1b[2J", U32, 1), "a metadata key has control characters: 'a\\x1b[2J'"),
        (_setting("x" * 5000, U32, 1), "a metadata key is 5,000 bytes long"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, damage: Callable[[GgufFile], None], message: str) -> None:
    model = tiny_model()
    damage(model)
    error = refusal(model.write(tmp_path / "model.gguf"))
    assert isinstance(error, FormatError)
    assert message in str(error)


def test_nested_arrays_within_bounds_are_read(tmp_path: Path) -> None:
    inner = struct.pack("<IQ", U32, 2) + struct.pack("<II", 5, 6)
    body = struct.pack("<IQ", ARRAY, 2) + inner + inner
    path = tiny_model().set("x", ARRAY, body).write(tmp_path / "model.gguf")
    with open_model(path) as source:
        assert source.gguf_metadata is not None
        assert source.gguf_metadata["x"] == [[5, 6], [5, 6]]


@pytest.mark.parametrize(
    ("type_id", "name"), [(16, "IQ2_XXS"), (21, "IQ3_S"), (39, "MXFP4"), (28, "F64"), (99, "99")]
)
def test_weight_types_that_are_not_read_are_named(tmp_path: Path, type_id: int, name: str) -> None:
    model = tiny_model()
    model.tensor("blk.1.attn_v.weight").type_id = type_id
    error = refusal(model.write(tmp_path / "model.gguf"))
    assert isinstance(error, UnsupportedError)
    assert f"tensor blk.1.attn_v.weight has type {name if type_id < 99 else 'number 99'}" in str(
        error
    )
    assert "Q4_K" in str(error)


@pytest.mark.parametrize("version", [2, 3])
def test_big_endian_files_are_refused_by_name(
    tmp_path: Path, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf.gguf_writer.GGUF_VERSION", version)
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_block_count(2)
    writer.add_tensor("token_embd.weight", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    error = refusal(path)
    assert isinstance(error, UnsupportedError)
    assert str(error) == f"{path} is a big-endian GGUF file; Alpage reads little-endian"


@pytest.mark.parametrize("field", ["tensor_count", "entry_count"])
@pytest.mark.parametrize("count", [1 << 20, 1 << 40, (1 << 64) - 1])
def test_counts_beyond_the_file_take_no_memory(tmp_path: Path, field: str, count: int) -> None:
    model = tiny_model()
    setattr(model, field, count)
    path = model.write(tmp_path / "model.gguf")
    tracemalloc.start()
    try:
        assert isinstance(refusal(path), FormatError)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_lengths_beyond_the_file_take_no_memory(tmp_path: Path) -> None:
    """Every 8-byte place of the header becomes a huge number, one at a time."""
    good = tiny_model().to_bytes()
    path = tmp_path / "model.gguf"
    limit = len(tiny_model().header())
    tracemalloc.start()
    try:
        for at in range(8, limit - 8, 5):
            for number in ((1 << 64) - 1, 1 << 33, 1 << 24):
                path.write_bytes(good[:at] + struct.pack("<Q", number) + good[at + 8 :])
                try:
                    open_model(path).close()
                except AlpageError:
                    continue
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_truncated_download_is_named_at_every_length(smollm2_path: Path, tmp_path: Path) -> None:
    """A sparse copy: the real header, then a hole of the right size, cut ever shorter."""
    file = MappedFile(smollm2_path)
    start, whole = read_header(file).data_start, file.size
    path = tmp_path / "model.gguf"
    with path.open("wb") as copy:
        copy.write(file.data[:start])
        copy.truncate(whole)
    file.close()
    open_model(path).close()
    rng = random.Random(0)
    cuts = {whole - 1, whole - 32, start + 1, start, start - 1, 24, 23, 8, 7, 4, 3, 1}
    cuts |= {rng.randrange(start, whole) for _ in range(110)}
    cuts |= {rng.randrange(start) for _ in range(80)}
    for cut in sorted(cuts, reverse=True):
        os.truncate(path, cut)
        error = refusal(path)
        assert isinstance(error, FormatError)
        assert "is truncated" in str(error), cut
        assert "the download is incomplete; pull it again" in str(error)
        assert f"{cut:,}" in str(error)
        if cut >= start:
            assert f"{cut:,} of the {whole:,} bytes" in str(error)
    os.truncate(path, 0)
    assert "is empty; the download is incomplete" in str(refusal(path))


def test_flipped_bytes_never_surprise(tmp_path: Path) -> None:
    """3,000 files, each with one to four changed bytes: an AlpageError or a usable model."""
    rng = random.Random(1)
    good = tiny_model(kind=TensorType.Q4_0).to_bytes()
    header = len(tiny_model(kind=TensorType.Q4_0).header())
    path = tmp_path / "model.gguf"
    refused = 0
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(header)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        path.write_bytes(bad)
        try:
            with open_model(path) as source:
                for tensor in source.tensors.values():
                    assert tensor.dequantize().shape == tensor.shape
        except AlpageError as error:
            refused += 1
            assert len(str(error)) < 1000
    assert refused > 1000


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.sampled_from([2, 3]))
def test_random_headers_never_surprise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, version: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "random.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<I", version) + content)
    with pytest.raises(AlpageError):
        open_model(path)


def test_flipped_bytes_in_the_real_header_never_surprise(
    smollm2_path: Path, tmp_path: Path
) -> None:
    file = MappedFile(smollm2_path)
    start, whole = read_header(file).data_start, file.size
    path = tmp_path / "model.gguf"
    with path.open("wb") as copy:
        copy.write(file.data[:start])
        copy.truncate(whole)
    rng = random.Random(2)
    with path.open("r+b") as copy:
        for _ in range(100):
            # Half of them near the ends, where the numbers and the tensor table are.
            edge = rng.choice([rng.randrange(1200), start - 1 - rng.randrange(17_000)])
            at = rng.choice([edge, rng.randrange(start)])
            copy.seek(at)
            copy.write(bytes([rng.randrange(256)]))
            copy.flush()
            try:
                open_model(path).close()
            except AlpageError as error:
                assert len(str(error)) < 1000
            copy.seek(at)
            copy.write(file.data[at : at + 1])
            copy.flush()
    open_model(path).close()
    file.close()


def test_closing_gives_the_file_back(tmp_path: Path) -> None:
    source = open_model(tiny_model().write(tmp_path / "model.gguf"))
    kept = source.tensors["norm.weight"]
    values = kept.dequantize()
    source.close()
    source.close()  # twice is fine
    assert not source.tensors
    # A view that is still held stays readable: the file is unmapped when the last one goes.
    assert np.array_equal(kept.dequantize(), values)


def test_metadata_numbers_keep_their_type(tmp_path: Path) -> None:
    path = tiny_model().set("x.f", F32, 0.5).set("x.b", BOOL, 1).write(tmp_path / "m.gguf")
    header = read_header(MappedFile(path))
    assert header.metadata["x.f"] == 0.5
    assert header.metadata["x.b"] is True

"""Models in several GGUF files, written by the `gguf` package and read by llama.cpp too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.weights.gguf_files import I32, STRING, U32, GgufFile, Stored, tiny_model

from alpage.bench.llamacpp import Context, is_installed, library
from alpage.catalogue.listing import show
from alpage.core.errors import AlpageError, FormatError, NotFoundError
from alpage.engine.native import NativeRunner
from alpage.engine.protocol import StepBatch
from alpage.weights.source import open_model


def rewritten(source: Path, target: Path, tensors_each: int, layers: int) -> list[Path]:
    """The first `layers` layers of `source`, in parts of `tensors_each` tensors (0: one file)."""
    reader = gguf.GGUFReader(source)
    writer: Any = gguf.GGUFWriter(target, "llama", split_max_tensors=tensors_each)
    for name, entry in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = layers if name == "llama.block_count" else entry.contents()
        kinds = (entry.types[0], entry.types[-1] if len(entry.types) > 1 else None)
        writer.add_key_value(name, value, *kinds)
    for tensor in reader.tensors:
        if tensor.name.startswith("blk.") and int(tensor.name.split(".")[1]) >= layers:
            continue
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob(f"{target.stem}*.gguf"))


def parts(folder: Path, count: int = 3, name: str = "tiny") -> list[Path]:
    """The tiny model in `count` parts of the same number of tensors, the last one shorter."""
    made = files(count)
    return [
        made[number].write(folder / f"{name}-{number + 1:05}-of-{count:05}.gguf")
        for number in range(count)
    ]


def files(count: int = 3) -> list[GgufFile]:
    whole = tiny_model()
    each = -(-len(whole.tensors) // count)
    made = []
    for number in range(count):
        part = GgufFile(whole.metadata[:] if number == 0 else [])
        part.tensors = whole.tensors[number * each : (number + 1) * each]
        part.set("split.no", U32, number).set("split.count", U32, count)
        made.append(part.set("split.tensors.count", I32, len(whole.tensors)))
    return made


def refusal(path: Path, kind: type[AlpageError] = FormatError) -> str:
    with pytest.raises(kind) as caught:
        open_model(path)
    return str(caught.value)


def test_parts_of_the_gguf_packages_writer(smollm2_path: Path, tmp_path: Path) -> None:
    """Every part opens the whole; llama.cpp, given the first, computes the same."""
    (single,) = rewritten(smollm2_path, tmp_path / "single.gguf", 0, layers=2)
    made = rewritten(smollm2_path, tmp_path / "model.gguf", 7, layers=2)
    assert [path.name for path in made] == [f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    tokens = np.arange(300, 320, dtype=np.int32)
    with open_model(single) as whole:
        wanted = last_logits(NativeRunner(whole, threads=1, context_tokens=32), tokens)
        for path in made:
            with open_model(path) as source:
                assert source.path == made[0]
                assert source.gguf_metadata == whole.gguf_metadata
                assert source.file_bytes == sum(part.stat().st_size for part in made)
                assert list(source.tensors) == list(whole.tensors)
                for name, tensor in source.tensors.items():
                    assert np.array_equal(tensor.data, whole.tensors[name].data)
                got = last_logits(NativeRunner(source, threads=1, context_tokens=32), tokens)
                assert np.array_equal(got, wanted)
    if not is_installed():
        pytest.skip("llama-cpp-python (the extra 'bench') is not here to read the parts")
    theirs = logits_of_llama_cpp(made[0], tokens, len(wanted))
    assert theirs.argmax() == wanted.argmax()
    assert np.corrcoef(theirs, wanted)[0, 1] > 0.999


def logits_of_llama_cpp(path: Path, tokens: NDArray[np.int32], size: int) -> NDArray[np.float32]:
    low = library()
    model = low.llama_model_load_from_file(str(path).encode(), low.llama_model_default_params())
    assert model
    context = Context(low, model, positions=32, sequences=1, threads=1, flash=True)
    try:
        context.prefill(tokens.tolist())
        return context.logits(len(tokens) - 1, size)
    finally:
        context.close()
        low.llama_model_free(model)


def last_logits(runner: NativeRunner, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    rows = np.arange(len(tokens), dtype=np.int32)
    pages = np.arange(2, dtype=np.int32)[None]
    try:
        logits = runner.forward(StepBatch(tokens, rows, 0 * rows, pages, rows[-1:])).copy()
    finally:
        runner.close()
    return logits.reshape(-1)


@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_any_number_of_parts(tmp_path: Path, count: int) -> None:
    made = parts(tmp_path, count)
    for path in {made[0], made[-1], tmp_path}:
        with open_model(path) as source:
            assert source.path == made[0]
            assert source.name == "tiny"
            assert source.gguf_metadata is not None
            assert not [key for key in source.gguf_metadata if key.startswith("split.")]
            assert len(source.files) == count
            assert source.tensors["layers.1.ffn_norm.weight"].dequantize().shape == (32,)
    assert show(tmp_path, tmp_path).file_bytes == sum(path.stat().st_size for path in made)


def test_the_name_is_that_of_the_parts(tmp_path: Path) -> None:
    made = files()
    made[0].drop("general.name")
    for number, part in enumerate(made, 1):
        part.write(tmp_path / f"my-model-0000{number}-of-00003.gguf")
    with open_model(tmp_path / "my-model-00003-of-00003.gguf") as source:
        assert source.name == "my-model"


def test_a_first_part_may_hold_metadata_only(tmp_path: Path) -> None:
    made = files(2)
    made[1].tensors = made[0].tensors + made[1].tensors
    made[0].tensors = []
    for number, part in enumerate(made, 1):
        part.write(tmp_path / f"m-0000{number}-of-00002.gguf")
    with open_model(tmp_path) as source:
        assert len(source.tensors) == 20


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_missing_part_is_named(tmp_path: Path, missing: int) -> None:
    made = parts(tmp_path)
    gone = made.pop(missing - 1)
    gone.unlink()
    for path in [*made, tmp_path]:
        message = refusal(path, NotFoundError)
        assert message == f"part {missing} of 3 is missing: there is no file {gone}"


def test_a_folder_with_two_sets_of_parts(tmp_path: Path) -> None:
    parts(tmp_path, 2, "one")
    parts(tmp_path, 3, "two")
    message = refusal(tmp_path)
    assert "holds several models" in message
    assert message.endswith("one of them: one-00001-of-00002.gguf, two-00001-of-00003.gguf")
    with open_model(tmp_path / "two-00002-of-00003.gguf") as source:
        assert len(source.files) == 3


def _renamed(made: list[GgufFile]) -> None:
    made[1].set("split.no", U32, 2)


def _recounted(made: list[GgufFile]) -> None:
    made[1].set("split.count", U32, 4)


def _not_split(made: list[GgufFile]) -> None:
    made[1].drop("split.count")


def _no_number(made: list[GgufFile]) -> None:
    made[1].drop("split.no")


def _no_total(made: list[GgufFile]) -> None:
    made[1].drop("split.tensors.count")


def _other_total(made: list[GgufFile]) -> None:
    made[1].set("split.tensors.count", I32, 21)


def _other_name(made: list[GgufFile]) -> None:
    made[1].set("general.name", STRING, "another")


def _twice(made: list[GgufFile]) -> None:
    made[1].tensors[0] = made[0].tensors[2]


def _too_many(made: list[GgufFile]) -> None:
    made[1].tensors.append(Stored("blk.0.extra.weight", (32,), 0, bytes(128)))


def _text(made: list[GgufFile]) -> None:
    made[1].set("split.no", STRING, "one")


def _negative(made: list[GgufFile]) -> None:
    made[1].set("split.no", I32, -1)


def _truncated(made: list[GgufFile]) -> None:
    made[1].tensors[-1].offset = 1 << 40


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_renamed, "B should be part 2 of 3, as its name says, but it is part 3 of 3"),
        (_recounted, "B should be part 2 of 3, as its name says, but it is part 2 of 4"),
        (_not_split, "B is no part of a model: it lacks split.count"),
        (_no_number, "B lacks split.no"),
        (_no_total, "B lacks split.tensors.count"),
        (_other_total, "A and B are parts of different models: split.tensors.count differs"),
        (_other_name, "A and B are parts of different models: general.name differs"),
        (_twice, "tensor blk.0.attn_norm.weight is in two parts: A and B"),
        (_too_many, "the 3 parts of A hold 21 tensors together; split.tensors.count says 20"),
        (_text, "B: split.no should be a whole number, not 'one'"),
        (_negative, "B should be part 2 of 3, as its name says, but it is part 0 of 3"),
        (_truncated, "B is truncated: it has"),
    ],
)
def test_parts_that_do_not_fit_are_named(
    tmp_path: Path, damage: Callable[[list[GgufFile]], None], message: str
) -> None:
    made = files()
    damage(made)
    paths = [
        part.write(tmp_path / f"m-0000{number}-of-00003.gguf")
        for number, part in enumerate(made, 1)
    ]
    wanted = message.replace("A ", f"{paths[0]} ").replace("B", str(paths[1]))
    assert wanted in refusal(paths[0])


def test_a_part_under_a_wrong_name(tmp_path: Path) -> None:
    made = parts(tmp_path)
    lonely = made[1].rename(tmp_path / "model.gguf")
    message = refusal(lonely)
    assert f"{lonely} is a part of a model in 3 files; its name should end in" in message
    moved = lonely.rename(tmp_path / "tiny-00004-of-00004.gguf")
    assert f"{moved} should be part 4 of 4, as its name says, but it is part 2 of 3" in refusal(
        moved
    )
    shutdown = moved.rename(tmp_path / "tiny-99999-of-99999.gguf")
    assert "should be part 99999 of 99999" in refusal(shutdown)


def test_a_promise_of_many_parts_costs_nothing(tmp_path: Path) -> None:
    made = parts(tmp_path, 2)
    part = files(2)[0].set("split.count", U32, 99_999)
    path = part.write(tmp_path / "tiny-00001-of-99999.gguf")
    assert "part 2 of 99999 is missing" in refusal(path, NotFoundError)
    with open_model(made[0]) as source:
        assert len(source.files) == 2

"""Write docs/formats.md: every format, type and direction, with the test that proves it.

Run it without arguments after adding a format or a type; `--check` says whether the page is up to
date and whether every test that it names exists.
"""

import ast
import sys
from pathlib import Path

from alpage.convert.rows import FLOATS
from alpage.weights.quantize import ENCODED
from alpage.weights.tensor import TensorType

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "formats.md"

_CONVERT = "tests/convert/test_convert.py"
_LAYOUTS = ("GGUF", "Hugging Face", "Meta")
_TYPES_IN = {
    "GGUF": "tests/weights/test_tensor.py::test_random_blocks_match_to_the_last_bit",
    "Hugging Face": "tests/weights/test_huggingface.py::test_round_trip",
    "Meta": "tests/weights/test_meta.py::test_every_weight_is_where_it_belongs",
}
_TYPES_OUT = {
    "GGUF": f"{_CONVERT}::test_llamacpp_runs_what_is_written",
    "Hugging Face": "tests/weights/test_torch_write.py::test_safetensors_reads_what_is_written",
    "Meta": "tests/weights/test_torch_write.py::test_torch_reads_what_is_written",
}
_BLOCKS_OUT = "tests/weights/test_gguf_write.py::test_tensors_are_read_by_both_readers"
_MADE = "tests/weights/test_quantize.py::test_other_readers_see_the_same_numbers"
_RUNS = "tests/parity/test_types.py::test_each_type_on_each_instruction_set"
_DIRECTION = f"{_CONVERT}::test_every_direction_keeps_every_bit"
_DEQUANTISED = f"{_CONVERT}::test_quantised_weights_become_numbers"

_PARTS = [
    (
        "GGUF, several parts",
        "in",
        "tests/weights/test_gguf_parts.py::test_parts_of_the_gguf_packages_writer",
    ),
    ("GGUF, several parts", "out", f"{_CONVERT}::test_large_models_are_split_by_size"),
    ("safetensors, several files", "in", "tests/weights/test_huggingface.py::test_round_trip"),
    ("safetensors, several files", "out", f"{_CONVERT}::test_large_models_are_split_by_size"),
    (
        "Meta's shards (1, 2, 4)",
        "in",
        "tests/weights/test_meta.py::test_logits_are_those_of_transformers",
    ),
    ("Meta's shards", "out", f"{_CONVERT}::test_torch_loads_what_is_written"),
    (
        "rotary scaling of Llama 3.1 and 3.2",
        "in and out",
        f"{_CONVERT}::test_llama_3_scaling_goes_through_gguf_and_back",
    ),
    (
        "tokenizer and template of the default model",
        "in and out",
        "tests/convert/test_default_model.py::test_every_text_has_the_same_ids",
    ),
    (
        "Llama 3's tokenizer.model",
        "in and out",
        "tests/convert/test_default_model.py::test_llama_3s_own_tokenizer_stays_its_own",
    ),
    (
        "SentencePiece's tokenizer.model",
        "in and out",
        "tests/convert/test_default_model.py::test_a_sentencepiece_tokenizer_finds_its_way_back",
    ),
    (
        "licence, lineage and Llama's notices",
        "out",
        "tests/convert/test_rights.py::test_a_llama_travels_with_its_papers",
    ),
    (
        "memory of at most three of the largest tensor",
        "in and out",
        "tests/convert/test_memory.py::test_peak_memory_is_at_most_three_of_the_largest_tensor",
    ),
]


def page() -> str:
    """The whole page."""
    parts = [
        "# Formats",
        "Written by `scripts/formats_table.py`: change that, not this page.",
        "What Alpage reads and writes, with the test that proves each cell. `alpage convert` keeps "
        "GGUF's quantised types bit by bit from one GGUF file to another, and makes F32, F16 or "
        "BF16 of them for the other layouts, which hold floating point; `alpage quantize` makes "
        "quantised types of any source.",
        "## Types",
        _table(("format", "type", "in", "out"), _type_rows()),
        "Every type of GGUF runs in the native core as it is stored: " + _test(_RUNS) + ".",
        "## Directions",
        _table(("from", *(f"to {layout}" for layout in _LAYOUTS)), _direction_rows()),
        "## Files, texts and papers",
        _table(
            ("what", "direction", "test"),
            [(what, direction, _test(test)) for what, direction, test in _PARTS],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _type_rows() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for layout in _LAYOUTS:
        for kind in TensorType:
            if kind in FLOATS:
                cells = _test(_TYPES_IN[layout]), _test(_TYPES_OUT[layout])
            elif layout == "GGUF":
                out = "kept: " + _test(_BLOCKS_OUT)
                if kind in ENCODED:
                    out += "; made: " + _test(_MADE)
                cells = _test(_TYPES_IN[layout]), out
            else:
                continue
            rows.append((layout, kind.name, *cells))
    return rows


def _direction_rows() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for layout in _LAYOUTS:
        rows.append((layout, *(_test(_DIRECTION) for _ in _LAYOUTS)))
    kept = "tests/convert/test_convert.py::test_quantised_blocks_are_kept_in_gguf"
    rows.append(("GGUF, quantised", _test(kept), *(_test(_DEQUANTISED) for _ in range(2))))
    return rows


def _test(name: str) -> str:
    """A cell that names a test, which has to exist."""
    file, _, function = name.partition("::")
    tree = ast.parse((CHECKOUT / file).read_text("utf-8"))
    known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in known:
        raise SystemExit(f"docs/formats.md names a test that there is not: {name}")
    return f"[{function.removeprefix('test_').replace('_', ' ')}](../{file})"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Write the page, or with --check compare it."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != page():
        raise SystemExit("docs/formats.md is stale: run python scripts/formats_table.py")


if __name__ == "__main__":
    main()

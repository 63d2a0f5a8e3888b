"""Which files are chosen, from names as repositories really have them."""

import pytest

from alpage.catalogue.hub_files import Choice, RemoteFile, choose, quantization_of
from alpage.catalogue.hub_name import require_hub_name
from alpage.core.errors import AlpageError, FormatError, NotFoundError, UnsupportedError, UsageError

LLAMA = [
    ".gitattributes", "LICENSE.txt", "README.md", "USE_POLICY.md", "config.json",
    "generation_config.json", "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "original/consolidated.00.pth", "original/params.json", "original/tokenizer.model",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin",
    "onnx/model.onnx", "flax_model.msgpack", "model.py",
]  # fmt: skip
QUANTS = [
    "README.md", "Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Llama-3.2-1B-Instruct-Q4_K_S.gguf",
    "Llama-3.2-1B-Instruct-Q4_0_4_4.gguf", "Llama-3.2-1B-Instruct-Q4_0.gguf",
    "Llama-3.2-1B-Instruct-IQ4_XS.gguf", "Llama-3.2-1B-Instruct-f16.gguf",
    "Llama-3.2-1B-Instruct.imatrix", "imatrix.gguf", "mmproj-F16.gguf",
    "big/Big-Q8_0-00001-of-00002.gguf", "big/Big-Q8_0-00002-of-00002.gguf",
    "cut/Cut-Q6_K-00001-of-00002.gguf",
]  # fmt: skip


def choice(name: str, paths: list[str]) -> Choice:
    files = [RemoteFile(path, 1_000_000, "a" * 64, "b" * 40) for path in paths]
    return choose(require_hub_name(name), files)


def paths(files: tuple[RemoteFile, ...]) -> list[str]:
    return [file.path for file in files]


def test_a_folder_and_nothing_else_of_it() -> None:
    found = choice("org/name", LLAMA)
    assert found.kind == "folder"
    assert paths(found.first) == ["config.json", "model.safetensors.index.json"]
    assert paths(found.weights) == LLAMA[6:8]
    assert set(paths(found.others)) == {
        "LICENSE.txt", "README.md", "USE_POLICY.md", "generation_config.json",
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    one = choice("org/name", [*LLAMA, "model.safetensors"])
    assert (paths(one.first), paths(one.weights)) == (["config.json"], ["model.safetensors"])


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("", ["Llama-3.2-1B-Instruct-Q4_K_M.gguf"]),
        (":Q4_K_M", ["Llama-3.2-1B-Instruct-Q4_K_M.gguf"]),
        (":q4_k_s", ["Llama-3.2-1B-Instruct-Q4_K_S.gguf"]),
        (":Q4_0", ["Llama-3.2-1B-Instruct-Q4_0.gguf"]),
        (":F16", ["Llama-3.2-1B-Instruct-f16.gguf"]),
        (":IQ4_XS", ["Llama-3.2-1B-Instruct-IQ4_XS.gguf"]),
        (":Q8_0", ["big/Big-Q8_0-00001-of-00002.gguf", "big/Big-Q8_0-00002-of-00002.gguf"]),
        (":Big-Q8_0-00002-of-00002.gguf", ["big/Big-Q8_0-00001-of-00002.gguf",
                                           "big/Big-Q8_0-00002-of-00002.gguf"]),
        (":Llama-3.2-1B-Instruct-f16.gguf", ["Llama-3.2-1B-Instruct-f16.gguf"]),
    ],
)  # fmt: skip
def test_one_gguf_model_of_many(selection: str, chosen: list[str]) -> None:
    found = choice(f"org/name{selection}", QUANTS)
    assert (found.kind, paths(found.weights), paths(found.others)) == ("gguf", chosen, QUANTS[:1])


def test_a_selection_takes_gguf_where_safetensors_are_too() -> None:
    assert paths(choice("org/name:Q4_0", [*LLAMA, *QUANTS[4:5]]).weights) == QUANTS[4:5]
    assert choice("org/name", [*LLAMA, *QUANTS]).kind == "folder"


@pytest.mark.parametrize(
    ("name", "here", "kind", "message"),
    [
        ("a/b", ["config.json", "pytorch_model.bin"], UnsupportedError,
         r"only as Python pickles \(pytorch_model.bin\), which can run code"),
        ("a/b", ["consolidated.00.pth", "params.json"], UnsupportedError, "only as Python pickles"),
        ("a/b", ["adapter_config.json", "adapter_model.safetensors"], UnsupportedError,
         r"is an adapter \(LoRA\), not a whole model"),
        ("a/b", ["README.md"], FormatError, "holds no model that Alpage can run"),
        ("a/b", [], FormatError, "holds no model that Alpage can run"),
        ("a/b", ["model.safetensors"], FormatError, "has safetensors but no config.json"),
        ("a/b:Q4_0", ["model.safetensors", "config.json"], NotFoundError, "has no GGUF files"),
        ("a/b:Q2_K", QUANTS, NotFoundError, r"no GGUF file Q2_K. It has: Llama.*\(1 MB\)"),
        ("a/b:Q6_K", QUANTS, NotFoundError, "has no GGUF file Q6_K"),  # a part is missing
        ("a/b:none.gguf", QUANTS, NotFoundError, "has no GGUF file none.gguf"),
        ("a/b", ["one-F16.gguf", "two-F16.gguf"], UsageError, "holds several models; name one"),
        ("a/b:F16", ["one-F16.gguf", "two-F16.gguf"], UsageError, "has several files for F16"),
        ("a/b", ["mmproj-model-f16.gguf"], FormatError, "holds no model"),
    ],
)  # fmt: skip
def test_what_cannot_be_chosen(
    name: str, here: list[str], kind: type[AlpageError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        choice(name, here)


def test_pickles_are_never_chosen() -> None:
    for selection in ("", ":Q4_0"):
        found = choice(f"a/b{selection}", [*LLAMA, "x-Q4_0.gguf", "training_args.bin", "x.pt"])
        every = paths((*found.first, *found.weights, *found.others))
        assert not [path for path in every if path.endswith((".bin", ".pth", ".pt", ".py"))]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("x/Llama-3.1-8B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("llama.q8_0.gguf", "Q8_0"),
        ("Llama-UD-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model-fp16.gguf", "F16"),
        ("Q4_K_M/Llama-BF16-00001-of-00002.gguf", "BF16"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("FAQ8.gguf", None),
        ("model.gguf", None),
    ],
)
def test_types_in_names(path: str, kind: str | None) -> None:
    assert quantization_of(path) == kind

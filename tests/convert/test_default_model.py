"""The default model through every format, with its tokenizer, template and papers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.convert import peers
from tests.tokenizer.spm import judge_of, trained

from alpage.convert.convert import convert
from alpage.llama.text import load_text_side
from alpage.weights.source import open_model

TEXTS = [
    "The capital of France is", "Ünïcödé, 日本語 and emoji 🦙!", "def f(x):\n\treturn x  ** 2\n\n",
    " leading spaces, 12345678 and\r\nline ends", "<|im_start|>not a special token?",
]  # fmt: skip
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi  there"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def folders(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """GGUF to Hugging Face's layout, from there to Meta's and back to GGUF, as F32 all the way."""
    folder = tmp_path_factory.mktemp("smollm2")
    made = {"start": smollm2_path}
    path = smollm2_path
    for layout in ("hf", "meta", "gguf"):
        with open_model(path) as source:
            done = convert(source, folder / layout, layout, kind="F32", name="SmolLM2")
        path = made[layout] = done.target
    return made


def test_transformers_gives_the_same_greedy_tokens(folders: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folders["hf"])
    prompt = tokenizer(TEXTS[0])["input_ids"]
    wanted = peers.reference(folders["start"], prompt)
    assert peers.transformers(folders["hf"], prompt) == wanted
    assert tokenizer.decode(wanted).startswith(" Paris")


@pytest.mark.parametrize("layout", ["hf", "meta", "gguf"])
def test_every_text_has_the_same_ids(folders: dict[str, Path], layout: str) -> None:
    from transformers import AutoTokenizer

    theirs: Any = AutoTokenizer.from_pretrained(folders["hf"])
    with open_model(folders["start"]) as first, open_model(folders[layout]) as other:
        one, two = load_text_side(first), load_text_side(other)
        assert two.end_ids == one.end_ids
        for text in TEXTS:
            ids = one.tokenizer.encode(text)
            assert two.tokenizer.encode(text) == ids
            if "<|" not in text:  # transformers takes such a text for the token itself
                assert theirs(text)["input_ids"] == ids
        assert other.chat_template == first.chat_template
        rendered = theirs.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
        assert theirs(rendered)["input_ids"] == two.tokenizer.encode_segments([(rendered, True)])


def test_llamacpp_runs_what_came_back(folders: dict[str, Path]) -> None:
    llama_cpp: Any = pytest.importorskip("llama_cpp")
    (file,) = folders["gguf"].glob("*.gguf")
    model = llama_cpp.Llama(str(file), n_ctx=64, n_threads=2, verbose=False)
    with open_model(folders["start"]) as source:
        tokenizer = load_text_side(source).tokenizer
        for text in TEXTS:
            assert model.tokenize(text.encode(), add_bos=False, special=False) == (
                tokenizer.encode(text)
            )
    model.close()
    prompt = [504, 3575, 282, 4649, 314]
    assert peers.llamacpp(file, prompt) == peers.reference(folders["start"], prompt)


def test_what_folders_say_of_ends_and_origin(folders: dict[str, Path]) -> None:
    config = json.loads((folders["hf"] / "config.json").read_text())
    generation = json.loads((folders["hf"] / "generation_config.json").read_text())
    assert config["bos_token_id"] == generation["bos_token_id"] == 1
    assert config["eos_token_id"] == generation["eos_token_id"] == [2, 0]
    with open_model(folders["gguf"]) as source:
        assert source.licence == "apache-2.0"
        assert source.lineage.authors == "HuggingFaceTB"
        assert [step.split(",")[0] for step in source.lineage.contributions] == [
            "converted from Q4_1 in GGUF to Hugging Face's layout",
            "converted from F32 in Hugging Face's layout to Meta's layout",
            "converted from F32 in Meta's layout to GGUF",
        ]
    assert (folders["meta"] / "tokenizer.json").exists()


def tiny_meta(folder: Path, name: str, vocab_size: int) -> Path:
    """A small random model in Meta's layout, still without its tokenizer."""
    import torch
    from tests.weights.meta_files import save_meta

    from alpage.core.config import LlamaConfig
    from alpage.weights.names import expected_shapes

    shape = LlamaConfig(
        vocab_size=vocab_size, dim=16, n_layers=1, n_heads=2, n_kv_heads=1, head_dim=8, ffn_dim=32,
        context_length=8192,
    )  # fmt: skip
    torch.manual_seed(1)
    weights = {name: torch.randn(size) for name, size in expected_shapes(shape)}
    params = {"dim": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "rope_theta": 500000.0}
    return save_meta(folder / name, weights, 2, params=params, config=shape)


def test_llama_3s_own_tokenizer_stays_its_own(llama3_tokenizer_path: Path, tmp_path: Path) -> None:
    """Meta's folder to GGUF and Hugging Face's layout and back: tokenizer.model bit by bit."""
    from transformers import AutoTokenizer

    path = tiny_meta(tmp_path, "Llama-3-Tiny", 128_256)
    shutil.copyfile(llama3_tokenizer_path, path / "tokenizer.model")
    original, ids = path, None
    for layout in ("gguf", "hf", "meta", "hf", "gguf", "meta"):
        with open_model(path) as source:
            side = load_text_side(source)
            found = [side.tokenizer.encode(text, add_bos=True) for text in TEXTS]
            assert ids in (None, found)
            ids = found
            assert side.end_ids == {128_001, 128_008, 128_009}
            name, licence = "Llama-3-Tiny", "llama3"
            target = tmp_path / f"{len(list(tmp_path.iterdir()))}-{layout}"
            path = convert(source, target, layout, name=name, licence=licence).target
        if layout == "hf":
            theirs: Any = AutoTokenizer.from_pretrained(path)
            assert [theirs(text)["input_ids"] for text in TEXTS[:4]] == found[:4]
        if layout == "meta":
            wanted = (original / "tokenizer.model").read_bytes()
            assert (path / "tokenizer.model").read_bytes() == wanted


def test_a_sentencepiece_tokenizer_finds_its_way_back(tmp_path: Path) -> None:
    """As Llama 2 has it: Meta's folder to GGUF and Hugging Face's layout and back."""
    original = trained("llama2")
    judge, path = judge_of(original), tiny_meta(tmp_path, "Tiny", 4000)
    (path / "tokenizer.model").write_bytes(original)
    for layout in ("gguf", "meta", "hf", "gguf", "hf", "meta"):
        with open_model(path) as source:
            target = tmp_path / f"{len(list(tmp_path.iterdir()))}-{layout}"
            made = convert(source, target, layout, licence="mit")
            assert not [note for note in made.notes if "tokenizer" in note]
            path = made.target
        with open_model(path) as source:
            side = load_text_side(source)
            assert side.end_ids == {judge.eos_id()}
        if layout == "meta":
            again = judge_of((path / "tokenizer.model").read_bytes())
        for text in TEXTS:
            wanted = judge.encode(text, add_bos=True)
            assert side.tokenizer.encode(text, add_bos=True) == wanted
            assert layout != "meta" or again.encode(text, add_bos=True) == wanted

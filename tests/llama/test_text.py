"""The text side of a model finds out which kind of tokenizer file it has."""

from pathlib import Path

import pytest
from tests.tokenizer.spm import judge_of, trained

from alpage.llama.text import load_text_side
from alpage.weights.source import open_model


def test_a_folder_with_a_sentencepiece_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=4000, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(trained("llama2"))
    side = load_text_side(open_model(tmp_path))
    assert side.encode_prompt("Hello  world") == [
        1,
        *judge_of(trained("llama2")).encode("Hello  world"),
    ]
    messages = side.encode_chat([{"role": "user", "content": "</s> hi"}], None, {})
    assert messages[0] == 1 and 2 not in messages

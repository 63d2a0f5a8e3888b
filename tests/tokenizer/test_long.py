"""Long runs take time in proportion to their length; quadratic work would never finish here."""

import pytest
import tiktoken

from alpage.tokenizer import Tokenizer
from alpage.tokenizer import chunks as module

MEGABYTE = 1_000_000
RUNS = {
    "letter": "a", "space": " ", "line": "\n", "digit": "1", "punctuation": "!", "tabs": "\t ",
    "crlf": "\r\n", "mixed": "ab 1!\n", "ideograph": "中", "spaces before letters": " " * 999 + "a",
    "apostrophes": "'s'", "accents": "e\u0301", "markers": "<|", "special": "<|im_end|>",
}  # fmt: skip


@pytest.mark.parametrize("run", list(RUNS.values()), ids=list(RUNS))
def test_a_megabyte_of_anything(smollm: Tokenizer, llama3: Tokenizer, run: str) -> None:
    text = run * (MEGABYTE // len(run.encode()))
    few = run in ("a", " ", "1", RUNS["mixed"], RUNS["special"])
    for tokenizer in (llama3, smollm) if few else (llama3,):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("run", ["<|", "<|reserved_", "<|im_end|>"])
def test_a_megabyte_with_special_tokens(smollm: Tokenizer, llama3: Tokenizer, run: str) -> None:
    text = run * (MEGABYTE // len(run))
    for tokenizer in (smollm, llama3):
        ids = tokenizer.encode(text, special=True)
        assert tokenizer.decode(ids, skip_special=False) == text


def test_ten_megabytes_of_one_letter(smollm: Tokenizer) -> None:
    text = "a" * (10 * MEGABYTE)
    ids = smollm.encode(text)
    assert smollm.decode(ids) == text


def test_long_texts_cut_in_parts_give_the_same_ids(
    smollm: Tokenizer, llama3: Tokenizer, judge: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tokenizer.cases import SENTENCES, strings

    text = " ".join((*SENTENCES.values(), *strings()[:2_000]))
    whole = smollm.encode(text)
    monkeypatch.setattr(module, "SIZE", 64)
    parts = list(module.chunks(text, llama3.core.cut))
    assert len(parts) > 500
    assert "".join(parts) == text
    assert smollm.encode(text) == whole
    assert llama3.encode(text) == judge.encode_ordinary(text)

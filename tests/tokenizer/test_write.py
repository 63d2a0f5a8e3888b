"""What is written is read alike by Alpage, tokenizers, transformers, llama.cpp and tiktoken."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from tests.tokenizer.cases import LLAMA3, strings
from tests.tokenizer.spm import judge_of, llama_cpp_of, trained
from tiktoken.load import load_tiktoken_bpe
from tokenizers import Tokenizer as HfTokenizer

from alpage.core.errors import UnsupportedError
from alpage.tokenizer import (
    Tokenizer,
    from_gguf,
    from_sentencepiece,
    from_tiktoken,
    from_tokenizer_json,
    gguf_difference,
    to_gguf_metadata,
    to_sentencepiece,
    to_tiktoken,
    to_tokenizer_config,
    to_tokenizer_json,
)
from alpage.tokenizer.spaces import Prefix, Scope, SpaceRule

KINDS = ["llama3", "smollm", "gpt-2", "default", "llama2", "control", "bare"]


@pytest.fixture(scope="session")
def tokenizers(
    metadata: dict[str, Any],
    smollm: Tokenizer,
    llama3: Tokenizer,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Tokenizer]:
    path = tmp_path_factory.mktemp("models") / "m"
    found = {"smollm": smollm, "llama3": llama3}
    for rule in ("gpt-2", "default"):
        found[rule] = from_gguf({**metadata, "tokenizer.ggml.pre": rule})
    for kind in ("llama2", "control", "bare", "user", "extra"):
        path.write_bytes(trained(kind))
        found[kind] = from_sentencepiece(path)
    return found


def read_gguf(metadata: dict[str, Any]) -> Tokenizer:
    return from_gguf({key: value for key, (_, value) in metadata.items()})


def write_json(tokenizer: Tokenizer, folder: Path) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(to_tokenizer_json(tokenizer)))
    config = to_tokenizer_config(tokenizer, "{{ messages }}")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


def assert_equal(ours: Tokenizer, other: Tokenizer, every: int = 40) -> None:
    assert ours.special_ids == other.special_ids
    assert (ours.vocab_size, ours.bos_id, ours.eos_id) == (
        other.vocab_size, other.bos_id, other.eos_id)  # fmt: skip
    assert (ours.add_bos, ours.missing_bytes) == (other.add_bos, other.missing_bytes)
    assert ours.vocabulary.added == other.vocabulary.added
    for text in strings()[::every]:
        ids = ours.encode(text)
        assert ids == other.encode(text), repr(text)
        assert ours.encode(text, special=True) == other.encode(text, special=True)
        assert ours.decode(ids) == other.decode(ids)


@pytest.mark.parametrize("kind", [*KINDS, "user", "extra"])
def test_gguf_metadata_round_trips(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    ours = tokenizers[kind]
    written = to_gguf_metadata(ours)
    again = read_gguf(written)
    assert_equal(ours, again)
    assert to_gguf_metadata(again) == written
    assert (gguf_difference(ours) is None) == (kind in KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_llama_cpp_reads_the_gguf_metadata(
    tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    ours = tokenizers[kind]
    judge = llama_cpp_of(tmp_path / "v.gguf", dict(to_gguf_metadata(ours)))
    assert judge.n_vocab() == ours.vocab_size
    assert judge.token_bos() == ours.bos_id and judge.token_eos() == ours.eos_id
    spaced = isinstance(ours.rule, SpaceRule)
    for text in [t for t in strings()[::40] if t]:
        if spaced or set(text) <= set(map(chr, range(32, 127))):  # its own classes of characters
            ids = judge.tokenize(text.encode(), add_bos=False, special=False)
            assert ours.encode(text) == ids, repr(text)
            ids = judge.tokenize(text.encode(), add_bos=False, special=True)
            assert ours.encode(text, special=True) == ids, repr(text)


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizers_reads_tokenizer_json(
    tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    ours = tokenizers[kind]
    path = write_json(ours, tmp_path)
    judge = HfTokenizer.from_file(str(path))
    for text in strings()[::20]:
        judge.encode_special_tokens = True
        ids = ours.encode(text)
        assert judge.encode(text, add_special_tokens=False).ids == ids, repr(text)
        assert judge.encode(text).ids == ours.encode(text, add_bos=ours.add_bos)
        assert judge.decode(ids) == ours.decode(ids)
        judge.encode_special_tokens = False
        special = judge.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, special=True) == special
    again = from_tokenizer_json(path)
    assert_equal(ours, again)
    assert to_tokenizer_json(again) == to_tokenizer_json(ours)
    written, rewritten = to_gguf_metadata(ours), to_gguf_metadata(again)
    differs = {key for key in written if written[key] != rewritten.get(key)}
    # The format names neither the tokens that only GGUF names, nor single-character scores.
    assert differs <= {f"tokenizer.ggml.{name}_token_id" for name in ("eot", "eom", "seperator")}


@pytest.mark.parametrize("kind", ["llama3", "smollm", "control"])
def test_transformers_loads_the_folder(
    tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    ours = tokenizers[kind]
    write_json(ours, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    judge: Any = AutoTokenizer.from_pretrained(str(tmp_path))
    assert len(judge) == ours.vocab_size
    assert (judge.bos_token_id, judge.eos_token_id) == (ours.bos_id, ours.eos_id)
    assert judge.chat_template == "{{ messages }}"
    for text in strings()[::40]:
        special = ours.encode(text, special=True, add_bos=ours.add_bos)
        assert judge(text).input_ids == special, repr(text)
        assert judge.decode(ours.encode(text)) == ours.decode(ours.encode(text))


def test_llama3_in_three_layouts(
    llama3: Tokenizer, llama3_tokenizer_path: Path, tmp_path: Path
) -> None:
    original = llama3_tokenizer_path.read_bytes()
    assert to_tiktoken(llama3) == original
    path = write_json(llama3, tmp_path)
    document = json.loads(path.read_text())
    assert len(document["model"]["vocab"]) == 128_000 and document["model"]["ignore_merges"]
    assert document["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == LLAMA3
    assert document["added_tokens"][0]["content"] == "<|begin_of_text|>"
    assert to_tiktoken(from_tokenizer_json(path)) == original
    assert to_tiktoken(read_gguf(to_gguf_metadata(llama3))) == original
    (tmp_path / "tokenizer.model").write_bytes(to_tiktoken(llama3))
    ranks = load_tiktoken_bpe(str(tmp_path / "tokenizer.model"))
    judge = tiktoken.Encoding("l", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens={})
    again = from_tiktoken(tmp_path / "tokenizer.model")
    for text in strings()[::40]:
        assert again.encode(text) == judge.encode_ordinary(text)


def test_llama3_merges_in_another_order_are_the_same_ranks(llama3: Tokenizer) -> None:
    """Hugging Face's file lists the splits of one token in another order, and not always all."""
    ids = llama3.vocabulary.ordinary()
    merges = sorted(llama3.vocabulary.merges, key=lambda m: (ids[m[0] + m[1]], -len(m[0])))
    assert merges != llama3.vocabulary.merges
    other = dataclasses.replace(llama3.vocabulary, merges=merges)
    assert to_tiktoken(Tokenizer(other, llama3.rule, True)) == to_tiktoken(llama3)
    # "in" is built of "i" and "n": without that pair, no rank says the same.
    fewer = dataclasses.replace(other, merges=[m for m in merges if m != ("i", "n")])
    with pytest.raises(UnsupportedError, match=r"'in' .* is merged otherwise"):
        to_tiktoken(Tokenizer(fewer, llama3.rule, True))
    late = dataclasses.replace(other, merges=[*merges[100:], *merges[:100]])
    with pytest.raises(UnsupportedError, match="merges are ranked by their results"):
        to_tiktoken(Tokenizer(late, llama3.rule, True))


def test_what_tiktoken_cannot_hold(
    llama3: Tokenizer, tokenizers: dict[str, Tokenizer], metadata: dict[str, Any]
) -> None:
    def refused(tokenizer: Tokenizer, message: str) -> None:
        with pytest.raises(UnsupportedError, match=message):
            to_tiktoken(tokenizer)

    refused(tokenizers["llama2"], "SentencePiece-style")
    refused(tokenizers["smollm"], "Llama 3's rule, not by that of 'smollm'")
    early = from_gguf({**metadata, "tokenizer.ggml.pre": "llama-bpe"})
    refused(early, "special tokens come after all others, and '<|endoftext|>' has the id 0")
    v = llama3.vocabulary

    def changed(**fields: Any) -> Tokenizer:
        return Tokenizer(dataclasses.replace(v, **fields), llama3.rule, True)

    pieces = list(v.pieces)
    refused(changed(special=v.special - {128_200}, added=frozenset({128_200})), "neither an ordin")
    refused(changed(pieces=[*pieces, "x" * 99]), "128000 tokens and 256 special ones, and this")
    pieces[128_006] = "<|another|>"
    refused(changed(pieces=pieces), r"128006 is '<\|another\|>', where Llama 3 has <\|start_header")
    refused(changed(add_bos=False), "its readers put the token 128000 in front of every text")
    pieces = list(v.pieces)
    pieces[128_004] = "<|reserved_special_token_900|>"  # as in Llama 3.0: no text means it
    assert to_tiktoken(changed(pieces=pieces)) == to_tiktoken(llama3)


@pytest.mark.parametrize("kind", ["llama2", "control", "bare", "user", "extra"])
def test_sentencepiece_reads_what_is_written(
    tokenizers: dict[str, Tokenizer], kind: str, tmp_path: Path
) -> None:
    """Straight from a SentencePiece model, and on the way through the other formats."""
    ours = tokenizers[kind]
    written = to_sentencepiece(ours)
    judge, original = judge_of(written), judge_of(trained(kind))
    for token in range(original.get_piece_size()):
        assert judge.id_to_piece(token) == original.id_to_piece(token)
        assert judge.get_score(token) == original.get_score(token)
        for question in ("is_control", "is_unknown", "is_byte", "is_unused"):
            assert getattr(judge, question)(token) == getattr(original, question)(token)
    names = ("unk_id", "bos_id", "eos_id", "pad_id")
    assert [getattr(judge, n)() for n in names] == [getattr(original, n)() for n in names]
    for text in strings()[::40]:
        assert judge.encode(text) == original.encode(text), repr(text)
    (tmp_path / "tokenizer.model").write_bytes(written)
    assert_equal(ours, from_sentencepiece(tmp_path / "tokenizer.model"))
    assert to_sentencepiece(read_gguf(to_gguf_metadata(ours))) == written
    if kind in ("llama2", "control", "bare"):
        from_json = from_tokenizer_json(write_json(ours, tmp_path))
        judge = judge_of(to_sentencepiece(from_json))
        for text in strings()[::40]:
            assert judge.encode(text) == original.encode(text), repr(text)


def test_what_sentencepiece_cannot_hold(tokenizers: dict[str, Tokenizer]) -> None:
    base = tokenizers["user"]

    def refused(message: str, rule: SpaceRule | None = None, **fields: Any) -> None:
        vocabulary = dataclasses.replace(base.vocabulary, **fields)
        with pytest.raises(UnsupportedError, match=message):
            to_sentencepiece(Tokenizer(vocabulary, rule or base.rule, ignore_merges=False))

    with pytest.raises(UnsupportedError, match="this is byte-level BPE"):
        to_sentencepiece(tokenizers["smollm"])
    refused("in front of every text, or of none", SpaceRule(Prefix.MISSING, Scope.TEXTS))
    refused("the first space of a decoded text", SpaceRule(scope=Scope.TEXTS, strip=False))
    refused("no space behind an added token", SpaceRule(scope=Scope.PARTS))
    refused("one unknown token, and there are 0", unknown=frozenset())
    refused("puts? the token 1 in front of every text", add_bos=False)


def test_metaspace_rules_survive(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    """Rules that only `tokenizer.json` has: equal to `tokenizers`, and kept through a GGUF file."""
    base = tokenizers["control"]
    core: Any = base.core
    vocabulary = dataclasses.replace(base.vocabulary, merges=core.exact_merges, scores=None)
    rules = [
        SpaceRule(prefix, scope, strip=prefix is not Prefix.NEVER, split=split)
        for prefix, scope in (
            (Prefix.MISSING, Scope.START), (Prefix.MISSING, Scope.PARTS),
            (Prefix.NEVER, Scope.PARTS), (Prefix.ALWAYS, Scope.PARTS),
        )
        for split in (False, True) if not (split and prefix is Prefix.ALWAYS)
    ]  # fmt: skip
    for rule in rules:
        ours = Tokenizer(vocabulary, rule, ignore_merges=False)
        path = write_json(ours, tmp_path)
        judge = HfTokenizer.from_file(str(path))
        for text in strings()[::60]:
            ids = ours.encode(text, special=True)
            assert judge.encode(text, add_special_tokens=False).ids == ids, (rule, text)
            shown = judge.decode(ids, skip_special_tokens=True)
            assert ours.decode(ids) == shown
        assert_equal(ours, from_tokenizer_json(path))
        assert_equal(ours, read_gguf(to_gguf_metadata(ours)))
        same = not rule.split and rule.prefix is not Prefix.MISSING
        assert (gguf_difference(ours) is None) == same


def test_llama_tokenizers_of_transformers(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    """Folders that transformers itself writes, in its older and its newer way with spaces."""
    from transformers import LlamaTokenizer

    document = to_tokenizer_json(tokenizers["llama2"])
    merges = list(map(tuple, document["model"]["merges"]))
    for legacy in (False, True):
        judge: Any = LlamaTokenizer(
            vocab=dict(document["model"]["vocab"]), merges=merges, legacy=legacy
        )
        judge.save_pretrained(str(tmp_path))
        ours = from_tokenizer_json(tmp_path / "tokenizer.json")
        assert (ours.bos_id, ours.eos_id) == (judge.bos_token_id, judge.eos_token_id) == (1, 2)
        for text in strings()[::60]:
            ids = judge(text, add_special_tokens=False).input_ids
            assert ours.encode(text, special=True) == ids, (legacy, text)


def test_what_tokenizer_json_cannot_hold(
    tokenizers: dict[str, Tokenizer], metadata: dict[str, Any]
) -> None:
    for kind in ("user", "extra"):
        with pytest.raises(UnsupportedError, match="extra spaces or added and unused tokens"):
            to_tokenizer_json(tokenizers[kind])
    base = tokenizers["llama2"]
    scores = [0.0] * base.vocab_size
    tied = Tokenizer(dataclasses.replace(base.vocabulary, scores=scores), base.rule, False)
    with pytest.raises(UnsupportedError, match="several pieces have the same score"):
        to_tokenizer_json(tied)


def test_merges_that_are_no_scores(tokenizers: dict[str, Tokenizer]) -> None:
    base = tokenizers["llama2"]
    core: Any = base.core
    merges = list(core.exact_merges)

    def changed(merges: list[tuple[str, str]]) -> Tokenizer:
        vocabulary = dataclasses.replace(base.vocabulary, merges=merges, scores=None)
        return Tokenizer(vocabulary, base.rule, ignore_merges=False)

    assert_equal(base, read_gguf(to_gguf_metadata(changed(merges))), every=200)
    several = next(i for i in range(1, len(merges)) if "".join(merges[i]) == "".join(merges[i - 1]))
    apart = [*merges[:several], *merges[several + 1 :], merges[several]]
    with pytest.raises(UnsupportedError, match="those of one piece are not together"):
        to_gguf_metadata(changed(apart))
    with pytest.raises(UnsupportedError, match="would become"):
        to_gguf_metadata(changed(merges[1:]))

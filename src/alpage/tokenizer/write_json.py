"""`tokenizer.json` and `tokenizer_config.json`, the files of the Hugging Face layout."""

from collections.abc import Sequence
from typing import Any

from alpage.core.errors import UnsupportedError
from alpage.tokenizer.pieces import PieceCore, byte_piece
from alpage.tokenizer.pretokenize import DEFAULT_PATTERNS, LLAMA3_PATTERN, PreTokenizer
from alpage.tokenizer.spaces import SPACE, Prefix, Scope, SpaceRule
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.write_gguf import simple_rule

_Json = dict[str, Any]


def to_tokenizer_json(tokenizer: Tokenizer) -> _Json:
    """The document of a `tokenizer.json`, which `from_tokenizer_json` and `tokenizers` read alike.

    `UnsupportedError` for what the format cannot hold: scores that no ranked merges express, byte
    tokens in a byte-level vocabulary, and sentencepiece's way with extra spaces or added tokens.
    """
    rule = tokenizer.rule
    model, outside = _model(tokenizer)
    document: _Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(tokenizer),
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": _post_processor(tokenizer),
        "decoder": None,
        "model": model,
    }
    document.update(_byte_level(rule) if isinstance(rule, PreTokenizer) else _spaced(tokenizer))
    for text in outside:
        del model["vocab"][text]
    return document


def to_tokenizer_config(tokenizer: Tokenizer, chat_template: str | None = None) -> _Json:
    """The document of the `tokenizer_config.json` beside it."""
    vocabulary = tokenizer.vocabulary
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    names = {"unk_token": "unknown", "pad_token": "padding", "mask_token": "mask"}
    ids |= {key: vocabulary.names.get(name) for key, name in names.items()}
    config: _Json = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": tokenizer.add_bos,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(entry["id"]): {key: value for key, value in entry.items() if key != "id"}
            for entry in _added_tokens(tokenizer)
        },
    }
    for key, token in ids.items():
        if token is not None:
            config[key] = vocabulary.pieces[token]
    if chat_template is not None:
        config["chat_template"] = chat_template
    return config


def _added_tokens(tokenizer: Tokenizer) -> list[_Json]:
    vocabulary = tokenizer.vocabulary
    return [
        {
            "id": token,
            "content": vocabulary.pieces[token],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": token in vocabulary.special,
        }
        for token in sorted(vocabulary.special | vocabulary.added)
        if vocabulary.pieces[token]
    ]


def _model(tokenizer: Tokenizer) -> tuple[_Json, list[str]]:
    """The model, with all tokens, and the texts that it may leave to `added_tokens`."""
    vocabulary = tokenizer.vocabulary
    vocab = {piece: token for token, piece in enumerate(vocabulary.pieces) if piece}
    spaced = isinstance(tokenizer.core, PieceCore)
    merges: Sequence[tuple[str, str]] | None = vocabulary.merges
    if isinstance(tokenizer.core, PieceCore):
        merges = tokenizer.core.exact_merges
        for token, data in vocabulary.raw_bytes.items():
            vocab.pop(vocabulary.pieces[token] or "", None)
            vocab[byte_piece(data[0])] = token
        vocab = dict(sorted(vocab.items(), key=lambda item: item[1]))
    elif vocabulary.raw_bytes:
        raise UnsupportedError(
            "tokenizer.json has no byte tokens in a byte-level vocabulary; this one has "
            f"{len(vocabulary.raw_bytes)}"
        )
    if merges is None:
        raise UnsupportedError(
            "tokenizer.json ranks merges, and cannot say that several pieces have the same score, "
            "or that a piece has characters that are no pieces"
        )
    unknown = min(vocabulary.unknown, default=None)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else vocabulary.pieces[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": spaced,
        "byte_fallback": spaced,
        "ignore_merges": tokenizer.ignore_merges,
        "vocab": vocab,
        "merges": [list(pair) for pair in merges],
    }
    return model, [] if spaced else _tail(tokenizer, vocab)


def _tail(tokenizer: Tokenizer, vocab: dict[str, int]) -> list[str]:
    """Added tokens at the end of the ids: Meta's and Hugging Face's files keep them outside.

    `tokenizers` numbers tokens outside the model after those inside; with other ids they must
    stay in the model's vocabulary.
    """
    outside = tokenizer.vocabulary.special | tokenizer.vocabulary.added
    if sorted(vocab.values()) != list(range(tokenizer.vocab_size)):
        return []
    first = tokenizer.vocab_size - len(outside)
    if first == 0 or any(token < first for token in outside):
        return []
    return [piece for piece, token in vocab.items() if token in outside]


def _byte_level(rule: PreTokenizer) -> _Json:
    def byte_level(use_regex: bool) -> _Json:
        return {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": use_regex,
        }

    def splits(*patterns: str) -> list[_Json]:
        return [
            {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
            for p in patterns
        ]

    digits = {"type": "Digits", "individual_digits": True}
    steps = {
        "llama-bpe": [*splits(LLAMA3_PATTERN), byte_level(False)],
        "smollm": [digits, byte_level(True)],
        "gpt-2": [byte_level(True)],
        "default": [*splits(*DEFAULT_PATTERNS), byte_level(False)],
    }[rule.name]
    single = {"type": "Sequence", "pretokenizers": steps} if len(steps) > 1 else steps[0]
    return {"pre_tokenizer": single, "decoder": {**byte_level(True), "add_prefix_space": True}}


def _spaced(tokenizer: Tokenizer) -> _Json:
    rule, simple = tokenizer.rule, simple_rule(tokenizer)
    assert isinstance(rule, SpaceRule)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    found: _Json = {"decoder": _spaced_decoder(rule)}
    if simple is not None and simple.prefix is Prefix.ALWAYS:
        prepend = {"type": "Prepend", "prepend": SPACE}
        found["normalizer"] = {"type": "Sequence", "normalizers": [prepend, replace]}
    elif simple is not None:
        found["normalizer"] = replace
    elif rule.prefix is Prefix.ALWAYS or rule.collapse or rule.scope is Scope.TEXTS:
        raise UnsupportedError(
            "tokenizer.json cannot express how this SentencePiece model treats extra spaces or "
            "added and unused tokens"
        )
    else:
        schemes = {Scope.PARTS: "always", Scope.START: "first"}
        never = rule.prefix is Prefix.NEVER
        found["pre_tokenizer"] = {
            "type": "Metaspace",
            "replacement": SPACE,
            "prepend_scheme": "never" if never else schemes[rule.scope],
            "split": rule.split,
        }
    return found


def _spaced_decoder(rule: SpaceRule) -> _Json:
    steps: list[_Json] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if rule.strip:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _post_processor(tokenizer: Tokenizer) -> _Json | None:
    """Puts the begin token in front of a text; byte-level files also settle offsets there."""
    offsets = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    spaced = isinstance(tokenizer.rule, SpaceRule)
    bos = tokenizer.bos_id
    if not tokenizer.add_bos or bos is None:
        return None if spaced else offsets
    text = tokenizer.vocabulary.pieces[bos]
    pair = [
        part
        for name, kind in (("A", 0), ("B", 1))
        for part in (
            {"SpecialToken": {"id": text, "type_id": kind}},
            {"Sequence": {"id": name, "type_id": kind}},
        )
    ]
    template = {
        "type": "TemplateProcessing",
        "single": pair[:2],
        "pair": pair,
        "special_tokens": {text: {"id": text, "ids": [bos], "tokens": [text]}},
    }
    return template if spaced else {"type": "Sequence", "processors": [offsets, template]}

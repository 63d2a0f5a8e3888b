"""A tokenizer from `tokenizer.json`, the fast-tokenizer file of the Hugging Face layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.config import Object as _Object
from alpage.tokenizer.config import as_object as _object
from alpage.tokenizer.config import named_token, read_config, read_json
from alpage.tokenizer.gguf import END_TEXTS
from alpage.tokenizer.hf_rules import byte_level_rule, is_spaced, space_rule
from alpage.tokenizer.pieces import byte_piece
from alpage.tokenizer.pretokenize import PreTokenizer, pre_tokenizer
from alpage.tokenizer.spaces import SpaceRule
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.vocabulary import Vocabulary

_MAX_IDS = 1 << 22


def from_tokenizer_json(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`: byte-level BPE, or SentencePiece-style BPE with byte fallback.

    `tokenizer_config.json` beside it, if any, names the begin and end tokens; without it only a
    begin token that the file's own post-processor adds is known. `FormatError` for a damaged or
    contradictory file, `UnsupportedError` for another kind of tokenizer, or a normaliser or
    pre-tokenizer that Alpage does not know.
    """
    document = _object(read_json(path), str(path))
    model = _object(document.get("model"), "model")
    spaced = is_spaced(document, model)
    _check_supported(document, model, spaced)
    rule: SpaceRule | PreTokenizer
    rule = space_rule(document) if spaced else pre_tokenizer(byte_level_rule(document))
    tokens = _vocabulary(model)
    special, added = _added_tokens(document, tokens)
    config = read_config(path.with_name("tokenizer_config.json"))
    bos_added = _template_bos(document.get("post_processor"), tokens)
    bos_id = named_token(config, "bos_token", tokens)
    eos_id = named_token(config, "eos_token", tokens)
    ends = {tokens[text] for text in END_TEXTS if tokens.get(text) in special}
    add_bos = config.get("add_bos_token")
    bos_id = bos_added if bos_id is None else bos_id
    raw_bytes = _raw_bytes(tokens, special | added) if spaced else {}
    merges = _merges(model)
    vocabulary = Vocabulary(
        pieces=_by_id(tokens),
        merges=_safe_merges(merges, tokens, special | raw_bytes.keys()) if spaced else merges,
        special=special,
        added=added,
        raw_bytes=raw_bytes,
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=bos_id is not None
        and (add_bos if isinstance(add_bos, bool) else bos_added is not None),
        stop_ids=frozenset(ends | ({eos_id} if eos_id is not None else set())),
        **_further_names(config, model, tokens, special),
    )
    return Tokenizer(vocabulary, rule, ignore_merges=bool(model.get("ignore_merges")))


def _respells(document: _Object, text: str) -> bool:
    """Whether normalisation changes the text of an added token, so that it is found elsewhere."""
    shown = json.dumps(document.get("normalizer"))
    return '"Prepend"' in shown or (" " in text and '"Replace"' in shown)


def _safe_merges(
    merges: list[tuple[str, str]], tokens: Mapping[str, int], kept_out: frozenset[int]
) -> list[tuple[str, str]]:
    """Merges without those that would build a special or a byte token out of plain text.

    Conversions of SentencePiece models list them; there, no text becomes such a token.
    """
    bad = {text for text, token in tokens.items() if token in kept_out}
    return [(a, b) for a, b in merges if a not in bad and b not in bad and a + b not in bad]


def _raw_bytes(tokens: Mapping[str, int], other: frozenset[int]) -> dict[int, bytes]:
    names = {byte_piece(byte): bytes([byte]) for byte in range(256)}
    found = {tokens[name]: data for name, data in names.items() if name in tokens}
    return {token: data for token, data in found.items() if token not in other}


def _further_names(
    config: _Object, model: _Object, tokens: Mapping[str, int], special: frozenset[int]
) -> dict[str, Any]:
    """Ids of the unknown, padding and mask tokens, where they are named."""
    known = {"unknown": "unk_token", "padding": "pad_token", "mask": "mask_token"}
    names = {}
    for name, key in known.items():
        token = named_token(config, key, tokens)
        if token is None and name == "unknown" and isinstance(model.get(key), str):
            token = tokens.get(model[key])
        if token is not None and token in special:
            names[name] = token
    unknown = tokens.get(model["unk_token"]) if isinstance(model.get("unk_token"), str) else None
    marked = frozenset() if unknown is None else frozenset({unknown})
    return {"names": names, "unknown": marked & special}


def _check_supported(document: _Object, model: _Object, spaced: bool) -> None:
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise UnsupportedError(f"tokenizer model {kind!r:.80} is not supported; Alpage runs BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(
                f"tokenizer option {name} = {model[name]!r:.80} is not supported; Alpage runs "
                "byte-level BPE and SentencePiece-style BPE without it"
            )
    if document.get("normalizer") is not None and not spaced:
        kind = _object(document["normalizer"], "normalizer").get("type")
        raise UnsupportedError(
            f"tokenizer normalizer {kind!r:.80} is not supported; Alpage encodes text as it is"
        )


def _vocabulary(model: _Object) -> dict[str, int]:
    vocab = _object(model.get("vocab"), "model.vocab")
    for text, token in vocab.items():
        if type(token) is not int or not 0 <= token < _MAX_IDS:
            raise FormatError(
                f"token {text!r:.80} has the id {token!r:.80}; ids are integers from 0 to "
                f"{_MAX_IDS - 1}"
            )
    return dict(vocab)


def _merges(model: _Object) -> list[tuple[str, str]]:
    lines = model.get("merges")
    if not isinstance(lines, list):
        raise FormatError(f"model.merges must be an array, not {type(lines).__name__}")
    merges = []
    for index, line in enumerate(lines):
        pair = line.split(" ") if isinstance(line, str) else line
        match pair:
            case [str(left), str(right)]:
                merges.append((left, right))
            case _:
                raise FormatError(f"model.merges[{index}] must be two pieces, not {line!r:.80}")
    return merges


def _added_tokens(
    document: _Object, tokens: dict[str, int]
) -> tuple[frozenset[int], frozenset[int]]:
    """Ids of special tokens and of other added tokens; both are entered into `tokens`."""
    entries = document.get("added_tokens") or []
    if not isinstance(entries, list):
        raise FormatError("added_tokens must be an array")
    special: set[int] = set()
    added: set[int] = set()
    for index, value in enumerate(entries):
        entry = _object(value, f"added_tokens[{index}]")
        text, token = entry.get("content"), entry.get("id")
        if not isinstance(text, str) or not text or type(token) is not int:
            raise FormatError(f"added_tokens[{index}] needs a content and an id, not {value!r:.80}")
        if not 0 <= token < _MAX_IDS or tokens.get(text, token) != token:
            raise FormatError(
                f"added token {text!r:.80} has the id {token!r:.80}, which contradicts the "
                "vocabulary"
            )
        for option in ("lstrip", "rstrip", "single_word"):
            if entry.get(option):
                raise UnsupportedError(
                    f"added token {text!r:.80} sets {option}, which is unsupported"
                )
        if entry.get("normalized") and not entry.get("special") and _respells(document, text):
            raise UnsupportedError(
                f"added token {text!r:.80} is to be found in normalised text, which is unsupported"
            )
        tokens[text] = token
        (special if entry.get("special") else added).add(token)
    return frozenset(special), frozenset(added - special)


def _by_id(tokens: Mapping[str, int]) -> list[str | None]:
    if not tokens:
        raise FormatError("the vocabulary is empty")
    size = max(tokens.values()) + 1
    if size > 2 * len(tokens) + 1024:
        raise FormatError(f"{len(tokens)} tokens use ids up to {size - 1}: far too many gaps")
    pieces: list[str | None] = [None] * size
    for text, token in tokens.items():
        if pieces[token] is not None:
            raise FormatError(f"tokens {pieces[token]!r:.80} and {text!r:.80} share the id {token}")
        pieces[token] = text
    return pieces


def _template_bos(value: Any, tokens: Mapping[str, int]) -> int | None:
    """The special token that the post-processor puts before a single text, if it does."""
    if not isinstance(value, dict):
        return None
    steps = value.get("processors")
    for step in steps if isinstance(steps, list) else [value]:
        match step:
            case {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": str(text)}}, *_],
            }:
                return tokens.get(text)
    return None

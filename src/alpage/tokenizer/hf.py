"""A tokenizer from `tokenizer.json`, the fast-tokenizer file of the Hugging Face layout."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.files import read_bounded
from alpage.tokenizer.gguf import END_TEXTS
from alpage.tokenizer.pretokenize import GPT2_PATTERN, LLAMA3_PATTERN, pre_tokenizer
from alpage.tokenizer.tokenizer import Tokenizer, Vocabulary

_MAX_BYTES = 64 << 20
_MAX_IDS = 1 << 22
_Object = Mapping[str, Any]


def from_tokenizer_json(path: Path) -> Tokenizer:
    """Read a byte-level BPE `tokenizer.json`.

    `tokenizer_config.json` beside it, if any, names the begin and end tokens; without it only a
    begin token that the file's own post-processor adds is known. `FormatError` for a damaged or
    contradictory file, `UnsupportedError` for another kind of tokenizer, a normaliser, or a
    pre-tokenizer that Alpage does not know.
    """
    document = _object(_json(path, _MAX_BYTES), str(path))
    model = _object(document.get("model"), "model")
    _check_supported(document, model)
    rule = pre_tokenizer(_rule_name(document.get("pre_tokenizer")))
    tokens = _vocabulary(model)
    special, added = _added_tokens(document, tokens)
    config = _config(path.with_name("tokenizer_config.json"))
    bos_added = _template_bos(document.get("post_processor"), tokens)
    bos_id = _named(config, "bos_token", tokens)
    eos_id = _named(config, "eos_token", tokens)
    ends = {tokens[text] for text in END_TEXTS if tokens.get(text) in special}
    add_bos = config.get("add_bos_token")
    bos_id = bos_added if bos_id is None else bos_id
    vocabulary = Vocabulary(
        pieces=_by_id(tokens),
        merges=_merges(model),
        special=special,
        added=added,
        bos_id=bos_id,
        eos_id=eos_id,
        add_bos=bos_id is not None
        and (add_bos if isinstance(add_bos, bool) else bos_added is not None),
        stop_ids=frozenset(ends | ({eos_id} if eos_id is not None else set())),
    )
    return Tokenizer(vocabulary, rule, ignore_merges=bool(model.get("ignore_merges")))


def _json(path: Path, limit: int) -> Any:
    try:
        return json.loads(read_bounded(path, limit))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not valid JSON: {error}") from error


def _object(value: Any, where: str) -> _Object:
    if not isinstance(value, dict):
        raise FormatError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


def _check_supported(document: _Object, model: _Object) -> None:
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise UnsupportedError(f"tokenizer model {kind!r} is not supported; Alpage runs BPE")
    for name in ("byte_fallback", "dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise UnsupportedError(
                f"tokenizer option {name} = {model[name]!r} is not supported; Alpage runs "
                "byte-level BPE"
            )
    if document.get("normalizer") is not None:
        kind = _object(document["normalizer"], "normalizer").get("type")
        raise UnsupportedError(
            f"tokenizer normalizer {kind!r} is not supported; Alpage encodes text as it is"
        )


def _rule_name(value: Any) -> str:
    """Name of the pre-tokenizer that the file spells out; `UnsupportedError` for another.

    Patterns are compared, not run: an unknown regular expression could take for ever.
    """
    node = _object(value, "pre_tokenizer")
    steps = node.get("pretokenizers") if node.get("type") == "Sequence" else [node]
    if not isinstance(steps, list):
        raise FormatError("pre_tokenizer.pretokenizers must be an array")
    steps = [_object(step, "pre_tokenizer") for step in steps]
    match steps:
        case [{"type": "ByteLevel", **rest}] if _byte_level(rest, regex=True):
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", **rest}] if (
            _byte_level(rest, regex=True)
        ):
            return "smollm"
        case [{"type": "Split", **split}, {"type": "ByteLevel", **rest}] if _byte_level(
            rest, regex=False
        ) and (split.get("behavior"), split.get("invert", False)) in (
            ("Isolated", False),
            ("Removed", True),
        ):
            pattern = split.get("pattern")
            names = {LLAMA3_PATTERN: "llama-bpe", GPT2_PATTERN: "gpt-2"}
            if isinstance(pattern, dict) and pattern.get("Regex") in names:
                return names[pattern["Regex"]]
    shown = json.dumps(value)
    raise UnsupportedError(
        f"the pre-tokenizer {shown[:300]} is not supported; Alpage knows those of Llama 3, "
        "SmolLM and GPT-2"
    )


def _byte_level(options: Mapping[Any, Any], *, regex: bool) -> bool:
    return not options.get("add_prefix_space", True) and options.get("use_regex", True) is regex


def _vocabulary(model: _Object) -> dict[str, int]:
    vocab = _object(model.get("vocab"), "model.vocab")
    for text, token in vocab.items():
        if type(token) is not int or not 0 <= token < _MAX_IDS:
            raise FormatError(
                f"token {text!r} has the id {token!r}; ids are integers from 0 to {_MAX_IDS - 1}"
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
                raise FormatError(f"model.merges[{index}] must be two pieces, not {line!r}")
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
            raise FormatError(f"added_tokens[{index}] needs a content and an id, not {value!r}")
        if not 0 <= token < _MAX_IDS or tokens.get(text, token) != token:
            raise FormatError(
                f"added token {text!r} has the id {token}, which contradicts the vocabulary"
            )
        for option in ("lstrip", "rstrip", "single_word"):
            if entry.get(option):
                raise UnsupportedError(f"added token {text!r} sets {option}, which is unsupported")
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
            raise FormatError(f"tokens {pieces[token]!r} and {text!r} share the id {token}")
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


def _config(path: Path) -> _Object:
    if not path.is_file():
        return {}
    return _object(_json(path, _MAX_BYTES), str(path))


def _named(config: _Object, key: str, tokens: Mapping[str, int]) -> int | None:
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None:
        return None
    if not isinstance(value, str) or value not in tokens:
        raise FormatError(f"tokenizer_config.json: {key} is {value!r}, which is no token")
    return tokens[value]

"""Which rule a `tokenizer.json` spells out: the normaliser, pre-tokenizer and decoder it lists.

Patterns and steps are compared, not run: an unknown regular expression could take for ever.
"""

import json
from collections.abc import Mapping
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.config import Object, as_object
from alpage.tokenizer.pretokenize import DEFAULT_PATTERNS, GPT2_PATTERN, LLAMA3_PATTERN
from alpage.tokenizer.spaces import SPACE, Prefix, Scope, SpaceRule

_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_RESTORE = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}


def is_spaced(document: Object, model: Object) -> bool:
    """Whether this is SentencePiece-style: byte fallback, or spaces spelled as U+2581."""
    steps = [
        *_steps(document, "pre_tokenizer", "pretokenizers"),
        *_steps(document, "normalizer", "normalizers"),
    ]
    return bool(model.get("byte_fallback")) or any(
        step.get("type") == "Metaspace" or step == _REPLACE for step in steps
    )


def byte_level_rule(document: Object) -> str:
    """Name of the pre-tokenizer of byte-level BPE; `UnsupportedError` for an unknown one."""
    as_object(document.get("pre_tokenizer"), "pre_tokenizer")
    steps = _steps(document, "pre_tokenizer", "pretokenizers")
    match steps:
        case [{"type": "ByteLevel", **rest}] if _byte_level(rest, regex=True):
            return "gpt-2"
        case [{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", **rest}] if (
            _byte_level(rest, regex=True)
        ):
            return "smollm"
        case [*splits, {"type": "ByteLevel", **rest}] if _byte_level(rest, regex=False):
            names: dict[tuple[str | None, ...], str] = {
                (LLAMA3_PATTERN,): "llama-bpe",
                (GPT2_PATTERN,): "gpt-2",
                DEFAULT_PATTERNS: "default",
            }
            patterns = tuple(map(_pattern, splits))
            alone = len(splits) == 1 or all(s["behavior"] == "Isolated" for s in splits)
            if patterns in names and alone:
                return names[patterns]
    shown = json.dumps(document.get("pre_tokenizer"))
    raise UnsupportedError(
        f"the pre-tokenizer {shown[:300]} is not supported; Alpage knows those of Llama 3, "
        "SmolLM, GPT-2 and llama.cpp's default"
    )


def space_rule(document: Object) -> SpaceRule:
    """What a SentencePiece-style file does with spaces; `UnsupportedError` for an unknown way."""
    normalizers = _steps(document, "normalizer", "normalizers")
    splitters = _steps(document, "pre_tokenizer", "pretokenizers")
    strip = _strips(document)
    match normalizers, splitters:
        case [{"type": "Prepend", "prepend": "\u2581"}, replace], [] if replace == _REPLACE:
            return SpaceRule(Prefix.ALWAYS, Scope.PARTS, strip=strip)
        case [replace], [] if replace == _REPLACE:
            return SpaceRule(Prefix.NEVER, Scope.PARTS, strip=strip)
        case [], [{"type": "Metaspace", "replacement": "\u2581", **rest}]:
            scheme = rest.get("prepend_scheme")
            if scheme is None:  # older files have only a flag
                scheme = "always" if rest.get("add_prefix_space", True) else "never"
            scopes = {"always": Scope.PARTS, "first": Scope.START, "never": Scope.PARTS}
            if isinstance(scheme, str) and scheme in scopes:
                prefix = Prefix.NEVER if scheme == "never" else Prefix.MISSING
                split = rest.get("split", True) is not False
                return SpaceRule(prefix, scopes[scheme], strip=strip, split=split)
    shown = json.dumps([document.get("normalizer"), document.get("pre_tokenizer")])
    raise UnsupportedError(
        f"the normalizer and pre_tokenizer {shown[:300]} are not supported; of SentencePiece-style "
        "files Alpage knows Prepend and Replace with U+2581, and Metaspace"
    )


def _strips(document: Object) -> bool:
    """Whether the decoder leaves out one space in front."""
    steps = _steps(document, "decoder", "decoders")
    fallback = {"type": "ByteFallback"}
    match steps:
        case [restore, second, {"type": "Fuse"}] if (restore, second) == (_RESTORE, fallback):
            return False
        case [restore, second, {"type": "Fuse"}, strip] if (restore, second, strip) == (
            _RESTORE,
            fallback,
            _STRIP,
        ):
            return True
        case [{"type": "Metaspace", "replacement": "\u2581", **rest}]:
            scheme = rest.get("prepend_scheme")
            return (
                scheme != "never"
                if scheme is not None
                else bool(rest.get("add_prefix_space", True))
            )
    shown = json.dumps(document.get("decoder"))
    raise UnsupportedError(
        f"the decoder {shown[:300]} is not supported; of SentencePiece-style files Alpage knows "
        "Replace, ByteFallback, Fuse and Strip, and Metaspace"
    )


def _steps(document: Object, key: str, inner: str) -> list[Object]:
    """The steps of a component: those of a Sequence, itself, or none where it is null."""
    value = document.get(key)
    if value is None:
        return []
    node = as_object(value, key)
    steps = node.get(inner) if node.get("type") == "Sequence" else [node]
    if not isinstance(steps, list):
        raise FormatError(f"{key}.{inner} must be an array")
    return [as_object(step, key) for step in steps]


def _pattern(step: Object) -> str | None:
    """The expression whose matches a Split step isolates."""
    ways = (("Isolated", False), ("Removed", True))
    if step.get("type") != "Split" or (step.get("behavior"), step.get("invert", False)) not in ways:
        return None
    pattern = step.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    return regex if isinstance(regex, str) else None


def _byte_level(options: Mapping[Any, Any], *, regex: bool) -> bool:
    return not options.get("add_prefix_space", True) and options.get("use_regex", True) is regex

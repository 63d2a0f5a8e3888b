"""Where text is cut before byte-pair merging: the four rules that models of the family use.

The names are those of the GGUF key `tokenizer.ggml.pre`.
"""

import re
from dataclasses import dataclass

from tokenizers import Regex, pre_tokenizers

from alpage.core.errors import UnsupportedError

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's split (Meta's `tokenizer.py`, and `tokenizer.json` of the Hugging Face layout)."""

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's split; `ByteLevel(use_regex=True)` applies the same one."""

DEFAULT_PATTERNS = (r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", r"[0-9][0-9][0-9]")
"""llama.cpp's rule for files that name none: each pattern cuts what the one before left."""

_LETTER = r"A-Za-z\u0400-\u0481\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
_END_OF_WORD = rf"[{_LETTER}](?=[\s0-9.,;:!?()\"\u3001\u3002\uff01\uff0c\uff1f])"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """A splitting rule.

    `ignore_merges`: a split that is itself in the vocabulary is one token, whatever the merges
    say. `cut` matches just before places where every text is split: cutting a long text there
    and encoding the parts gives the same tokens in a fraction of the memory.
    """

    name: str
    splitter: pre_tokenizers.PreTokenizer
    ignore_merges: bool
    cut: re.Pattern[str]


def _byte_level(use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _split(*patterns: str) -> pre_tokenizers.PreTokenizer:
    parts: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns
    ]
    return pre_tokenizers.Sequence([*parts, _byte_level(use_regex=False)])


def _llama3() -> pre_tokenizers.PreTokenizer:
    return _split(LLAMA3_PATTERN)


def _smollm() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, _byte_level(use_regex=True)])


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return _byte_level(use_regex=True)


def _default() -> pre_tokenizers.PreTokenizer:
    return _split(*DEFAULT_PATTERNS)


_RULES = {"llama-bpe": _llama3, "smollm": _smollm, "gpt-2": _gpt2, "default": _default}

KNOWN = tuple(_RULES)
"""Names of the rules that Alpage applies."""


def pre_tokenizer(name: str) -> PreTokenizer:
    """Build the rule called `name`; `UnsupportedError` for any but the four in `KNOWN`."""
    if name not in _RULES:
        raise UnsupportedError(
            f"pre-tokenizer {name!r:.80} is not supported; Alpage knows {', '.join(KNOWN)}"
        )
    # With smollm every digit stands alone, so a long number may be cut anywhere.
    cut = _END_OF_WORD + "|[0-9]" if name == "smollm" else _END_OF_WORD
    return PreTokenizer(name, _RULES[name](), name == "llama-bpe", re.compile(cut))

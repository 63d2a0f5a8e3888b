"""A tokenizer from the metadata of a GGUF file (keys `tokenizer.ggml.*`)."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from itertools import repeat
from typing import Any

from alpage.core.errors import FormatError, UnsupportedError
from alpage.tokenizer.bytelevel import bytes_of
from alpage.tokenizer.pretokenize import pre_tokenizer
from alpage.tokenizer.spaces import Prefix, Scope, SpaceRule
from alpage.tokenizer.tokenizer import Tokenizer
from alpage.tokenizer.vocabulary import MergeLines, Vocabulary

_PREFIX = "tokenizer.ggml."
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_RAW_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")

END_TEXTS = frozenset(
    ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
     "<|end_of_text|>", "<EOT>")
)  # fmt: skip
"""Tokens that end an answer by convention, also in files that forget to say so."""


NAMES = ("eot", "eom", "unknown", "padding", "seperator", "mask")
"""Ids that a file may name as `tokenizer.ggml.<name>_token_id`, besides bos and eos."""

SPACES_KEY = "alpage.tokenizer.spaces"
"""How spaces are settled, where it is not as llama.cpp does: prefix, scope and further words."""


def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that a GGUF file describes.

    `metadata` maps GGUF keys to Python values (lists or numpy arrays for arrays). The value of
    `tokenizer.ggml.model` is "gpt2" (byte-level BPE with a known `tokenizer.ggml.pre`) or "llama"
    (SentencePiece-style): `UnsupportedError` otherwise. `FormatError` for a missing, mistyped or
    contradictory entry.
    """
    model = _get(metadata, "model", str)
    if model is None:
        raise FormatError("the file has no tokenizer: the key tokenizer.ggml.model is missing")
    if model not in ("gpt2", "llama"):
        raise UnsupportedError(
            f"tokenizer model {model!r:.80} is not supported; Alpage runs byte-level BPE ('gpt2') "
            "and SentencePiece-style BPE ('llama')"
        )
    scored = model == "llama"
    rule = _spaces(metadata) if scored else pre_tokenizer(_get(metadata, "pre", str) or "default")
    if not scored and _get(metadata, "add_space_prefix", bool):
        raise UnsupportedError(
            "tokenizer.ggml.add_space_prefix is true; Alpage adds no space to byte-level BPE"
        )
    pieces: list[str | None] = _list(metadata, "tokens", str)
    if not pieces:
        raise FormatError("the vocabulary is empty: tokenizer.ggml.tokens has no entry")
    named = {key: _token_id(metadata, key, len(pieces)) for key in ("bos", "eos", *NAMES)}
    kinds = _kinds(metadata, pieces, named, scored)
    if scored:
        # What llama.cpp assumes of such a file where it does not say.
        for key, assumed in (("unknown", 0), ("bos", 1), ("eos", 2)):
            if named[key] is None and assumed in kinds["special"]:
                named[key] = assumed
    ignore_merges = not isinstance(rule, SpaceRule) and rule.ignore_merges
    vocabulary = Vocabulary(
        pieces=pieces,
        merges=[] if scored else _merges(metadata),
        scores=_scores(metadata, len(pieces)) if scored else None,
        bos_id=named["bos"],
        eos_id=named["eos"],
        add_bos=_add_bos(metadata, named["bos"], scored or ignore_merges),
        stop_ids=frozenset(
            [t for key in ("eos", "eot", "eom") if (t := named[key]) is not None]
            + [token for token in kinds["special"] if pieces[token] in END_TEXTS]
        ),
        names={key: token for key in NAMES if (token := named[key]) is not None},
        **kinds,
    )
    return Tokenizer(vocabulary, rule, ignore_merges)


def _spaces(metadata: Mapping[str, Any]) -> SpaceRule:
    """What llama.cpp does with spaces, unless the file was written by Alpage for another rule."""
    prefix = _get(metadata, "add_space_prefix", bool) is not False
    collapse = bool(_get(metadata, "remove_extra_whitespaces", bool))
    if _get(metadata, "precompiled_charsmap", object) is not None:
        raise UnsupportedError(
            "tokenizer.ggml.precompiled_charsmap asks for a normalisation of the text; Alpage runs "
            "SentencePiece vocabularies without one"
        )
    written = metadata.get(SPACES_KEY)
    if written is not None:
        return read_rule(written)
    return SpaceRule(
        Prefix.ALWAYS if prefix else Prefix.NEVER,
        Scope.TEXTS if collapse else Scope.PARTS,
        strip=prefix or collapse,
        collapse=collapse,
    )


def write_rule(rule: SpaceRule) -> str:
    """A rule as the value of `SPACES_KEY`."""
    flags = [name for name in ("strip", "split", "collapse") if getattr(rule, name)]
    return " ".join([rule.prefix, rule.scope, *flags])


def read_rule(value: Any) -> SpaceRule:
    """The rule that `write_rule` wrote; `FormatError` for anything else."""
    words = value.split(" ") if isinstance(value, str) else []
    for prefix in Prefix:
        for scope in Scope:
            if words[:2] == [prefix, scope] and {"strip", "split", "collapse"} >= set(words[2:]):
                return SpaceRule(
                    prefix, scope, *(n in words for n in ("strip", "split", "collapse"))
                )
    raise FormatError(
        f"{SPACES_KEY} must be a prefix ({', '.join(Prefix)}), a scope ({', '.join(Scope)}) and "
        f"any of strip, split, collapse, not {value!r:.80}"
    )


def _scores(metadata: Mapping[str, Any], size: int) -> list[float]:
    scores: list[float] = _list(metadata, "scores", float)
    if len(scores) != size:
        raise FormatError(f"the vocabulary contradicts itself: {size} tokens, {len(scores)} scores")
    if not all(map(math.isfinite, scores)):
        index = next(i for i, score in enumerate(scores) if not math.isfinite(score))
        raise FormatError(f"{_PREFIX}scores[{index}] must be a finite number, not {scores[index]}")
    return scores


def _get(metadata: Mapping[str, Any], name: str, kind: type) -> Any:
    """Value of `tokenizer.ggml.<name>`, None where absent, `FormatError` for another type."""
    value = metadata.get(_PREFIX + name)
    if value is not None and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    # bool is an int in Python, but not in a file.
    if value is not None and (not isinstance(value, kind) or (kind is int and value is True)):
        raise FormatError(
            f"{_PREFIX}{name} must be of type {kind.__name__}, not {type(value).__name__}"
        )
    return value


def _list(metadata: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    value = metadata.get(_PREFIX + name)
    if value is None:
        raise FormatError(f"the file's tokenizer is incomplete: {_PREFIX}{name} is missing")
    values = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(values, list | tuple):
        raise FormatError(f"{_PREFIX}{name} must be an array, not {type(value).__name__}")
    for found in set(map(type, values)) - {kind}:
        index = next(i for i, entry in enumerate(values) if type(entry) is found)
        raise FormatError(
            f"{_PREFIX}{name}[{index}] must be of type {kind.__name__}, not {found.__name__}"
        )
    return list(values)


def _token_id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    token: int | None = _get(metadata, f"{name}_token_id", int)
    if token in (-1, 0xFFFFFFFF):  # written by some converters for "none"
        return None
    if token is not None and not 0 <= token < size:
        raise FormatError(
            f"{_PREFIX}{name}_token_id is {token}, outside the vocabulary of {size} tokens"
        )
    return token


def _merges(metadata: Mapping[str, Any]) -> MergeLines:
    lines: list[str] = _list(metadata, "merges", str)
    # One space in each: as many as lines, and no line without.
    spaces = "".join(lines).count(" ")
    if spaces != len(lines) or not all(map(str.__contains__, lines, repeat(" "))):
        index = next(i for i, line in enumerate(lines) if line.count(" ") != 1)
        raise FormatError(
            f"{_PREFIX}merges[{index}] must be two pieces with a space between, not "
            f"{lines[index]!r:.80}"
        )
    merges = MergeLines(lines)
    if len(merges) != len(lines):
        twice, _ = Counter(lines).most_common(1)[0]
        raise FormatError(f"{_PREFIX}merges lists {twice!r:.80} twice")
    return merges


def _add_bos(metadata: Mapping[str, Any], bos_id: int | None, default: bool) -> bool:
    """The file's word, or what llama.cpp assumes where the file says nothing."""
    said = _get(metadata, "add_bos_token", bool)
    if said and bos_id is None:
        raise FormatError(
            "tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing"
        )
    return bos_id is not None and (default if said is None else bool(said))


def _kinds(
    metadata: Mapping[str, Any],
    pieces: list[str | None],
    named: Mapping[str, int | None],
    scored: bool,
) -> dict[str, Any]:
    """The fields of `Vocabulary` that follow from the types of the tokens."""
    if metadata.get(_PREFIX + "token_type") is None and not scored:
        # Without types, the named ids and the customary end tokens are all that is known.
        special = {token for token in named.values() if token is not None}
        return {"special": frozenset(special) | _ends(pieces)}
    types: list[int] = _list(metadata, "token_type", int)
    if len(types) != len(pieces):
        raise FormatError(
            f"the vocabulary contradicts itself: {len(pieces)} tokens, {len(types)} token types"
        )
    found: dict[int, set[int]] = {kind: set() for kind in range(_NORMAL, _BYTE + 1)}
    for token in [token for token, kind in enumerate(types) if kind != _NORMAL]:
        kind = types[token]
        if kind not in found:
            raise FormatError(f"{_PREFIX}token_type[{token}] must be 1 to 6, not {kind}")
        found[kind].add(token)
    # Some converters write end tokens as ordinary ones; llama.cpp corrects that too.
    ends = _ends(pieces) - found[_BYTE]
    return {
        "special": frozenset(found[_UNKNOWN] | found[_CONTROL] | ends),
        "added": frozenset(found[_USER_DEFINED] - ends),
        "raw_bytes": {
            token: raw_byte(token, pieces[token] or "", scored) for token in sorted(found[_BYTE])
        },
        "unknown": frozenset(found[_UNKNOWN]),
        "unused": frozenset(found[_UNUSED] - ends),
    }


def _ends(pieces: list[str | None]) -> frozenset[int]:
    return frozenset(map(pieces.index, END_TEXTS.intersection(pieces)))


def raw_byte(token: int, piece: str, named: bool) -> bytes:
    """The byte of a byte token: by its name (`<0x0A>`) or, unless `named`, spelled byte-level."""
    found = _RAW_BYTE.fullmatch(piece)
    data = bytes.fromhex(found[1]) if found else b"" if named else bytes_of(piece)
    if len(data) != 1:
        raise FormatError(f"token {token} {piece!r:.80} is marked as a byte, but spells none")
    return data

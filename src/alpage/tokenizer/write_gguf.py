"""The metadata of a GGUF file (`tokenizer.ggml.*`) from any tokenizer."""

import dataclasses
from typing import Any

from alpage.core.errors import UnsupportedError
from alpage.tokenizer.gguf import SPACES_KEY, write_rule
from alpage.tokenizer.pieces import PieceCore
from alpage.tokenizer.spaces import Prefix, Scope, SpaceRule
from alpage.tokenizer.tokenizer import Tokenizer

Metadata = dict[str, tuple[tuple[int, ...], Any]]

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)


def to_gguf_metadata(tokenizer: Tokenizer) -> Metadata:
    """Key to (value kinds, value), as GGUF numbers them; without the chat template.

    `from_gguf` makes an equal tokenizer of it. So does llama.cpp, unless the rule for spaces is
    one that it does not have: then Alpage's own key `alpage.tokenizer.spaces` is written as well,
    and `add_space_prefix` is the nearest that there is (`gguf_difference` says how they differ).
    `UnsupportedError` where merges cannot be expressed as scores.
    """
    vocabulary, rule = tokenizer.vocabulary, tokenizer.rule
    spaced = isinstance(rule, SpaceRule)
    found: Metadata = {}

    def put(name: str, kinds: tuple[int, ...], value: Any) -> None:
        found[f"tokenizer.ggml.{name}"] = kinds, value

    put("model", (_STRING,), "llama" if spaced else "gpt2")
    put("pre", (_STRING,), "default" if isinstance(rule, SpaceRule) else rule.name)
    put("tokens", (_ARRAY, _STRING), texts_of(tokenizer))
    if isinstance(rule, SpaceRule):
        put("scores", (_ARRAY, _FLOAT32), scores_of(tokenizer))
    put("token_type", (_ARRAY, _INT32), token_types(tokenizer))
    if isinstance(rule, SpaceRule):
        found.update(_space_keys(tokenizer, rule))
    else:
        _check_byte_level(tokenizer)
        put("merges", (_ARRAY, _STRING), list(map(" ".join, vocabulary.merges)))
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, **vocabulary.names}
    for name, token in named.items():
        if token is not None:
            put(f"{name}_token_id", (_UINT32,), token)
    put("add_bos_token", (_BOOL,), tokenizer.add_bos)
    return found


def gguf_difference(tokenizer: Tokenizer) -> str | None:
    """How other readers of the GGUF metadata differ from this tokenizer; None if they agree."""
    if not isinstance(tokenizer.rule, SpaceRule) or simple_rule(tokenizer) is not None:
        return None
    return (
        "programs other than Alpage put spaces elsewhere than this tokenizer does (its rule: "
        f"{write_rule(tokenizer.rule)}; GGUF knows only one in front of every part, or none)"
    )


def token_types(tokenizer: Tokenizer) -> list[int]:
    """The kind of each token, numbered as GGUF and SentencePiece do."""
    vocabulary = tokenizer.vocabulary
    types = [_NORMAL if piece is not None else _UNUSED for piece in vocabulary.pieces]
    for kind, tokens in (
        (_UNUSED, vocabulary.unused),
        (_CONTROL, vocabulary.special),
        (_UNKNOWN, vocabulary.unknown),
        (_USER_DEFINED, vocabulary.added),
        (_BYTE, vocabulary.raw_bytes),
    ):
        for token in tokens:
            types[token] = kind
    return types


def simple_rule(tokenizer: Tokenizer) -> SpaceRule | None:
    """The rule in llama.cpp's terms (a space in front of every part, or none), if it is one."""
    rule = tokenizer.rule
    if not isinstance(rule, SpaceRule) or rule.split or rule.collapse:
        return None
    core = tokenizer.core
    replaced = isinstance(core, PieceCore) and core.replaced
    # Without added tokens, a part is a text.
    if rule.scope is Scope.TEXTS and (tokenizer.vocabulary.added or replaced):
        return None
    if rule.prefix is Prefix.NEVER:
        return SpaceRule(Prefix.NEVER, Scope.PARTS, strip=rule.strip)
    if rule.prefix is Prefix.ALWAYS and rule.scope is not Scope.START:
        return SpaceRule(Prefix.ALWAYS, Scope.PARTS, strip=rule.strip)
    return None


def texts_of(tokenizer: Tokenizer) -> list[str]:
    """Texts by id; ids without a token get a text that nothing else has."""
    known = set(tokenizer.vocabulary.pieces)
    texts = []
    for token, piece in enumerate(tokenizer.vocabulary.pieces):
        text = f"[PAD{token}]" if piece is None else piece
        while piece is None and text in known:
            text = f"[{text}]"
        texts.append(text)
    return texts


def _check_byte_level(tokenizer: Tokenizer) -> None:
    rule = tokenizer.rule
    if not isinstance(rule, SpaceRule) and tokenizer.ignore_merges != rule.ignore_merges:
        raise UnsupportedError(
            f"GGUF ties ignore_merges to the pre-tokenizer: with {rule.name!r} it is "
            f"{rule.ignore_merges}, but this tokenizer has {tokenizer.ignore_merges}"
        )


def scores_of(tokenizer: Tokenizer) -> list[float]:
    """The file's scores, or those that say what ranked merges say.

    As SentencePiece numbers them: 0, -1, -2, ... for the pieces in the order in which merges
    first build them, then for the rest; 0 for tokens that merging does not know.
    """
    vocabulary = tokenizer.vocabulary
    if vocabulary.scores is not None:
        return list(vocabulary.scores)
    if tokenizer.ignore_merges:
        raise UnsupportedError("scores cannot say that a text in the vocabulary is not merged")
    ordinary = vocabulary.ordinary()
    for piece in vocabulary.texts(vocabulary.added):
        ordinary.pop(piece, None)
    built = dict.fromkeys(map("".join, vocabulary.merges))
    order = dict.fromkeys((*built, *ordinary))
    rank = {piece: index for index, piece in enumerate(order) if piece in ordinary}
    scores = [0.0] * len(vocabulary.pieces)
    for piece, token in ordinary.items():
        scores[token] = -float(rank[piece])
    _check_scores(tokenizer, list(built), scores)
    return scores


def _check_scores(tokenizer: Tokenizer, built: list[str], scores: list[float]) -> None:
    """Ranked merges equal scores if pieces come one after the other, each with its last pair.

    Then a piece is built here from the pair that scores would build it from, and by induction
    everything is. (With equal order, only missing pairs can make a difference.)
    """
    merges = tokenizer.vocabulary.merges
    at = {piece: index for index, piece in enumerate(built)}
    order = [at[left + right] for left, right in merges]
    if order != sorted(order):
        raise UnsupportedError(
            "merges cannot be expressed as scores: those of one piece are not together"
        )
    rule = SpaceRule(Prefix.NEVER, Scope.PARTS, strip=False)
    by_score = PieceCore(
        dataclasses.replace(tokenizer.vocabulary, merges=[], scores=scores),
        rule,
        ignore_merges=False,
    )
    by_merges = PieceCore(tokenizer.vocabulary, rule, ignore_merges=False)
    for piece in tokenizer.vocabulary.ordinary():
        one: list[int] = []
        other: list[int] = []
        by_score.encode_normal(piece, one)
        by_merges.encode_normal(piece, other)
        if one != other:
            raise UnsupportedError(
                f"merges cannot be expressed as scores: {piece!r} would become {one}, not {other}"
            )


def _space_keys(tokenizer: Tokenizer, rule: SpaceRule) -> Metadata:
    simple = simple_rule(tokenizer)
    prefix = rule.prefix is not Prefix.NEVER
    keys: Metadata = {"tokenizer.ggml.add_space_prefix": ((_BOOL,), prefix)}
    if rule.collapse:
        keys["tokenizer.ggml.remove_extra_whitespaces"] = (_BOOL,), True
    if simple is None or simple.strip != prefix:
        keys[SPACES_KEY] = (_STRING,), write_rule(rule)
    return keys

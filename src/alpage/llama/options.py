"""Keyword arguments of a request to checked sampling parameters and the grammar of its answer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from alpage.core.errors import UsageError
from alpage.core.types import ContextPolicy, SamplingParams

if TYPE_CHECKING:
    from alpage.engine.grammar import Grammar


class SamplingOptions(TypedDict, total=False):
    """The fields of `SamplingParams`, all optional."""

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: Mapping[int, float]
    seed: int | None
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    top_logprobs: int | None
    context_policy: ContextPolicy


class AnswerOptions(SamplingOptions, total=False):
    """The same, and at most one grammar that the answer has to follow.

    `adapter`: the name of one that `Llama.load_adapter` loaded. `timeout`: seconds after which the
    answer ends with the reason "deadline". `json_schema`: a JSON Schema as a dictionary or as JSON.
    `regex` matches the whole answer. `grammar`: one in Lark's notation.
    """

    adapter: str | None
    timeout: float | None
    json_schema: Mapping[str, Any] | bool | str | None
    regex: str | None
    grammar: str | None


_GRAMMARS = ("json_schema", "regex", "grammar")
_OTHERS = frozenset({*_GRAMMARS, "adapter", "timeout"})

DEFAULTS: Mapping[str, Any] = {"temperature": 0.6, "top_p": 0.9}
"""Where the caller says nothing: the values of Meta's own Llama 3 code (llama/generation.py)."""


def sampling_params(options: Mapping[str, Any]) -> SamplingParams:
    """Parameters from `options` over `DEFAULTS`; UsageError for what is unknown or out of range."""
    known = AnswerOptions.__annotations__
    for name in options:
        if name not in known:
            import difflib  # for a mistake only

            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown option {name!r}{hint} Known: {', '.join(known)}")
    chosen = {name: value for name, value in options.items() if name not in _OTHERS}
    try:
        return SamplingParams(**{**DEFAULTS, **chosen})
    except TypeError as error:  # a string where a number belongs
        raise UsageError(f"a sampling option has the wrong type: {error}") from error


def grammar_of(options: Mapping[str, Any]) -> "Grammar | None":
    """The grammar that `options` ask for; UsageError for two, and for what is none."""
    given = [name for name in _GRAMMARS if options.get(name) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise UsageError(f"an answer follows one grammar: give {' or '.join(given)}")
    from alpage.engine.grammar import Grammar  # loads llguidance, which few answers need

    value = options[given[0]]
    if given[0] == "json_schema":
        return Grammar.json_schema(value)
    return Grammar.regex(value) if given[0] == "regex" else Grammar.lark(value)

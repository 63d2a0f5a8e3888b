"""Keyword arguments of a request to checked sampling parameters."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from alpage.core.errors import UsageError
from alpage.core.types import ContextPolicy, SamplingParams


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


DEFAULTS: Mapping[str, Any] = {"temperature": 0.6, "top_p": 0.9}
"""Where the caller says nothing: the values of Meta's own Llama 3 code (llama/generation.py)."""


def sampling_params(options: Mapping[str, Any]) -> SamplingParams:
    """Parameters from `options` over `DEFAULTS`; UsageError for what is unknown or out of range."""
    known = SamplingOptions.__annotations__
    for name in options:
        if name not in known:
            import difflib  # for a mistake only

            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown option {name!r}{hint} Known: {', '.join(known)}")
    try:
        return SamplingParams(**{**DEFAULTS, **options})
    except TypeError as error:  # a string where a number belongs
        raise UsageError(f"a sampling option has the wrong type: {error}") from error

"""The vocabulary of a request: messages, sampling parameters, usage and why an answer ended."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from alpage.core.errors import UsageError

Message = Mapping[str, Any]
"""One chat message in OpenAI's form: `role`, `content`, and `tool_calls`, `name` where used."""

FinishReason = Literal["stop", "length", "context", "cancelled", "deadline"]
"""stop: a stop id or stop string. length: `max_tokens` reached. context: no room left.
deadline: the time that the request was given is over."""

ContextPolicy = Literal["stop", "shift"]
"""What happens when the context is full: end the answer, or drop the oldest tokens and go on."""

KvType = Literal["bf16", "int8"]
"""Numbers of the key/value cache. int8: with one scale for each token, layer and head."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. Token ids only: stop strings belong to the text layer.

    Order of operation: logit bias, then repetition (prompt and answer), presence and frequency
    penalties (answer only), temperature, then top-k, top-p and min-p on the result. `temperature`
    0 takes the largest logit. With a `seed` the same request gives the same tokens in every run
    and in any company; without one a random seed is drawn.
    """

    max_tokens: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    top_logprobs: int | None = None
    context_policy: ContextPolicy = "stop"

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}")
        _check_range("temperature", self.temperature, 0, 100)
        _check_range("top_p", self.top_p, 0, 1)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _check_range("presence_penalty", self.presence_penalty, -100, 100)
        _check_range("frequency_penalty", self.frequency_penalty, -100, 100)
        if not 0 <= self.top_k < 1 << 31:
            raise UsageError(f"top_k must be 0 (off) or at most 2^31 - 1, not {self.top_k}")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= 100:
            raise UsageError(f"top_logprobs must be between 0 and 100, not {self.top_logprobs}")
        if self.seed is not None and not 0 <= self.seed < 1 << 64:
            raise UsageError(f"seed must be between 0 and 2^64 - 1, not {self.seed}")
        if self.context_policy not in ("stop", "shift"):
            raise UsageError(f"context_policy is 'stop' or 'shift', not {self.context_policy!r}")
        for token, bias in self.logit_bias.items():
            if token < 0 or math.isnan(bias):
                raise UsageError(f"logit_bias maps token ids to numbers, not {token} to {bias}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise UsageError(f"{name} must be between {low:g} and {high:g}, not {value}")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; times in seconds, measured where the engine runs.

    `cached_tokens` of the prompt did not run: an earlier request of the same tenant had begun with
    the same tokens. Of `drafted_tokens`, guesses at the answer that ran along, `accepted_tokens`
    were right.
    """

    prompt_tokens: int
    completion_tokens: int
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens

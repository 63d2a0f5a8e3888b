"""What an answer cost: for people in words, for programs in numbers."""

import time
from dataclasses import dataclass, field
from typing import Any

from alpage.core.types import Usage


@dataclass(slots=True)
class Stopwatch:
    """Time from a request to the first token that it gave, in seconds."""

    began: float = field(default_factory=time.perf_counter)
    first_token: float | None = None

    def token(self) -> None:
        """A token has come; the first one counts."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self.began


@dataclass(frozen=True, slots=True)
class Stats:
    """One answer. Seconds; `load_seconds` is None where the model was loaded before."""

    usage: Usage
    first_token: float | None
    load_seconds: float | None = None

    @property
    def prefill_rate(self) -> float | None:
        """Tokens of the prompt that ran, a second: not those found in the cache."""
        ran = self.usage.prompt_tokens - self.usage.cached_tokens
        return _rate(ran, self.usage.prefill_seconds)

    @property
    def decode_rate(self) -> float | None:
        """Tokens of the answer a second, after the first, which the prompt's run gives."""
        return _rate(self.usage.completion_tokens - 1, self.usage.decode_seconds)

    def numbers(self) -> dict[str, Any]:
        """For JSON: `usage` in OpenAI's names and some more, and `timings`."""
        return {
            "usage": {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
                "total_tokens": self.usage.total_tokens,
                "cached_tokens": self.usage.cached_tokens,
                "drafted_tokens": self.usage.drafted_tokens,
                "accepted_tokens": self.usage.accepted_tokens,
            },
            "timings": {
                "load_seconds": self.load_seconds,
                "first_token_seconds": self.first_token,
                "prefill_seconds": self.usage.prefill_seconds,
                "decode_seconds": self.usage.decode_seconds,
                "prefill_tokens_per_second": self.prefill_rate,
                "decode_tokens_per_second": self.decode_rate,
            },
        }

    def lines(self) -> list[str]:
        """For a person."""
        usage = self.usage
        lines = [
            f"prompt       {_tokens(usage.prompt_tokens)}{_at(self.prefill_rate)}",
            f"answer       {_tokens(usage.completion_tokens)}{_at(self.decode_rate)}",
        ]
        if usage.cached_tokens:
            lines.append(f"cached       {_tokens(usage.cached_tokens)} of the prompt")
        if usage.drafted_tokens:
            right = f"{usage.accepted_tokens} of {_tokens(usage.drafted_tokens)}"
            lines.append(f"guessed      {right} right")
        if self.first_token is not None:
            lines.append(f"first token  after {self.first_token:.2f} s")
        if self.load_seconds is not None:
            lines.append(f"model        loaded in {self.load_seconds:.2f} s")
        return lines


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if count > 0 and seconds > 0 else None


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def _at(rate: float | None) -> str:
    return "" if rate is None else f", {rate:,.0f} a second"

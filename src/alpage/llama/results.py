"""What a text request gives back, whole and in pieces."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alpage.chat import ToolCall
from alpage.core.types import FinishReason, Usage


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token, its bytes, its natural log-probability, and the most likely ones at its place.

    `logprob` is None for the first token of a prompt, which nothing predicts.
    """

    id: int
    data: bytes
    logprob: float | None
    top: tuple["TokenLogprob", ...] = ()

    @property
    def text(self) -> str:
        """The bytes as text; half a character becomes U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step adds to an answer. `text` may be empty while more is awaited.

    The last piece alone has `finish_reason` and `usage`, and `stop`: the stop string that was
    found. `logprobs` is None unless asked for; then it has one entry for each of `tokens`. A
    scored prompt comes in the first piece, as `prompt_logprobs`.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    stop: str | None = None

    def then(self, more: "Piece") -> "Piece":
        """One piece out of two that follow one another in an answer."""
        return Piece(
            self.text + more.text,
            self.tokens + more.tokens,
            _chained((self.logprobs, more.logprobs)),
            self.tool_calls + more.tool_calls,
            _chained((self.prompt_logprobs, more.prompt_logprobs)),
            more.finish_reason,
            more.usage,
            more.stop,
        )


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer. `tool_calls` are cut out of `text`; `tokens` are all that were sampled."""

    text: str
    finish_reason: FinishReason
    usage: Usage
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    stop: str | None = None

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, ready to be appended to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.parsed)},
                }
                for call in self.tool_calls
            ]
        return message


@dataclass(frozen=True, slots=True)
class TextScore:
    """How likely a text is, token by token."""

    tokens: tuple[TokenLogprob, ...]

    @property
    def total(self) -> float:
        """Sum of the log-probabilities: the natural log of the text's probability."""
        return math.fsum(token.logprob for token in self.tokens if token.logprob is not None)

    @property
    def perplexity(self) -> float:
        """The exponential of the mean negative log-probability; NaN for a single token."""
        count = sum(token.logprob is not None for token in self.tokens)
        return math.exp(-self.total / count) if count else math.nan


def joined(pieces: Sequence[Piece], otherwise: Piece) -> Completion:
    """The completion that `pieces` add up to; `otherwise` stands in for a last piece."""
    last = next((piece for piece in pieces if piece.finish_reason), otherwise)
    assert last.finish_reason is not None and last.usage is not None
    return Completion(
        text="".join(piece.text for piece in pieces),
        finish_reason=last.finish_reason,
        usage=last.usage,
        tokens=tuple(token for piece in pieces for token in piece.tokens),
        logprobs=_chained(piece.logprobs for piece in pieces),
        tool_calls=tuple(call for piece in pieces for call in piece.tool_calls),
        prompt_logprobs=_chained(piece.prompt_logprobs for piece in pieces),
        stop=last.stop,
    )


def _chained(
    parts: Iterable[tuple[TokenLogprob, ...] | None],
) -> tuple[TokenLogprob, ...] | None:
    given = [part for part in parts if part is not None]
    return tuple(entry for part in given for entry in part) if given else None

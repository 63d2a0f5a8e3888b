"""What chats and completions answer alike."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from alpage.core.types import FinishReason
from alpage.llama import Piece, TokenLogprob
from alpage.server.backends.protocol import ServedModel
from alpage.server.call import Tally
from alpage.server.events import compact

FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "context": "length",
    "deadline": "length",
}
"""OpenAI has one word for all limits. A cancelled answer is an error: see `running.Run`."""

_LEAST_LOGPROB = -9999.0


@dataclass(frozen=True, slots=True)
class Heading:
    """The fields that every answer, and every event of one, begins with."""

    model: ServedModel
    prefix: str
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    def fields(self, kind: str) -> dict[str, Any]:
        """`id`, `object`, `created`, `model` and `system_fingerprint`."""
        return {
            "id": f"{self.prefix}-{self.token}",
            "object": kind,
            "created": self.created,
            "model": self.model.card.name,
            "system_fingerprint": self.model.fingerprint,
        }


def usage_of(usage: Tally) -> dict[str, Any]:
    """OpenAI's form of the tokens used."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def finish_of(piece: Piece) -> str | None:
    """OpenAI's finish reason of a last piece, None for others."""
    return None if piece.finish_reason is None else FINISH[piece.finish_reason]


def finite(logprob: float) -> float:
    """JSON has no infinity: the value that OpenAI writes for an impossible token."""
    return max(logprob, _LEAST_LOGPROB)


def logprob_entry(token: TokenLogprob) -> dict[str, Any]:
    """A token of an answer, with the most likely ones at its place."""
    return {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    assert token.logprob is not None  # only the first token of a prompt has none
    return {"token": token.text, "bytes": list(token.data), "logprob": finite(token.logprob)}


def call_id() -> str:
    """A new name for a tool call, by which its result is given."""
    return f"call_{secrets.token_hex(12)}"


class Frame:
    """An event that differs in one value only: the rest is made once, not for every token."""

    HOLE = "\0hole\0"
    """No text that stands in an event's constant part: ids, names of models, field names."""

    def __init__(self, value: dict[str, Any], name: str | None = None) -> None:
        """`value` has `Frame.HOLE` where the values go."""
        begin = "" if name is None else f"event: {name}\n"
        before, after = f"{begin}data: {compact(value)}\n\n".split(compact(self.HOLE))
        self._before, self._after = before.encode(), after.encode()

    def filled(self, value: str, more: bytes = b"") -> bytes:
        """The event with `value`, and with `more` fields, as JSON, behind it."""
        return self._before + compact(value).encode() + more + self._after


def joined_text(pieces: Iterable[Piece]) -> str:
    """The text of an answer."""
    return "".join(piece.text for piece in pieces)

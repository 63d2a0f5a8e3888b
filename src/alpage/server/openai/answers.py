"""What chats and completions answer alike."""

import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from alpage.core.types import FinishReason
from alpage.llama import Piece
from alpage.server.backends.protocol import ServedModel
from alpage.server.call import Tally

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


def joined_text(pieces: Iterable[Piece]) -> str:
    """The text of an answer."""
    return "".join(piece.text for piece in pieces)

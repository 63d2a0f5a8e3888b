"""What chats and completions answer alike."""

import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from alpage.core.types import FinishReason, Usage
from alpage.llama import Piece, TextRequest
from alpage.server.running import Run
from alpage.server.served import Served

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

    served: Served
    prefix: str
    created: int = field(default_factory=lambda: int(time.time()))
    token: str = field(default_factory=lambda: secrets.token_hex(12))

    def fields(self, kind: str) -> dict[str, Any]:
        """`id`, `object`, `created`, `model` and `system_fingerprint`."""
        return {
            "id": f"{self.prefix}-{self.token}",
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }


class UsageSum:
    """Tokens of all choices; the prompt that several choices share counts once."""

    def __init__(self, choices: int) -> None:
        self._choices = choices
        self._prompt = 0
        self._cached = 0
        self._completion = 0

    def add(self, index: int, usage: Usage) -> None:
        """Count request number `index`."""
        self._completion += usage.completion_tokens
        if index % self._choices == 0:
            self._prompt += usage.prompt_tokens
            self._cached += usage.cached_tokens

    @property
    def value(self) -> dict[str, Any]:
        """OpenAI's form."""
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": self._completion,
            "total_tokens": self._prompt + self._completion,
            "prompt_tokens_details": {"cached_tokens": self._cached},
        }


async def collected(
    served: Served, requests: Sequence[TextRequest], choices: int
) -> tuple[list[list[Piece]], UsageSum]:
    """Run the requests to their ends: the pieces of each, and the tokens of all."""
    usage = UsageSum(choices)
    pieces: list[list[Piece]] = [[] for _ in requests]
    async with Run(served, requests) as run:
        async for index, piece in run:
            pieces[index].append(piece)
            if piece.usage is not None:
                usage.add(index, piece.usage)
    return pieces, usage


def finish_of(piece: Piece) -> str | None:
    """OpenAI's finish reason of a last piece, None for others."""
    return None if piece.finish_reason is None else FINISH[piece.finish_reason]


def finite(logprob: float) -> float:
    """JSON has no infinity: the value that OpenAI writes for an impossible token."""
    return max(logprob, _LEAST_LOGPROB)


def joined_text(pieces: Iterable[Piece]) -> str:
    """The text of an answer."""
    return "".join(piece.text for piece in pieces)

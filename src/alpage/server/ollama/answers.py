"""POST /api/chat and /api/generate: pieces of answers to Ollama's JSON, whole and line by line."""

import datetime
import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from alpage.core.types import FinishReason
from alpage.llama import Piece, TokenLogprob
from alpage.server.call import Call, Job
from alpage.server.events import line
from alpage.server.openai.answers import finite, joined_text

_DONE: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "context": "length",
    "deadline": "length",
}
"""Ollama has one word for all limits. A cancelled answer is an error: see `running.Run`."""


def timestamp(seconds: float | None = None) -> str:
    """A time in seconds since 1970, or now, as RFC 3339 has it."""
    moment = time.time() if seconds is None else seconds
    found = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return found.isoformat(timespec="microseconds").replace("+00:00", "Z")


def nanoseconds(seconds: float) -> int:
    """How Ollama gives durations."""
    return round(seconds * 1e9)


@dataclass(frozen=True, slots=True)
class Telling:
    """How one answer is told. `model`: the name as the client wrote it.

    `loaded`: seconds that passed until the model was ready.
    """

    call: Call
    model: str
    kind: Literal["chat", "generate"]
    loaded: float

    def part(
        self, text: str, pieces: Iterable[Piece] = (), *, done: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """A line with a part of an answer, or with all of it; `done`: what the last one adds."""
        pieces = list(pieces)
        told: dict[str, Any] = {"model": self.model, "created_at": timestamp()}
        if self.kind == "chat":
            told["message"] = {"role": "assistant", "content": text}
            if calls := [_call(c.name, c.parsed) for p in pieces for c in p.tool_calls]:
                told["message"]["tool_calls"] = calls
        else:
            told["response"] = text
        told["done"] = done is not None
        tokens = [_logprob(token) for piece in pieces for token in piece.logprobs or ()]
        return told | (done or {}) | ({"logprobs": tokens} if tokens else {})

    def end(self, job: Job, last: Piece) -> dict[str, Any]:
        """What the last line says about the whole answer."""
        assert last.finish_reason is not None and last.usage is not None
        return {
            "done_reason": _DONE[last.finish_reason],
            **self.durations(),
            "prompt_eval_count": job.usage.prompt_tokens,
            "prompt_eval_duration": nanoseconds(last.usage.prefill_seconds),
            "eval_count": job.usage.completion_tokens,
            "eval_duration": nanoseconds(last.usage.decode_seconds),
        }

    def durations(self) -> dict[str, int]:
        """How long the call has taken so far, and the loading of the model."""
        total = time.perf_counter() - self.call.began
        return {"total_duration": nanoseconds(total), "load_duration": nanoseconds(self.loaded)}

    def nothing(self, reason: Literal["load", "unload"]) -> dict[str, Any]:
        """The answer to a request without a prompt."""
        return self.part("", done={"done_reason": reason})


async def whole(job: Job, telling: Telling) -> dict[str, Any]:
    """The answer when all of it is there."""
    (pieces,) = await job.collect()
    return telling.part(joined_text(pieces), pieces, done=telling.end(job, pieces[-1]))


async def lines(job: Job, telling: Telling) -> AsyncGenerator[bytes, None]:
    """The answer as it comes, a JSON document in each line."""
    last = Piece()
    async with job.run() as pieces:
        async for _, piece in pieces:
            last = piece
            if piece.text or piece.tool_calls or piece.logprobs:
                yield line(telling.part(piece.text, [piece]))
    yield line(telling.part("", done=telling.end(job, last)))


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def _logprob(token: TokenLogprob) -> dict[str, Any]:
    return {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    assert token.logprob is not None  # only the first token of a prompt has none
    return {"token": token.text, "logprob": finite(token.logprob), "bytes": list(token.data)}

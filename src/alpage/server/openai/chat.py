"""POST /v1/chat/completions: pieces of answers to OpenAI's JSON, whole and as events."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from alpage.chat import ToolCall
from alpage.llama import Piece
from alpage.server.call import Job
from alpage.server.events import event
from alpage.server.openai.answers import (
    Frame,
    Heading,
    call_id,
    finish_of,
    joined_text,
    logprob_entry,
    usage_of,
)
from alpage.server.openai.chat_request import ChatRequest


def _heading(job: Job) -> Heading:
    return Heading(job.model, "chatcmpl")


async def whole(job: Job) -> dict[str, Any]:
    """The answer when all of it is there."""
    choices = [_choice(index, own) for index, own in enumerate(await job.collect())]
    return {
        **_heading(job).fields("chat.completion"),
        "choices": choices,
        "usage": usage_of(job.usage),
    }


def _choice(index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
    calls = [_call(call) for piece in pieces for call in piece.tool_calls]
    text = joined_text(pieces)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": text if text or not calls else None,
        "refusal": None,
    }
    if calls:
        message["tool_calls"] = calls
    return {
        "index": index,
        "message": message,
        "logprobs": _logprobs(pieces),
        "finish_reason": _finish(finish_of(pieces[-1]), bool(calls)),
    }


async def events(asked: ChatRequest, job: Job) -> AsyncGenerator[bytes, None]:
    """The answer as it comes, in server-sent events."""
    head = _heading(job).fields("chat.completion.chunk")
    if asked.wants_usage:
        head["usage"] = None
    choices: dict[int, _Choice] = {}
    async with job.run() as pieces:
        async for index, piece in pieces:
            if index not in choices:
                choices[index] = _Choice(head, index)
                yield choices[index].begin()
            for data in choices[index].take(piece):
                yield data
    if asked.wants_usage:
        yield event({**head, "choices": [], "usage": usage_of(job.usage)})
    yield b"data: [DONE]\n\n"


class _Choice:
    """The events of one answer."""

    def __init__(self, head: dict[str, Any], index: int) -> None:
        self._head = head
        self._index = index
        self._calls = 0
        self._text = Frame(self._chunk({"content": Frame.HOLE}))

    def begin(self) -> bytes:
        """The first event."""
        return event(self._chunk({"role": "assistant", "content": "", "refusal": None}))

    def take(self, piece: Piece) -> Iterable[bytes]:
        """What a piece adds."""
        if piece.logprobs:
            yield event(self._chunk({"content": piece.text}, logprobs=_logprobs([piece])))
        elif piece.text:
            yield self._text.filled(piece.text)
        for call in piece.tool_calls:
            # As OpenAI sends them: first the name, then the arguments.
            begun = {"index": self._calls, **_call(call, arguments="")}
            more = {"index": self._calls, "function": {"arguments": call.arguments}}
            self._calls += 1
            yield event(self._chunk({"tool_calls": [begun]}))
            yield event(self._chunk({"tool_calls": [more]}))
        if piece.finish_reason is not None:
            yield event(self._chunk({}, _finish(finish_of(piece), self._calls > 0)))

    def _chunk(
        self,
        delta: dict[str, Any],
        finish: str | None = None,
        *,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {
            "index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        }  # fmt: skip
        return {**self._head, "choices": [choice]}


def _finish(reason: str | None, calls: bool) -> str | None:
    return "tool_calls" if calls and reason == "stop" else reason


def _call(call: ToolCall, *, arguments: str | None = None) -> dict[str, Any]:
    shown = call.arguments if arguments is None else arguments
    return {
        "id": call_id(),
        "type": "function",
        "function": {"name": call.name, "arguments": shown},
    }


def _logprobs(pieces: Iterable[Piece]) -> dict[str, Any] | None:
    given = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    if not given:
        return None
    return {"content": [logprob_entry(t) for tokens in given for t in tokens], "refusal": None}

"""POST /v1/chat/completions: pieces of answers to OpenAI's JSON, whole and as events."""

import secrets
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

from alpage.llama import Piece, TokenLogprob
from alpage.server.call import Job
from alpage.server.events import event
from alpage.server.openai.answers import Heading, finish_of, finite, joined_text, usage_of
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
    calls = [_call(call.name, call.arguments) for piece in pieces for call in piece.tool_calls]
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
    calls = [0] * job.prepared.answers
    begun: set[int] = set()
    async with job.run() as pieces:
        async for index, piece in pieces:
            if index not in begun:
                begun.add(index)
                first = {"role": "assistant", "content": "", "refusal": None}
                yield _chunk(head, index, first)
            if piece.text or piece.logprobs:
                yield _chunk(head, index, {"content": piece.text}, logprobs=_logprobs([piece]))
            for call in piece.tool_calls:
                delta = {"index": calls[index], **_call(call.name, call.arguments)}
                calls[index] += 1
                yield _chunk(head, index, {"tool_calls": [delta]})
            if piece.finish_reason is not None:
                yield _chunk(head, index, {}, _finish(finish_of(piece), calls[index] > 0))
    if asked.wants_usage:
        yield event({**head, "choices": [], "usage": usage_of(job.usage)})
    yield b"data: [DONE]\n\n"


def _chunk(
    head: dict[str, Any],
    index: int,
    delta: dict[str, Any],
    finish: str | None = None,
    *,
    logprobs: dict[str, Any] | None = None,
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    return event({**head, "choices": [choice]})


def _finish(reason: str | None, calls: bool) -> str | None:
    return "tool_calls" if calls and reason == "stop" else reason


def _call(name: str, arguments: str) -> dict[str, Any]:
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _logprobs(pieces: Iterable[Piece]) -> dict[str, Any] | None:
    given = [piece.logprobs for piece in pieces if piece.logprobs is not None]
    if not given:
        return None
    entries = [
        {**_entry(token), "top_logprobs": [_entry(other) for other in token.top]}
        for tokens in given
        for token in tokens
    ]
    return {"content": entries, "refusal": None}


def _entry(token: TokenLogprob) -> dict[str, Any]:
    assert token.logprob is not None  # only the first token of a prompt has none
    return {"token": token.text, "bytes": list(token.data), "logprob": finite(token.logprob)}

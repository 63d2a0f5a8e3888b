"""Pieces of an answer to Anthropic's JSON, whole and as events."""

import json
import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from alpage.chat import ToolCall
from alpage.core.types import FinishReason
from alpage.llama import Piece
from alpage.server.call import Job, Tally
from alpage.server.events import event

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "context": "model_context_window_exceeded",
    "deadline": "max_tokens",
}
"""Anthropic has no word for a time limit. A cancelled answer is an error: see `running.Run`."""


async def whole(job: Job) -> dict[str, Any]:
    """The answer when all of it is there."""
    (pieces,) = await job.collect()
    return {
        **_heading(job),
        "content": _content(pieces),
        **_stopped(pieces[-1], any(piece.tool_calls for piece in pieces)),
        "usage": _usage(job.usage),
    }


async def events(job: Job) -> AsyncGenerator[bytes, None]:
    """The answer as it comes, in server-sent events."""
    blocks = _OpenBlocks()
    last: Piece | None = None
    async with job.run() as pieces:
        async for _, piece in pieces:
            if last is None:
                yield _event("message_start", message=_begun(job))
            for told in blocks.add(piece):
                yield told
            last = piece
    assert last is not None
    for told in blocks.close():
        yield told
    yield _event("message_delta", delta=_stopped(last, blocks.called), usage=_usage(job.usage))
    yield _event("message_stop")


class _OpenBlocks:
    """The events of content blocks, of which one is open at a time."""

    def __init__(self) -> None:
        self.called = False
        self._count = 0
        self._open = False

    def add(self, piece: Piece) -> Iterator[bytes]:
        """Events of what a piece adds."""
        if piece.text:
            if not self._open:
                self._open = True
                yield self._start({"type": "text", "text": ""})
            yield self._delta({"type": "text_delta", "text": piece.text})
        for call in piece.tool_calls:
            yield from self.close()
            self.called = self._open = True
            yield self._start(_tool_use(call) | {"input": {}})
            yield self._delta({"type": "input_json_delta", "partial_json": call.arguments})
            yield from self.close()

    def close(self) -> Iterator[bytes]:
        """The end of the block that is open, if any."""
        if self._open:
            self._open = False
            yield _event("content_block_stop", index=self._count)
            self._count += 1

    def _start(self, block: dict[str, Any]) -> bytes:
        return _event("content_block_start", index=self._count, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._count, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _heading(job: Job) -> dict[str, Any]:
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": job.model.card.name,
    }


def _begun(job: Job) -> dict[str, Any]:
    """The message before its first block. How much of the prompt was cached is told at the end."""
    usage = Tally(1, 1)
    usage.prompt_tokens = job.prepared.prompt_tokens
    return {
        **_heading(job),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(usage),
    }


def _content(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    texts: list[str] = []
    for piece in pieces:
        texts.append(piece.text)
        for call in piece.tool_calls:
            blocks += _text_block(texts)
            blocks.append(_tool_use(call))
            texts = []
    return [*blocks, *_text_block(texts)]


def _text_block(texts: Sequence[str]) -> list[dict[str, Any]]:
    text = "".join(texts)
    return [{"type": "text", "text": text}] if text else []


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {
        "type": "tool_use",
        "id": f"toolu_{secrets.token_hex(12)}",
        "name": call.name,
        "input": json.loads(call.arguments),
    }


def _stopped(last: Piece, called: bool) -> dict[str, Any]:
    """`stop_reason`, and the stop string that was found."""
    assert last.finish_reason is not None
    reason = _STOP_REASONS[last.finish_reason]
    if last.stop is not None:
        reason = "stop_sequence"
    elif called and reason == "end_turn":
        reason = "tool_use"
    return {"stop_reason": reason, "stop_sequence": last.stop}


def _usage(usage: Tally) -> dict[str, Any]:
    """The tokens used. `input_tokens` are those of the prompt that were not cached."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "service_tier": "standard",
    }

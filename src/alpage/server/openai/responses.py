"""POST /v1/responses: pieces of an answer to OpenAI's JSON, whole and as events."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

from alpage.core.errors import AlpageError
from alpage.server.call import Job, Tally
from alpage.server.events import compact, event
from alpage.server.openai.answers import Frame
from alpage.server.openai.draft import Draft, Step
from alpage.server.openai.errors import error_body
from alpage.server.openai.items import JsonItem, new_id
from alpage.server.openai.response_request import ResponseRequest
from alpage.server.openai.storage import Stored

Keep = Callable[[str, Stored], bool]
"""Keeps a response under its id; whether there was room."""


class Reply:
    """A response on its way. `items`: all that it answers. `keep`: where it is kept, if at all."""

    def __init__(
        self, asked: ResponseRequest, job: Job, items: Sequence[JsonItem], keep: Keep | None
    ) -> None:
        self._asked = asked
        self._job = job
        self._items = items
        self._keep = keep
        self._id = new_id("resp")
        self._created = int(time.time())
        self._draft = Draft()
        self._count = 0
        self._frame: tuple[JsonItem, Frame] | None = None

    async def whole(self) -> dict[str, Any]:
        """The answer when all of it is there."""
        async with self._job.run() as pieces:
            async for _, piece in pieces:
                for _ in self._draft.take(piece):
                    pass
        return self._ended()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """The answer as it comes, in server-sent events."""
        async with self._job.run() as pieces:
            begun = self._shown("in_progress")
            yield self._event("response.created", response=begun) + self._event(
                "response.in_progress", response=begun
            )
            async for _, piece in pieces:
                data = b"".join(d for step in self._draft.take(piece) for d in self._told(step))
                if data:
                    yield data
        ended = self._ended()
        yield self._event(f"response.{ended['status']}", response=ended)

    def failed(self, error: AlpageError) -> bytes:
        """The last event of a stream that fails in the middle."""
        self._draft.cut_off()
        told = error_body(error)["error"]
        cause = {"code": "server_error", "message": told["message"]}
        return self._event("response.failed", response=self._shown("failed", error=cause))

    def _ended(self) -> dict[str, Any]:
        """The response at its end, kept where that is wanted."""
        status, why = "completed", None
        if self._draft.incomplete:
            status, why = "incomplete", {"reason": "max_output_tokens"}
        ended = self._shown(
            status,
            incomplete_details=why,
            usage=_usage(self._job.usage),
            completed_at=int(time.time()) if why is None else None,
        )
        if self._keep is not None:
            stored = Stored(compact(ended).encode(), compact(self._items).encode())
            ended["store"] = self._keep(self._id, stored)
        return ended

    def _shown(self, status: str, **more: Any) -> dict[str, Any]:
        """The response as it is now; `more` has what is not yet known before the end."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "model": self._job.model.card.name,
            "output": list(self._draft.items),
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": self._keep is not None,
            "truncation": "disabled",
            "usage": None,
            **self._asked.shown(),
            **more,
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._count, **fields}
        self._count += 1
        return event(value, kind)

    def _told(self, step: Step) -> Iterator[bytes]:
        """The events of a step."""
        if step.kind == "text":
            yield self._delta(step)
            return
        place = {"output_index": step.index}
        where = {"item_id": step.item["id"], **place}
        if step.kind == "arguments":
            begin = "response.function_call_arguments"
            yield self._event(f"{begin}.delta", **where, delta=step.text)
            yield self._event(f"{begin}.done", **where, arguments=step.text, name=step.item["name"])
            return
        message = step.item["type"] == "message"
        where["content_index"] = 0
        if step.kind == "opened":
            yield self._event("response.output_item.added", **place, item=step.item)
            if message:
                part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
                yield self._event("response.content_part.added", **where, part=part)
            return
        if message:
            (part,) = step.item["content"]
            done = {"text": part["text"], "logprobs": part["logprobs"]}
            yield self._event("response.output_text.done", **where, **done)
            yield self._event("response.content_part.done", **where, part=part)
        yield self._event("response.output_item.done", **place, item=step.item)

    def _delta(self, step: Step) -> bytes:
        """More text: its number and itself are all that differs from one to the next."""
        name = "response.output_text.delta"
        where = {"item_id": step.item["id"], "output_index": step.index, "content_index": 0}
        if step.logprobs:
            return self._event(name, **where, delta=step.text, logprobs=step.logprobs)
        if self._frame is None or self._frame[0] is not step.item:
            value = {"type": name, **where, "logprobs": [], "delta": Frame.HOLE}
            self._frame = (step.item, Frame(value, name))
        number = self._count
        self._count += 1
        return self._frame[1].filled(step.text, b',"sequence_number":%d' % number)


def _usage(usage: Tally) -> dict[str, Any]:
    """The tokens used, as this API counts them: nothing is thought in secret or paid to cache."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }

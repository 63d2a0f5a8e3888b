"""POST /v1/completions: pieces of answers to OpenAI's JSON, whole and as events."""

import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from alpage.llama import Piece, TokenLogprob
from alpage.server.backends.protocol import ServedModel
from alpage.server.call import Job
from alpage.server.events import event
from alpage.server.openai.answers import (
    Frame,
    Heading,
    finish_of,
    finite,
    joined_text,
    usage_of,
)
from alpage.server.openai.completion_request import CompletionRequest


def _heading(job: Job) -> Heading:
    return Heading(job.model, "cmpl")


async def whole(asked: CompletionRequest, job: Job, echoed: Sequence[str]) -> dict[str, Any]:
    """The answer when all of it is there; `echoed`: what each sample's text begins with."""
    pieces = await job.collect()
    choices: list[dict[str, Any]] = []
    for place in _best(pieces, asked.samples, asked.choices):
        own = pieces[place]
        table = LogprobTable(job.model, asked.logprobs)
        for piece in own:
            table.add(piece)
        text = echoed[place] + joined_text(own)
        choices.append(_choice(len(choices), text, table.take(), finish_of(own[-1])))
    return {
        **_heading(job).fields("text_completion"),
        "choices": choices,
        "usage": usage_of(job.usage),
    }


async def events(
    asked: CompletionRequest, job: Job, echoed: Sequence[str]
) -> AsyncGenerator[bytes, None]:
    """The answer as it comes, in server-sent events."""
    head = _heading(job).fields("text_completion")
    if asked.wants_usage:
        head["usage"] = None
    tables = [LogprobTable(job.model, asked.logprobs) for _ in echoed]
    frames = [
        Frame({**head, "choices": [_choice(i, Frame.HOLE, None, None)]}) for i in range(len(echoed))
    ]
    begins = list(echoed)
    async with job.run() as pieces:
        async for index, piece in pieces:
            tables[index].add(piece)
            text, begins[index] = begins[index] + piece.text, ""
            finish = finish_of(piece)
            if finish or tables[index]:
                choice = _choice(index, text, tables[index].take(), finish)
                yield event({**head, "choices": [choice]})
            elif text:
                yield frames[index].filled(text)
    if asked.wants_usage:
        yield event({**head, "choices": [], "usage": usage_of(job.usage)})
    yield b"data: [DONE]\n\n"


def _best(pieces: Sequence[Sequence[Piece]], samples: int, choices: int) -> list[int]:
    """Of each prompt's samples the most likely by mean logprob of a token, as OpenAI defines it."""

    def likelihood(place: int) -> float:
        found = [t.logprob for piece in pieces[place] for t in piece.logprobs or ()]
        known = [logprob for logprob in found if logprob is not None]
        return sum(known) / len(known) if known else -math.inf

    best: list[int] = []
    for first in range(0, len(pieces), samples):
        places = range(first, first + samples)
        if samples > choices:
            best += sorted(places, key=likelihood, reverse=True)[:choices]
        else:
            best += places
    return best


def _choice(
    index: int, text: str, logprobs: dict[str, Any] | None, finish: str | None
) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}


class LogprobTable:
    """Log-probabilities in the columns of OpenAI's completions; `top` None leaves them out.

    `text_offset` counts characters of the choice's text. A token that is not the end of a
    character begins where that character does.
    """

    def __init__(self, model: ServedModel, top: int | None) -> None:
        self._model = model
        self._top = top
        self._bytes = b""  # of a character that is not complete
        self._offset = 0
        self._rows: list[tuple[TokenLogprob, int]] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, piece: Piece) -> None:
        """Take what a piece says about the prompt or the answer."""
        if self._top is None:
            return
        for token in (*(piece.prompt_logprobs or ()), *(piece.logprobs or ())):
            self._rows.append((token, self._offset))
            if self._model.is_text(token):
                self._advance(token.data)

    def take(self) -> dict[str, Any] | None:
        """The rows since the last time."""
        if self._top is None:
            return None
        rows, self._rows = self._rows, []
        return {
            "tokens": [_name(token) for token, _ in rows],
            "token_logprobs": [
                None if token.logprob is None else finite(token.logprob) for token, _ in rows
            ],
            "top_logprobs": [_likely(token) for token, _ in rows] if self._top else None,
            "text_offset": [offset for _, offset in rows],
        }

    def _advance(self, data: bytes) -> None:
        data = self._bytes + data
        try:
            text, self._bytes = data.decode(), b""
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data":
                text, self._bytes = data[: error.start].decode(), data[error.start :]
            else:
                text, self._bytes = data.decode("utf-8", "replace"), b""
        self._offset += len(text)


def _likely(token: TokenLogprob) -> dict[str, float] | None:
    """The most likely tokens and the one that stands there, or None where nothing predicted."""
    if token.logprob is None:
        return None
    likely = {
        _name(other): finite(other.logprob) for other in token.top if other.logprob is not None
    }
    return likely | {_name(token): finite(token.logprob)}


def _name(token: TokenLogprob) -> str:
    """A token's text; bytes that are no text are spelled, so that names stay distinct."""
    try:
        return token.data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.data)

"""Texts that are far too long are told so after a part of them has been encoded, not all of it.

A body of 16 MiB can have as many tokens; to count them takes a minute and a half. A prompt of one
context takes a twentieth of a second.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from alpage.llama import Llama
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery

_SLICE = 1 << 14
"""Characters that are encoded at a time."""
_SLACK = 64
"""Tokens that a cut in the middle of a word may add."""


def check_texts(llm: Llama, query: ChatQuery | TextQuery | EmbedQuery) -> None:
    """Refuse a conversation, or a text, that has more tokens than the context for certain."""
    if isinstance(query, ChatQuery):
        _check(llm, _strings([query.messages, query.tools or ()]))
        return
    for text in query.prompts if isinstance(query, TextQuery) else query.inputs:
        if isinstance(text, str):
            _check(llm, [text])


def too_long(tokens: int, context: int, *, more: bool = False) -> RequestError:
    """What is said of a prompt that the context cannot hold, with the code that clients know."""
    return RequestError(
        f"the prompt is too long: {'more than ' if more else ''}{tokens} tokens, but the context "
        f"holds {context}; shorten the prompt or serve the model with a larger context",
        code="context_length_exceeded",
    )


def _check(llm: Llama, texts: Iterable[str]) -> None:
    held = list(texts)
    if sum(map(len, held)) <= llm.context:
        return  # hardly more tokens than that, and few in any case
    tokens = 0
    for text in held:
        for start in range(0, len(text), _SLICE):
            tokens += max(0, len(llm.tokenize(text[start : start + _SLICE])) - _SLACK)
            if tokens > llm.context:
                raise too_long(llm.context, llm.context, more=True)


def _strings(value: Any) -> Iterator[str]:
    """Every text in JSON-like data, without recursion: its depth is the client's choice."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            yield part
        elif isinstance(part, Mapping):
            waiting += part.values()
        elif isinstance(part, Sequence):
            waiting += part

"""Calls as observers see them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alpage.server.observe.observer import CallView, Observer


@dataclass(frozen=True)
class Asker:
    key: str | None = "k_12"
    name: str = "the shop"
    tenant: str = "shop"


@dataclass(frozen=True)
class View:
    id: str = "req-1"
    dialect: str = "openai"
    endpoint: str = "/v1/chat/completions"
    method: str = "POST"
    model: str | None = "smollm2"
    caller: Asker = field(default_factory=Asker)
    began: float = field(default_factory=time.perf_counter)
    time: float = field(default_factory=time.time)
    prompt_tokens: int = 30
    cached_tokens: int = 10
    completion_tokens: int = 5
    status: int = 200
    finish_reasons: Sequence[str] = ("stop",)
    first_token_seconds: float | None = 0.125
    error: str | None = None
    trace_parent: str | None = None
    prompt_text: str | None = None
    answer_text: str | None = None

    def but(self, **changes: Any) -> "View":
        return replace(self, **changes)


def watch(observer: Observer, call: CallView, *pieces: float) -> None:
    """A whole call: its first piece after the first of `pieces`, and so on."""
    observer.began(call)
    for number, seconds in enumerate(pieces):
        observer.piece(call, seconds, 1, number == 0)
    observer.ended(call)

"""What the scheduler asks of a runner, and what a request and its events look like."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from alpage.core.config import LlamaConfig
from alpage.core.types import FinishReason, SamplingParams, Usage
from alpage.weights.lora import LoraAdapter


@dataclass(frozen=True, slots=True)
class StepBatch:
    """Rows (tokens) of many sequences that run together in one forward pass.

    Rows of one sequence are contiguous with ascending positions, and every earlier position of
    that sequence is already in its pages or in this batch. Sequences may share pages that lie
    wholly before their rows. Page `page_tables[s, p]` holds
    positions `p * page_size` to `(p + 1) * page_size - 1` of sequence row `s`; -1 is unused.
    """

    tokens: NDArray[np.int32]  # [rows]
    positions: NDArray[np.int32]  # [rows]
    sequences: NDArray[np.int32]  # [rows], index into page_tables
    page_tables: NDArray[np.int32]  # [sequences, pages]
    outputs: NDArray[np.int32]  # [outputs], the rows whose logits or states are wanted
    adapters: NDArray[np.int32] | None = None
    """[sequences], the slot of each one's adapter, -1: none; None: nobody has one."""


class Runner(Protocol):
    """A model with its paged key/value cache. Not thread-safe: one thread drives it."""

    config: LlamaConfig
    page_size: int  # tokens in one page
    page_count: int  # pages in the pool

    def forward(self, batch: StepBatch) -> NDArray[np.float32]:
        """Logits [outputs, vocab_size]; valid until the next call."""
        ...

    def hidden(self, batch: StepBatch) -> NDArray[np.float32]:
        """States after the final norm [outputs, dim]; valid until the next call."""
        ...

    @property
    def cache_fingerprint(self) -> str:
        """Equal for runners whose pages mean the same: model, layout, number types, kernels.

        It has no characters that a file's name cannot have. May take a moment on first use.
        """
        ...

    def read_page(self, page: int) -> bytes:
        """Keys and values of all `page_size` places of a page, whoever filled them."""
        ...

    def write_page(self, page: int, data: bytes) -> None:
        """Fill a page with what `read_page` gave, here or at a runner of the same fingerprint.

        Both raise InternalError for a page that is not there, and for another number of bytes.
        """
        ...

    def set_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        """Keep `adapter` in `slot` (0 or more), in place of what was there.

        Raises `FormatError` for one that does not fit the model, `CapacityError` when memory does
        not suffice; then the slot is as before.
        """
        ...

    def free_adapter(self, slot: int) -> None:
        """Forget the adapter in `slot`; `InternalError` where there is none."""
        ...

    @property
    def adapter_bytes(self) -> int:
        """Memory of all adapters that are set, in bytes."""
        ...

    def close(self) -> None:
        """Release weights and cache; the runner cannot be used afterwards."""
        ...


class Constraint(Protocol):
    """What an answer may say, and how far it has got: the state of one request, run once.

    The engine's thread alone calls it. Ids that end an answer are no part of it.
    """

    @property
    def ended(self) -> bool:
        """Whether the answer is whole and nothing can follow."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        ...

    def allows(self, token: int) -> bool:
        """Whether `token` may come next, at a small part of the cost of `allowed`."""
        ...

    def prepare(self) -> None:
        """Begin to compute `allowed` on another thread."""
        ...

    def allowed(self) -> NDArray[np.uint32]:
        """Ids that may come next.

        One bit each, the lowest of a word first: [at least ceil(vocab_size / 32)].
        """
        ...

    def accept(self, token: int) -> None:
        """Take the answer's next token, which was allowed."""
        ...

    def forced(self) -> list[int]:
        """The tokens that have to come next, if there is no choice; they are not taken yet."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """Prompt ids and how to go on.

    `prompt_logprobs` also scores every prompt token. `answer=False` ends the request once the
    prompt has run (finish reason "length"). Requests of one `tenant` share cached beginnings of
    prompts, those of two never do. `tenant`, `priority` (larger first) and `weight` (the tenant's
    share beside others') count where the scheduler's policy looks at them. After `timeout` seconds
    from its arrival, waiting included, the request ends with the reason "deadline". `speculate`
    lets guesses at the answer run along where that pays; it changes no token. `adapter` is the name
    of one that the engine has loaded.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    eos_ids: frozenset[int] = frozenset()
    """Ids that end the answer unless `sampling.ignore_eos`."""
    prompt_logprobs: bool = False
    answer: bool = True
    speculate: bool = True
    tenant: str = ""
    priority: int = 0
    timeout: float | None = None
    adapter: str | None = None
    constraint: Constraint | None = None
    """What the answer has to follow: a fresh one for each request."""
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """A text whose meaning is wanted as one vector: see `EmbeddingEvent`, and `Request`."""

    prompt: Sequence[int]
    tenant: str = ""
    priority: int = 0
    timeout: float | None = None
    adapter: str | None = None
    weight: float = 1.0


Top = Sequence[tuple[int, float]]
"""The most likely tokens with their log-probabilities, largest first."""


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One token, sampled or forced by the request's constraint.

    `logprob` and `top` come from the unmodified logits, natural log.
    """

    token: int
    logprob: float | None = None
    top: Top = ()


@dataclass(frozen=True, slots=True)
class PromptEvent:
    """The prompt has run: logprob of token i given those before it; the first has None.

    `top[i]` holds the `sampling.top_logprobs` most likely tokens at place i (empty for the
    first).
    """

    logprobs: Sequence[float | None]
    top: Sequence[Top] = ()


@dataclass(frozen=True, slots=True)
class EmbeddingEvent:
    """States after the final norm, averaged over the tokens and scaled to length 1: [dim]."""

    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FinishEvent:
    """The last event of a request that did not fail.

    A stop id ends the answer without a `TokenEvent` and is not counted in `usage`; `stop_token`
    says which one it was.
    """

    reason: FinishReason
    usage: Usage
    stop_token: int | None = None


@dataclass(frozen=True, slots=True)
class FailEvent:
    """The last event of a request that failed; the others go on."""

    error: BaseException


Event = TokenEvent | PromptEvent | EmbeddingEvent | FinishEvent | FailEvent

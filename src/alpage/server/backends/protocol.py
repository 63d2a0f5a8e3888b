"""What every served model can be asked, wherever it runs."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from alpage.llama import Piece, TokenLogprob
from alpage.server.queries import ChatQuery, EmbedQuery, TextQuery

Kind = Literal["local", "adapter", "upstream"]
Pieces = AsyncIterator[tuple[int, Piece]]
"""The number of the answer, and its next piece. An answer's last piece has a finish reason."""


@dataclass(frozen=True, slots=True)
class Terms:
    """For whom a query runs.

    Requests of one `tenant` share cached beginnings of prompts, and tenants share the machine by
    `weight`; the larger `priority` goes first where the policy looks at it. `timeout`: seconds
    after which answers end, None without a bound.
    """

    tenant: str = ""
    priority: int = 0
    weight: float = 1.0
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is told about a model without loading it. `context` in tokens, where it is known.

    `created`: seconds since 1970. `parent`: the model whose adapter this is.
    """

    name: str
    kind: Kind
    created: int
    loaded: bool
    context: int | None = None
    authors: str | None = None
    licence: str | None = None
    parent: str | None = None


class Prepared(Protocol):
    """A query that has been checked and can run, once.

    `prompt_tokens` counts each prompt once, however many answers it gets. `answer_tokens`: the
    most that all answers may take together; None where nothing bounds them but the context.
    """

    @property
    def answers(self) -> int:
        """How many answers there will be."""
        ...

    @property
    def choices(self) -> int:
        """Answers of each prompt, which are numbered one after the other."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; an estimate where another server counts them."""
        ...

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens that all answers may have together."""
        ...

    @property
    def room(self) -> int | None:
        """The most tokens that contexts leave to all answers; None where that is not known."""
        ...

    def bounded(self, tokens: int) -> "Prepared":
        """The same with at most `tokens` in all answers together, a share for each."""
        ...

    def run(self, terms: Terms) -> AbstractAsyncContextManager[Pieces]:
        """Start; leaving the context ends what still runs."""
        ...


class PreparedEmbedding(Protocol):
    """Texts to embed, checked."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all texts."""
        ...

    async def run(self, terms: Terms) -> NDArray[np.float32]:
        """One vector of length 1 for each text: [texts, dim]."""
        ...


class ServedModel(Protocol):
    """A model that is ready to be asked. Its `prepare` methods take a while: call them in a thread.

    They raise RequestError and other AlpageErrors for what cannot run. `fingerprint` changes with
    whatever may change the answer to a seed.
    """

    @property
    def card(self) -> ModelCard:
        """Its facts."""
        ...

    @property
    def fingerprint(self) -> str:
        """A short word."""
        ...

    @property
    def active(self) -> int:
        """Answers that it works on or has queued."""
        ...

    def prepare(self, query: ChatQuery | TextQuery) -> Prepared:
        """Render and encode the prompts."""
        ...

    def prepare_embedding(self, query: EmbedQuery) -> PreparedEmbedding:
        """Encode the texts."""
        ...

    def text_of(self, ids: list[int]) -> str:
        """The text of token ids."""
        ...

    def is_text(self, token: TokenLogprob) -> bool:
        """Whether a token adds to an answer's text; control tokens do not."""
        ...

    def end_running(self) -> None:
        """Cancel every answer under way; whoever asked is told."""
        ...


@runtime_checkable
class Remote(Protocol):
    """What a model that other servers run can do besides."""

    def report(self) -> list[dict[str, Any]]:
        """How each of the servers is doing, for people who watch."""
        ...

    async def leave(self) -> None:
        """Close the connections to them; the model cannot be asked afterwards."""
        ...

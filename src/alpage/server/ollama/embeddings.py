"""POST /api/embed and the older /api/embeddings: texts to vectors of length 1."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import ServedModel
from alpage.server.errors import RequestError
from alpage.server.ollama.fields import Asking
from alpage.server.openai.fields import Refused
from alpage.server.queries import EmbedQuery

_MAX_TEXTS = 2048

Texts = Annotated[list[str], Field(fail_fast=True, max_length=_MAX_TEXTS)]


class Embedding(Asking):
    """What both bodies share. Sampling options change no vector."""

    def query_of(self, texts: Sequence[str], model: ServedModel, *, cut: bool | None) -> EmbedQuery:
        """What is asked of the model; it encodes: call it in a thread.

        `cut` shortens texts that are longer than the context, as Ollama does unless it is told
        not to; False makes them a RequestError, None is True where this process has the tokenizer.
        """
        if not isinstance(model, LocalModel):
            if cut:
                raise RequestError(
                    f"the model {model.card.name!r:.80} runs on another server: its texts cannot "
                    "be cut to its context here; leave truncate out",
                    param="truncate",
                )
            return EmbedQuery(inputs=texts)
        room = self.chosen.num_ctx or model.llm.context
        inputs = [model.ids_of(text, begin=True) if text else [] for text in texts]
        longest = max(map(len, inputs), default=0)
        if cut is False and longest > room:
            raise RequestError(
                f"a text has {longest} tokens, but the context holds {room}; shorten it, or let "
                "truncate=true cut it",
                param="input",
                code="context_length_exceeded",
            )
        return EmbedQuery(inputs=[ids[:room] for ids in inputs])


class OllamaEmbed(Embedding):
    """The whole body of POST /api/embed."""

    input: str | Texts
    truncate: bool | None = None
    dimensions: Refused = None

    @property
    def texts(self) -> list[str]:
        """The texts; none where there is nothing but a model to load."""
        if isinstance(self.input, str):
            return [self.input] if self.input else []
        return self.input


class OllamaEmbeddings(Embedding):
    """The whole body of POST /api/embeddings."""

    prompt: str | None = None

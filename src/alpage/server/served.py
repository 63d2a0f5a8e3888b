"""The models that a server offers, by name."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from alpage import __version__
from alpage.llama import Llama, TextRequest
from alpage.server.errors import RequestError


class Served:
    """A loaded model under its name. `created`: when it was loaded, seconds since 1970.

    `fingerprint` changes with whatever may change the answer to a seed. Only the event loop
    changes `active`, the number of requests that the engine works on or has queued, and `running`,
    how to cancel what each HTTP call started.
    """

    def __init__(self, name: str, llm: Llama) -> None:
        self.name = name
        self.llm = llm
        self.created = int(time.time())
        self.active = 0
        self.running: set[Callable[[], None]] = set()
        made_by = (__version__, llm.model.engine, llm.model.name, llm.model.quantization)
        self.fingerprint = f"fp_{hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]}"

    def end_running(self) -> None:
        """Cancel every request; whoever asked is told."""
        for cancel in list(self.running):
            cancel()

    def check_lengths(self, requests: Sequence[TextRequest]) -> None:
        """Refuse prompts longer than the context, with the code that clients look for."""
        longest = max((len(request.prompt) for request in requests), default=0)
        if longest > self.llm.context:
            raise RequestError(
                f"the prompt has {longest} tokens, but the context holds {self.llm.context}; "
                "shorten the prompt or serve the model with a larger context",
                code="context_length_exceeded",
            )


class ServedModels:
    """What is offered; fixed when the server starts."""

    def __init__(self, models: Mapping[str, Llama]) -> None:
        self._models = {name: Served(name, llm) for name, llm in models.items()}

    def __iter__(self) -> Iterator[Served]:
        return iter(self._models.values())

    def get(self, name: str) -> Served:
        """The model of that name, or a RequestError with status 404 that names the others."""
        if name not in self._models:
            known = ", ".join(self._models)
            raise RequestError(
                f"there is no model {name!r:.80} here; this server has: {known}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self._models[name]

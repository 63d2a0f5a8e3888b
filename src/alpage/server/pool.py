"""The models that a server offers, by name, and who is using them."""

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from alpage.llama import Llama
from alpage.server.accounts.caller import Caller
from alpage.server.backends.local import LocalModel
from alpage.server.backends.protocol import ModelCard, ServedModel
from alpage.server.errors import RequestError


class Lease:
    """A model that stays loaded until `release`, which can be called again."""

    def __init__(self, model: ServedModel) -> None:
        self.model = model

    def release(self) -> None:
        """Give it back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Pool:
    """What is offered; fixed when the server starts."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = dict(models)

    @classmethod
    def of(cls, models: Mapping[str, Llama]) -> Self:
        """Models that are loaded already; whoever loaded them closes them."""
        return cls({name: LocalModel(name, llm) for name, llm in models.items()})

    def __iter__(self) -> Iterator[ServedModel]:
        """Those that are loaded."""
        return iter(self._models.values())

    def cards(self, caller: Caller) -> list[ModelCard]:
        """Every model that the caller may ask, loaded or not."""
        return [m.card for name, m in self._models.items() if caller.may_ask(name)]

    def card(self, name: str, caller: Caller) -> ModelCard:
        """One of them; a RequestError with status 404 for another name."""
        if name not in self._models or not caller.may_ask(name):
            raise self.unknown(name, caller)
        return self._models[name].card

    async def lease(self, name: str, caller: Caller) -> Lease:
        """The model of that name, ready; a RequestError with status 404 for another name."""
        if name not in self._models:
            raise self.unknown(name, caller)
        return Lease(self._models[name])

    def unknown(self, name: str, caller: Caller) -> RequestError:
        """What a name that the caller cannot use is answered with."""
        known = ", ".join(card.name for card in self.cards(caller))
        return RequestError(
            f"there is no model {name!r:.80} here; this server has: {known or 'none'}",
            status=404,
            param="model",
            code="model_not_found",
        )

    def end_running(self) -> None:
        """Cancel every answer under way; whoever asked is told."""
        for model in self:
            model.end_running()

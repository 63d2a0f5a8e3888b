"""Who watches a server's calls, and what of a call they may see."""

from collections.abc import Sequence
from typing import Protocol

from alpage.server.observe.event import log_failure


class CallerView(Protocol):
    """Who asks."""

    @property
    def key(self) -> str | None:
        """Id of the key that was shown, never the key itself; None where none was."""

    @property
    def name(self) -> str:
        """What the operator calls the key."""

    @property
    def tenant(self) -> str:
        """Whose cache, share and bill this is."""


class CallView(Protocol):
    """One HTTP request as observers see it. What is not known yet is None or 0."""

    @property
    def id(self) -> str:
        """The request's own id, which the answer's headers show."""

    @property
    def dialect(self) -> str:
        """One of openai, anthropic, ollama and alpage."""

    @property
    def endpoint(self) -> str:
        """Template of the route, such as "/v1/chat/completions"; never the path as it came."""

    @property
    def method(self) -> str:
        """HTTP's method."""

    @property
    def model(self) -> str | None:
        """The model as the client wrote it, or as the server found it: any text."""

    @property
    def caller(self) -> CallerView:
        """Who asks."""

    @property
    def began(self) -> float:
        """When it came, in `time.perf_counter` seconds."""

    @property
    def time(self) -> float:
        """When it came, in seconds since 1970."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all its prompts."""

    @property
    def cached_tokens(self) -> int:
        """Those of them that the cache had."""

    @property
    def completion_tokens(self) -> int:
        """Tokens of all its answers."""

    @property
    def status(self) -> int:
        """HTTP's status; 0 until it is known."""

    @property
    def finish_reasons(self) -> Sequence[str]:
        """Why each answer ended, as far as it has."""

    @property
    def first_token_seconds(self) -> float | None:
        """From its coming to the first piece of an answer."""

    @property
    def error(self) -> str | None:
        """What the client was told that went wrong."""

    @property
    def trace_parent(self) -> str | None:
        """The header `traceparent`, if it has W3C's shape."""

    @property
    def prompt_text(self) -> str | None:
        """What was asked; None unless the operator wants prompts in the log."""

    @property
    def answer_text(self) -> str | None:
        """What was answered; None unless the operator wants prompts in the log."""


class Observer(Protocol):
    """Called in the event loop's thread; has to be quick, and must not raise."""

    def began(self, call: CallView) -> None:
        """A call has come."""

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        """A piece of an answer: `seconds` since the call came, or since the answer's last piece.

        `tokens`: those in it, at least one where they are not known. `first`: the call's first
        piece of that answer.
        """

    def ended(self, call: CallView) -> None:
        """The call's last byte is sent, or its client has gone."""


class Observers:
    """Several observers as one. One that fails is named in the log once, and called again."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers
        self._failed: set[int] = set()

    def began(self, call: CallView) -> None:
        """Tell everyone."""
        for observer in self._observers:
            try:
                observer.began(call)
            except Exception:
                self._note(observer)

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        """Tell everyone."""
        for observer in self._observers:
            try:
                observer.piece(call, seconds, tokens, first)
            except Exception:
                self._note(observer)

    def ended(self, call: CallView) -> None:
        """Tell everyone."""
        for observer in self._observers:
            try:
                observer.ended(call)
            except Exception:
                self._note(observer)

    def _note(self, observer: Observer) -> None:
        """The failure that is being handled goes to the log, once for each observer."""
        if id(observer) in self._failed:
            return
        self._failed.add(id(observer))
        log_failure("observer_failed", observer=type(observer).__name__)

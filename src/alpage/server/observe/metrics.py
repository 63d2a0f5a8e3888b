"""Metrics in Prometheus' formats: what calls took and used, and what each engine does.

Labels are bounded: a model is one of the server's own or "other", an endpoint is a route's
template, and nothing is labelled by key, tenant or address.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping

from fastapi import APIRouter
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    Summary,
)
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from alpage import __version__
from alpage.engine.stats import EngineStats
from alpage.server.accounts.caller import Scope
from alpage.server.observe.engines import engine_families, label_of
from alpage.server.observe.observer import CallView
from alpage.server.observe.times import TokenTimes

REQUIRED_SCOPE: Scope = "metrics"
"""What a key needs to read `GET /metrics`; one with "admin" may too."""

# Buckets in seconds, closest where a model on a CPU answers people who wait.
FIRST_TOKEN = (
    0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 40, 80, 160,
)  # fmt: skip
INTER_TOKEN = (
    0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.15, 0.2, 0.35, 0.5, 1, 3,
)  # fmt: skip
DURATION = (
    0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 1800,
)  # fmt: skip

_DIALECTS = frozenset({"openai", "anthropic", "ollama", "alpage"})
# Ours, and those of every dialect; another server may give any text.
_REASONS = frozenset(
    {
        "stop", "length", "context", "cancelled", "deadline", "tool_calls", "content_filter",
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "load", "unload",
    }
)  # fmt: skip
_REFUSED = {401: "key", 403: "permission", 429: "quota", 503: "overload", 529: "overload"}
_NONE, _OTHER = "none", "other"
_MOST_NAMES = 1000
_OPENMETRICS = "application/openmetrics-text"


class _Names:
    """Values of one label: the first so many, "other" after that."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: set[str] = set()

    def of(self, name: str) -> str:
        name = label_of(name)
        if name in self._seen:
            return name
        if len(self._seen) >= self._most:
            return _OTHER
        self._seen.add(name)
        return name


class _CallMetrics:
    """The families that calls fill."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"alpage_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"alpage_{name}", text, labels, registry=registry, buckets=buckets)

        self.requests = counter(
            "requests", "HTTP requests answered; 499: the client left.",
            "endpoint", "dialect", "model", "status",
        )  # fmt: skip
        self.in_flight = Gauge(
            "alpage_requests_in_flight", "HTTP requests being answered.", registry=registry
        )
        self.duration = histogram(
            "request_duration_seconds", "From a request's arrival to its answer's last byte.",
            DURATION, "endpoint", "model",
        )  # fmt: skip
        self.first_token = histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to the first piece of an answer.", FIRST_TOKEN, "model",
        )  # fmt: skip
        self.inter_token = TokenTimes(
            "alpage_inter_token_seconds",
            "Between two tokens of one answer; those that are sent together share their time.",
            INTER_TOKEN,
        )
        registry.register(self.inter_token)
        self.prompt = counter("prompt_tokens", "Tokens of the prompts of ended requests.", "model")
        self.cached = counter(
            "cached_prompt_tokens", "Those of alpage_prompt_tokens that the cache had.", "model"
        )
        self.completion = counter(
            "completion_tokens", "Tokens of the answers of ended requests.", "model"
        )
        self.finish = counter("finish_reasons", "Why answers ended.", "model", "reason")
        self.refused = counter(
            "refused_requests",
            "Requests turned away: key (401), permission (403), quota (429), overload (503, 529).",
            "reason",
        )
        self.load = Summary(
            "alpage_model_load_seconds", "Loading a model.", ["model"], registry=registry
        )


class _Engines(Collector):
    """The engines' own numbers, read when they are asked for."""

    def __init__(self, stats: Callable[[], Mapping[str, EngineStats]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """One family for each number, one sample for each loaded model."""
        return engine_families(self._stats())


class _WithoutCreated(Collector):
    """A registry without the times at which each series began: they double what is sent."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [s for s in family.samples if not s.name.endswith("_created")]
            yield family


class Metrics:
    """An `Observer` of calls with a registry of its own.

    `names`: the models that the server offers, loaded or not. `engines`: those that are loaded,
    with their numbers; adapters count with the model that they belong to. It is called from any
    thread.
    """

    def __init__(
        self,
        names: Callable[[], Container[str]],
        engines: Callable[[], Mapping[str, EngineStats]],
    ) -> None:
        self.registry = CollectorRegistry()
        self._names = names
        self._calls = _CallMetrics(self.registry)
        self._models, self._endpoints = _Names(_MOST_NAMES), _Names(_MOST_NAMES)
        Info("alpage_build", "This server.", registry=self.registry).info({"version": __version__})
        for reason in _REFUSED.values():
            self._calls.refused.labels(reason)  # so that a rate has a zero to begin with
        self.registry.register(_Engines(engines))
        ProcessCollector(registry=self.registry)

    def began(self, call: CallView) -> None:
        """One request more is being answered."""
        self._calls.in_flight.inc()

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        """A piece of an answer; tokens that came together share the time."""
        if first:
            self._calls.first_token.labels(self._model(call.model)).observe(seconds)
            return
        model = call.model or _NONE
        if not self._calls.inter_token.knows(model):  # as few as there are models
            model = self._model(call.model)
        self._calls.inter_token.add(model, seconds, tokens)

    def ended(self, call: CallView) -> None:
        """Count the request, and what it used."""
        calls, model = self._calls, self._model(call.model)
        endpoint = self._endpoints.of(call.endpoint)
        dialect = call.dialect if call.dialect in _DIALECTS else _OTHER
        calls.in_flight.dec()
        calls.requests.labels(endpoint, dialect, model, str(call.status)).inc()
        calls.duration.labels(endpoint, model).observe(time.perf_counter() - call.began)
        if call.prompt_tokens or call.completion_tokens:
            calls.prompt.labels(model).inc(call.prompt_tokens)
            calls.cached.labels(model).inc(call.cached_tokens)
            calls.completion.labels(model).inc(call.completion_tokens)
        for reason in call.finish_reasons:
            calls.finish.labels(model, reason if reason in _REASONS else _OTHER).inc()
        if call.status in _REFUSED:
            calls.refused.labels(_REFUSED[call.status]).inc()

    def loaded(self, model: str, seconds: float) -> None:
        """A model was loaded in so many seconds."""
        self._calls.load.labels(self._model(model)).observe(seconds)

    def _model(self, name: str | None) -> str:
        if name is None:
            return _NONE
        return self._models.of(name) if name in self._names() else _OTHER

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition, and its content type: OpenMetrics if `accept` names it, else text."""
        wanted = f"{_OPENMETRICS}; version=1.0.0" if _OPENMETRICS in accept else ""
        encode, content_type = choose_encoder(wanted)
        return encode(_WithoutCreated(self.registry)), content_type


def metrics_routes(metrics: Metrics) -> APIRouter:
    """`GET /metrics`; whoever mounts it asks for REQUIRED_SCOPE."""
    router = APIRouter()

    @router.get("/metrics", response_class=Response)
    def read(request: Request) -> Response:  # in a thread: a large answer takes a while
        """Metrics in Prometheus' text format, or in OpenMetrics for a client that accepts it."""
        content, content_type = metrics.render(request.headers.get("accept", ""))
        return Response(content, media_type=None, headers={"content-type": content_type})

    return router

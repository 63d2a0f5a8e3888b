"""The numbers of engines as families of metrics."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from alpage.engine.stats import EngineStats

_GAUGES = {
    "engine_up": ("alive", "Whether the engine takes requests."),
    "engine_requests_running": ("running", "Requests that take part in steps."),
    "engine_requests_waiting": ("waiting", "Requests that wait for their turn."),
    "cache_pages": ("pages_total", "Pages of the key/value cache."),
    "cache_pages_free": ("pages_free", "Pages that no request holds, reusable ones included."),
    "cache_page_tokens": ("page_size", "Tokens of one page."),
    "engine_adapters": ("adapters", "Adapters that requests can name."),
    "engine_adapter_bytes": ("adapter_bytes", "Memory of the adapters."),
}
_COUNTERS = {
    "engine_requests": ("requests", "Requests submitted, one for each choice of an answer."),
    "engine_steps": ("steps", "Forward passes."),
    "engine_rows": ("rows", "Tokens that ran in forward passes, guesses included."),
    "engine_step_seconds": ("step_seconds", "Time in forward passes and sampling."),
    "engine_prompt_tokens": ("prompt_tokens", "Tokens of prompts, counted as they begin to run."),
    "engine_cached_tokens": ("cached_tokens", "Those of them that were taken from the cache."),
    "engine_completion_tokens": ("completion_tokens", "Tokens of answers, counted as they come."),
    "speculation_drafted_tokens": ("drafted", "Guessed tokens that were checked."),
    "speculation_accepted_tokens": ("accepted", "Those of them that were right."),
    "engine_preemptions": ("preemptions", "Requests put back because the cache was full."),
    "engine_constrained_requests": ("constrained", "Requests whose answer follows a grammar."),
    "engine_restarts": ("restarts", "Errors that ended all that ran."),
}
"""Name of the family without `alpage_` and `_total`: the field of `EngineStats`, and its help."""


def label_of(name: str) -> str:
    """`name` as UTF-8 can say it: one odd file name must not take all metrics away."""
    return name.encode("utf-8", "replace").decode()


def engine_families(engines: Mapping[str, EngineStats]) -> Iterator[Metric]:
    """Every number of `EngineStats`, by model, and what follows from them."""
    for name, (field, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(f"alpage_{name}", text, labels=["model"])
        for model, stats in engines.items():
            gauge.add_metric([label_of(model)], float(getattr(stats, field)))
        yield gauge
    for name, (field, text) in _COUNTERS.items():
        counter = CounterMetricFamily(f"alpage_{name}", text, labels=["model"])
        for model, stats in engines.items():
            counter.add_metric([label_of(model)], float(getattr(stats, field)))
        yield counter
    ratio = GaugeMetricFamily(
        "alpage_cache_hit_ratio",
        "Share of the prompts' tokens that the cache had, since the model was loaded.",
        labels=["model"],
    )
    for model, stats in engines.items():
        ratio.add_metric([label_of(model)], stats.cached_tokens / max(1, stats.prompt_tokens))
    yield ratio

"""What is scraped: read with Prometheus' own parsers, bounded whatever clients send."""

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tests.server.observe.views import View, watch

from alpage import Llama, __version__
from alpage.core.settings import Settings
from alpage.engine.stats import EngineStats
from alpage.server.observe.engines import engine_families
from alpage.server.observe.metrics import REQUIRED_SCOPE, Metrics, metrics_routes

STATS = EngineStats(
    alive=True, waiting=2, running=3, pages_total=100, pages_free=60, page_size=16, requests=9,
    steps=50, rows=500, step_seconds=1.5, prompt_tokens=200, cached_tokens=50,
    completion_tokens=70, drafted=30, accepted=20, preemptions=1, constrained=4, restarts=1,
    adapters=2, adapter_bytes=4096,
)  # fmt: skip

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def made(engines: Mapping[str, EngineStats] | None = None) -> Metrics:
    return Metrics(lambda: {"smollm2", "tiny"}, lambda: engines or {})


def samples(metrics: Metrics) -> Samples:
    text, _ = metrics.render()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def at(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_a_call_is_counted_with_its_times_and_tokens() -> None:
    metrics = made()
    watch(metrics, View(), 0.3, 0.02, 0.04)
    watch(metrics, View(finish_reasons=("length", "stop")), 0.6)
    found = samples(metrics)
    place = {"endpoint": "/v1/chat/completions", "model": "smollm2"}
    assert at(found, "alpage_requests_total", dialect="openai", status="200", **place) == 2
    assert at(found, "alpage_request_duration_seconds_count", **place) == 2
    first = "alpage_time_to_first_token_seconds"
    assert at(found, f"{first}_count", model="smollm2") == 2
    assert at(found, f"{first}_sum", model="smollm2") == pytest.approx(0.9)
    assert at(found, f"{first}_bucket", model="smollm2", le="0.35") == 1
    assert at(found, "alpage_inter_token_seconds_count", model="smollm2") == 2
    assert at(found, "alpage_inter_token_seconds_bucket", model="smollm2", le="0.02") == 1
    assert at(found, "alpage_prompt_tokens_total", model="smollm2") == 60
    assert at(found, "alpage_cached_prompt_tokens_total", model="smollm2") == 20
    assert at(found, "alpage_completion_tokens_total", model="smollm2") == 10
    assert at(found, "alpage_finish_reasons_total", model="smollm2", reason="stop") == 2
    assert at(found, "alpage_finish_reasons_total", model="smollm2", reason="length") == 1
    assert at(found, "alpage_build_info", version=__version__) == 1
    assert at(found, "process_resident_memory_bytes") > 1e6
    assert not any(name.endswith("_created") for name, _ in found)


def test_requests_in_flight_go_up_and_down() -> None:
    metrics, call = made(), View()
    metrics.began(call)
    metrics.began(call)
    assert at(samples(metrics), "alpage_requests_in_flight") == 2
    metrics.ended(call)
    assert at(samples(metrics), "alpage_requests_in_flight") == 1


def test_refusals_are_counted_by_reason() -> None:
    metrics = made()
    before = samples(metrics)
    for reason in ("key", "permission", "quota", "overload"):
        assert at(before, "alpage_refused_requests_total", reason=reason) == 0
    for status in (401, 403, 429, 429, 503, 529, 400, 500):
        watch(metrics, View(status=status, model=None, prompt_tokens=0, completion_tokens=0))
    found = samples(metrics)
    counts = {
        reason: at(found, "alpage_refused_requests_total", reason=reason)
        for reason in ("key", "permission", "quota", "overload")
    }
    assert counts == {"key": 1, "permission": 1, "quota": 2, "overload": 2}
    assert ("alpage_prompt_tokens_total", frozenset({("model", "none")})) not in found


def test_what_clients_send_makes_no_series() -> None:
    metrics = made()
    watch(metrics, View(), 0.1, 0.1)
    one = len(samples(metrics))
    for number in range(500):
        watch(metrics, View(model=f"any\n{number}"), 0.1, 0.1)
    with_other = samples(metrics)
    assert len(with_other) < 2 * one
    assert at(with_other, "alpage_completion_tokens_total", model="other") == 2500
    # Even what the server itself should bound is bounded here.
    for number in range(2000):
        watch(
            metrics, View(endpoint=f"/{number}", dialect=str(number), finish_reasons=[str(number)])
        )
    found = samples(metrics)
    values: dict[str, set[str]] = {}
    for _, labels in found:
        for name, value in labels:
            values.setdefault(name, set()).add(value)
    assert len(values["endpoint"]) <= 1001
    assert values["dialect"] == {"openai", "other"}
    assert values["reason"] == {"stop", "other", "key", "permission", "quota", "overload"}


def test_every_number_of_an_engine_is_there() -> None:
    other = replace(STATS, alive=False, prompt_tokens=0, cached_tokens=0)
    found = samples(made({"smollm2": STATS, "tiny": other}))
    values = [value for (_, labels), value in found.items() if ("model", "smollm2") in labels]
    for field in fields(EngineStats):
        assert float(getattr(STATS, field.name)) in values, field.name
    assert len(list(engine_families({}))) == len(fields(EngineStats)) + 1
    assert at(found, "alpage_engine_up", model="tiny") == 0
    assert at(found, "alpage_engine_requests_waiting", model="smollm2") == 2
    assert at(found, "alpage_cache_hit_ratio", model="smollm2") == 0.25
    assert at(found, "alpage_cache_hit_ratio", model="tiny") == 0
    assert at(found, "alpage_speculation_accepted_tokens_total", model="smollm2") == 20


def test_a_file_name_that_is_no_text_takes_nothing_away() -> None:
    odd = "tiny\udcff"
    metrics = Metrics(lambda: {odd}, lambda: {odd: STATS})
    watch(metrics, View(model=odd, finish_reasons=("\ud800",)), 0.1, 0.1)
    found = samples(metrics)
    assert at(found, "alpage_completion_tokens_total", model="tiny?") == 5
    assert at(found, "alpage_engine_up", model="tiny?") == 1


def test_a_model_that_was_loaded_is_timed() -> None:
    metrics = made()
    metrics.loaded("tiny", 1.5)
    metrics.loaded("tiny", 0.5)
    found = samples(metrics)
    assert at(found, "alpage_model_load_seconds_count", model="tiny") == 2
    assert at(found, "alpage_model_load_seconds_sum", model="tiny") == 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1", "openmetrics"),
        ("application/openmetrics-text; version=nonsense; escaping=\x7f", "openmetrics"),
        ("text/plain;version=" + "9" * 5000, "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_formats_are_those_that_are_accepted(accept: str, kind: str) -> None:
    metrics = made({"smollm2": STATS})
    watch(metrics, View(), 0.1, 0.1)
    text, content_type = metrics.render(accept)
    if kind == "openmetrics":
        assert content_type.startswith("application/openmetrics-text; version=1.0.0")
        read = openmetrics.text_string_to_metric_families
        families = list(read(text.decode()))  # type: ignore[no-untyped-call]
    else:
        assert content_type == kind
        families = list(text_string_to_metric_families(text.decode()))
    assert "alpage_requests" in {family.name for family in families}


def test_the_route_answers_while_calls_go_on() -> None:
    metrics = made({"smollm2": STATS})
    app = FastAPI()
    app.include_router(metrics_routes(metrics))
    assert REQUIRED_SCOPE == "metrics"
    assert "/metrics" in app.openapi()["paths"]
    ended = threading.Event()

    def busy() -> None:
        while not ended.is_set():
            watch(metrics, View(), 0.1, 0.01)

    async def scrape() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.get("/metrics") for _ in range(20)))

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        answers = asyncio.run(scrape())
    finally:
        ended.set()
        thread.join()
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert list(text_string_to_metric_families(answer.text))


def test_a_real_model_is_seen_at_work(llm: Llama) -> None:
    metrics = Metrics(lambda: {"smollm2"}, lambda: {"smollm2": llm.engine.stats})
    name = {"model": "smollm2"}
    before = samples(metrics)
    prompt = "Some mountains are high, and others are not so high. " * 8
    used = [llm.generate(prompt, max_tokens=4, temperature=0).usage for _ in range(2)]
    after = samples(metrics)

    def grown(metric: str) -> float:
        return at(after, metric, **name) - at(before, metric, **name)

    assert grown("alpage_engine_prompt_tokens_total") == sum(u.prompt_tokens for u in used)
    assert grown("alpage_engine_cached_tokens_total") == sum(u.cached_tokens for u in used) > 0
    assert grown("alpage_engine_completion_tokens_total") == 8
    assert grown("alpage_engine_step_seconds_total") > 0
    assert at(after, "alpage_engine_up", **name) == 1
    assert at(after, "alpage_cache_pages", **name) >= at(after, "alpage_cache_pages_free", **name)


def test_a_model_that_is_closed_is_down_but_readable(smollm2_path: Path) -> None:
    llm = Llama.load(smollm2_path, context=64, settings=Settings())
    llm.close()
    found = samples(Metrics(lambda: {"m"}, lambda: {"m": llm.engine.stats}))
    assert at(found, "alpage_engine_up", model="m") == 0
    assert at(found, "alpage_cache_pages", model="m") > 0

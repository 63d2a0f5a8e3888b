"""Spans, as a collector on this machine receives them."""

import gzip
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from tests.server.observe.views import View, watch

from alpage import __version__
from alpage.core.errors import UsageError
from alpage.server.observe import traces as traces_module
from alpage.server.observe.traces import Traces

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECOND = 10**9


class Collector:
    """OTLP over HTTP: it keeps what it is sent; `open` cleared, it lets the senders wait."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        self.paths: list[str] = []
        self.open = threading.Event()
        self.open.set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.open.wait(30)
                collector.paths.append(self.path)
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def close(self) -> None:
        self.open.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


def plain(attributes: Any) -> dict[str, Any]:
    def value(any_value: Any) -> Any:
        kind = any_value.WhichOneof("value")
        if kind == "array_value":
            return [value(one) for one in any_value.array_value.values]
        return getattr(any_value, kind)

    return {one.key: value(one.value) for one in attributes}


def sent(collector: Collector, *calls: View, prompts: bool = False) -> list[Any]:
    traces = Traces(collector.url, prompts=prompts)
    for call in calls:
        watch(traces, call, 0.1, 0.2)
    traces.close()
    return collector.spans


def test_a_call_is_a_span_of_the_conventions(collector: Collector) -> None:
    call = View(prompt_text="secret", answer_text="secret", began=time.perf_counter() - 2)
    (span,) = sent(collector, call)
    assert collector.paths == ["/v1/traces"]
    assert span.name == "POST /v1/chat/completions"
    assert span.kind == span.SPAN_KIND_SERVER
    assert len(span.trace_id) == 16 and span.parent_span_id == b""
    assert span.status.code == span.status.STATUS_CODE_UNSET
    assert plain(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "alpage",
        "gen_ai.request.model": "smollm2",
        "gen_ai.response.model": "smollm2",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.125,
        "gen_ai.usage.input_tokens": 30,
        "gen_ai.usage.cache_read.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "alpage.request.id": "req-1",
        "alpage.dialect": "openai",
        "alpage.key": "k_12",
        "alpage.tenant": "shop",
    }
    first, end = span.events
    assert (first.name, end.name) == ("first token", "end")
    assert plain(end.attributes) == {"reasons": ["stop"]}
    began = span.start_time_unix_nano
    assert began == int(call.time * 1e9)
    assert first.time_unix_nano - began == SECOND // 8
    assert end.time_unix_nano == span.end_time_unix_nano
    assert 2 * SECOND <= span.end_time_unix_nano - began < 60 * SECOND
    (resource,) = collector.requests[0].resource_spans
    told = plain(resource.resource.attributes)
    assert (told["service.name"], told["service.version"]) == ("alpage", __version__)
    assert "secret" not in str(collector.requests)


def test_a_trace_that_the_client_began_goes_on(collector: Collector) -> None:
    quiet = PARENT.removesuffix("01") + "00"  # whoever began it does not want it kept
    (span,) = sent(collector, View(trace_parent=PARENT), View(trace_parent=quiet))
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]


@pytest.mark.parametrize(
    "parent", ["", "nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", PARENT * 9]
)
def test_a_trace_that_makes_no_sense_is_not_continued(collector: Collector, parent: str) -> None:
    (span,) = sent(collector, View(trace_parent=parent))
    assert span.parent_span_id == b""


def test_failures_and_strange_methods_are_told(collector: Collector) -> None:
    refused = View(status=429, error="too many", finish_reasons=(), first_token_seconds=None)
    broken = View(status=500, error="a bug", endpoint="/v1/models", model=None, method="BREW\x00")
    first, second = sent(collector, refused, broken)
    assert first.status.code == first.status.STATUS_CODE_UNSET
    assert [event.name for event in first.events] == ["end"]
    told = plain(first.attributes)
    assert told["alpage.error"] == "too many" and "error.type" not in told
    assert "gen_ai.response.model" not in told
    assert second.status.code == second.status.STATUS_CODE_ERROR
    assert (second.name, second.status.message) == ("HTTP /v1/models", "a bug")
    told = plain(second.attributes)
    assert told["error.type"] == "500"
    assert told["http.request.method"] == "_OTHER"
    assert told["http.request.method_original"] == "BREW\x00"
    assert not any(name.startswith("gen_ai.") for name in told)


def test_prompts_only_where_they_are_asked_for(collector: Collector) -> None:
    text = 'Hi "there"\n' * 10_000
    asked = View(prompt_text=text, answer_text="é")
    (span,) = sent(collector, asked, prompts=True)
    told = plain(span.attributes)
    (message,) = json.loads(told["gen_ai.input.messages"])
    assert message["role"] == "user"
    assert message["parts"] == [{"type": "text", "content": text[:20_000]}]
    assert json.loads(told["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "é"}], "finish_reason": "stop"}
    ]


def test_no_text_of_one_call_loses_others(collector: Collector) -> None:
    odd = "a\ud800" * 5000
    nasty = View(id=odd, model=odd, error=odd, finish_reasons=[odd], status=500)
    spans = sent(collector, nasty, View(id="plain"))
    assert len(spans) == 2
    assert all(len(str(value)) < 1100 for value in plain(spans[0].attributes).values())


def test_a_collector_that_does_not_answer_stops_nothing(collector: Collector) -> None:
    collector.open.clear()
    traces = Traces(collector.url)
    for _ in range(5000):  # more than may wait
        watch(traces, View())
    traces.close(0.2)
    assert collector.spans == []
    collector.open.set()


def test_a_collector_that_is_not_there_is_told_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces_module, "_SEND_SECONDS", 0.5)  # it does not try for long
    gone = Collector()
    gone.close()
    traces = Traces(gone.url)
    watch(traces, View())
    with caplog.at_level(logging.WARNING, "opentelemetry"):
        traces.close(30)
    assert "Failed to export spans batch" in caplog.text


@pytest.mark.parametrize(
    "endpoint", ["", "collector:4318", "ftp://x", "http://", "http://[", "http://h:x"]
)
def test_an_endpoint_has_to_be_a_url(endpoint: str) -> None:
    with pytest.raises(UsageError, match="the URL of a collector"):
        Traces(endpoint)


def test_a_path_of_the_collectors_own_is_kept(collector: Collector) -> None:
    collector.url += "/otlp/v1/traces"
    assert len(sent(collector, View())) == 1
    assert collector.paths == ["/otlp/v1/traces"]


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)  # as if it were not there
    with pytest.raises(UsageError, match=r"pip install alpage\[traces\]"):
        Traces("http://127.0.0.1:4318")

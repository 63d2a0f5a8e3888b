"""A span of OpenTelemetry for each request, sent over OTLP/HTTP from a thread of its own.

Names follow the conventions for HTTP servers and for generative AI. The packages are those of the
extra `traces`, loaded only when a server is to send traces.
"""

import json
import threading
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alpage import __version__
from alpage.core.errors import UsageError
from alpage.server.observe.observer import CallView

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/api/chat": "chat",
    "/v1/completions": "text_completion",
    "/api/generate": "text_completion",
    "/v1/embeddings": "embeddings",
    "/api/embed": "embeddings",
    "/api/embeddings": "embeddings",
}
_METHODS = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_MOST_TEXT = 1000
_MOST_PROMPT = 20_000
_WAITING, _WAITING_WITH_PROMPTS = 2048, 256
_BATCH = 64
_SEND_SECONDS = 5.0


class Traces:
    """An `Observer` that makes a span of each call when it ends.

    `endpoint`: URL of the collector; without a path, OTLP's own `/v1/traces`. Headers and
    certificates can be given in OpenTelemetry's own variables (OTEL_EXPORTER_OTLP_HEADERS and so
    on). `prompts`: with what was asked and answered. UsageError without the packages, or for an
    endpoint that is none. `close` it.
    """

    def __init__(self, endpoint: str, *, prompts: bool = False, service: str = "alpage") -> None:
        self._prompts = prompts
        self._provider = _provider(
            _checked(endpoint), service, _WAITING_WITH_PROMPTS if prompts else _WAITING
        )
        self._tracer = self._provider.get_tracer("alpage", __version__)

    def began(self, call: CallView) -> None:
        """A span is made at the end, with the times that the call knows."""

    def piece(self, call: CallView, seconds: float, tokens: int, first: bool) -> None:
        """The call knows when its first token came."""

    def ended(self, call: CallView) -> None:
        """Make the span and queue it; nothing waits for the collector."""
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {"traceparent": call.trace_parent} if call.trace_parent else {}
        began = int(call.time * 1e9)
        method = call.method if call.method in _METHODS else "HTTP"
        span = self._tracer.start_span(
            f"{method} {call.endpoint}",
            TraceContextTextMapPropagator().extract(carrier),
            SpanKind.SERVER,
            _attributes(call) | (_content(call) if self._prompts else {}),
            start_time=began,
        )
        if call.first_token_seconds is not None:
            first = began + int(call.first_token_seconds * 1e9)
            span.add_event("first token", timestamp=first)
        end = began + int((time.perf_counter() - call.began) * 1e9)
        span.add_event("end", {"reasons": [_text(r) for r in call.finish_reasons]}, timestamp=end)
        if call.status >= 500:
            span.set_status(Status(StatusCode.ERROR, _text(call.error or "")))
        span.end(end)

    def close(self, seconds: float = 3.0) -> None:
        """Send what waits, for so many seconds at most."""
        # The SDK's own limit is longer than a server's end may take.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(seconds)


def _provider(endpoint: str, service: str, waiting: int) -> "TracerProvider":
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import SpanLimits, TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise UsageError(
            f"traces need packages that are not installed ({error.name}): "
            "pip install alpage[traces]"
        ) from error
    provider = TracerProvider(
        resource=Resource.create({"service.name": service, "service.version": __version__}),
        shutdown_on_exit=False,
        span_limits=SpanLimits(max_attribute_length=6 * _MOST_PROMPT + 200),
    )
    provider.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(endpoint, timeout=_SEND_SECONDS),
            max_queue_size=waiting,
            schedule_delay_millis=1000,
            max_export_batch_size=_BATCH,
        )
    )
    return provider


def _checked(endpoint: str) -> str:
    """The whole URL of the collector."""
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"traces go to the URL of a collector, such as http://127.0.0.1:4318, not {endpoint!r}"
        )
    path = parts.path if parts.path.strip("/") else "/v1/traces"
    return parts._replace(path=path).geturl()


def _attributes(call: CallView) -> dict[str, Any]:
    """What the conventions name, and a few of our own; None is left out."""
    method = call.method if call.method in _METHODS else "_OTHER"
    found: dict[str, Any] = {
        "http.request.method": method,
        "http.request.method_original": None if method == call.method else _text(call.method),
        "http.route": call.endpoint,
        "http.response.status_code": call.status or None,
        "error.type": str(call.status) if call.status >= 500 else None,
        "alpage.request.id": _text(call.id),
        "alpage.dialect": call.dialect,
        "alpage.key": call.caller.key,
        "alpage.tenant": _text(call.caller.tenant),
        "alpage.error": None if call.error is None else _text(call.error),
    }
    operation = _OPERATIONS.get(call.endpoint)
    if operation is not None and call.model is not None:
        model = _text(call.model)
        found |= {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "alpage",
            "gen_ai.request.model": model,
            "gen_ai.response.model": model if call.status == 200 else None,
            "gen_ai.response.finish_reasons": [_text(r) for r in call.finish_reasons] or None,
            "gen_ai.response.time_to_first_chunk": call.first_token_seconds,
            "gen_ai.usage.input_tokens": call.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": call.cached_tokens,
            "gen_ai.usage.output_tokens": call.completion_tokens,
        }
    return {name: value for name, value in found.items() if value is not None}


def _content(call: CallView) -> dict[str, str]:
    """What was asked and answered, as the conventions write messages."""
    reason = _text(call.finish_reasons[0]) if call.finish_reasons else ""
    found = {}
    if call.prompt_text is not None:
        found["gen_ai.input.messages"] = _message("user", call.prompt_text)
    if call.answer_text is not None:
        found["gen_ai.output.messages"] = _message(
            "assistant", call.answer_text, finish_reason=reason
        )
    return found


def _message(role: str, text: str, **more: str) -> str:
    part = {"type": "text", "content": _text(text, _MOST_PROMPT)}
    return json.dumps([{"role": role, "parts": [part], **more}], ensure_ascii=False)


def _text(text: str, most: int = _MOST_TEXT) -> str:
    """Cut, and without what UTF-8 cannot say: one such text would lose its whole batch."""
    return text[:most].encode("utf-8", "replace").decode()

"""What two looks at a server's metrics say about the time between them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from alpage.core.errors import FormatError

_KEPT = ("alpage_", "process_")
_HAVE_ROWS = ("alpage_engine_up", "alpage_requests_total")
_FAILED = "failed requests"
_MOST_MODELS = 200


class Look:
    """All samples of one answer of `/metrics`, and when it came (seconds of any clock)."""

    def __init__(self, text: str, at: float) -> None:
        """FormatError for a text that is no metrics of this server."""
        from prometheus_client.parser import text_string_to_metric_families

        self.at = at
        self.version = ""
        self._sums: dict[tuple[str, str | None], float] = {}
        self._buckets: dict[tuple[str, str | None], dict[float, float]] = {}
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name.startswith(_KEPT) and math.isfinite(sample.value):
                        self._add(sample.name, sample.labels, sample.value)
        except (ValueError, KeyError, IndexError) as error:
            raise FormatError(f"what it answers is not in Prometheus' format: {error}") from error
        if not self.version:
            raise FormatError("what it answers are not the metrics of an Alpage server")

    def _add(self, name: str, labels: Mapping[str, str], value: float) -> None:
        model = labels.get("model")
        names = [name]
        if name == "alpage_build_info":
            self.version = labels["version"]
        elif name == "alpage_requests_total" and labels.get("status", "") >= "400":
            names.append(_FAILED)
        for place in {(n, m) for n in names for m in (None, model)}:
            self._sums[place] = self._sums.get(place, 0.0) + value
        if name.endswith("_bucket"):
            counts = self._buckets.setdefault((name, model), {})
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value

    @property
    def models(self) -> list[str]:
        """Names by which there are numbers, in order; "none" is for what asks for no model."""
        names = {model for name, model in self._sums if name in _HAVE_ROWS and model is not None}
        return sorted(names - {"none"})[:_MOST_MODELS]

    def known(self, name: str, model: str) -> bool:
        """Whether there is such a sample."""
        return (name, model) in self._sums

    def total(self, name: str, model: str | None = None) -> float:
        """The sum of the samples, of one model or of all; 0 without any."""
        return self._sums.get((name, model), 0.0)

    def failed(self, model: str | None = None) -> float:
        """Requests with a status of 400 and above."""
        return self.total(_FAILED, model)

    def buckets(self, name: str, model: str) -> list[tuple[float, float]]:
        """Upper bounds of a histogram and how many were not above, ascending."""
        return sorted(self._buckets.get((f"{name}_bucket", model), {}).items())


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that half of the observations, and 95 of 100, did not exceed; None without any."""

    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """One model. Rates are per second; shares are of 1, None where there was nothing to share."""

    running: int
    waiting: int
    requests: float
    errors: float
    prompt_tokens: float
    completion_tokens: float
    first_token: Times
    inter_token: Times
    cache_use: float | None
    cache_hits: float | None
    accepted: float | None


@dataclass(frozen=True, slots=True)
class Numbers:
    """A server over `seconds`. `processors` is how many it kept busy; bytes are resident."""

    version: str
    seconds: float
    requests: float
    errors: float
    refused: float
    in_flight: int
    memory_bytes: int
    processors: float
    up_seconds: float | None
    models: dict[str, ModelNumbers] = field(default_factory=dict)


class Between:
    """The time from one look at a server to a later one."""

    def __init__(self, before: Look, after: Look) -> None:
        self._before, self._after = before, after
        self._seconds = max(after.at - before.at, 1e-3)

    def numbers(self, now: float) -> Numbers:
        """Everything; `now` in seconds since 1970."""
        after = self._after
        began = after.total("process_start_time_seconds")
        return Numbers(
            version=after.version,
            seconds=self._seconds,
            requests=self._rate("alpage_requests_total"),
            errors=_grown(self._before.failed(), after.failed()) / self._seconds,
            refused=self._rate("alpage_refused_requests_total"),
            in_flight=round(after.total("alpage_requests_in_flight")),
            memory_bytes=round(after.total("process_resident_memory_bytes")),
            processors=self._rate("process_cpu_seconds_total"),
            up_seconds=now - began if began else None,
            models={model: self._model(model) for model in after.models},
        )

    def _model(self, model: str) -> ModelNumbers:
        after = self._after
        pages = after.total("alpage_cache_pages", model)
        free = after.total("alpage_cache_pages_free", model)
        failed = _grown(self._before.failed(model), after.failed(model))
        # An engine counts tokens as they come; of another server's model only ended calls tell.
        kind = "alpage_engine" if after.known("alpage_engine_up", model) else "alpage"
        return ModelNumbers(
            running=round(after.total("alpage_engine_requests_running", model)),
            waiting=round(after.total("alpage_engine_requests_waiting", model)),
            requests=self._rate("alpage_requests_total", model),
            errors=failed / self._seconds,
            prompt_tokens=self._rate(f"{kind}_prompt_tokens_total", model),
            completion_tokens=self._rate(f"{kind}_completion_tokens_total", model),
            first_token=self._times("alpage_time_to_first_token_seconds", model),
            inter_token=self._times("alpage_inter_token_seconds", model),
            cache_use=1 - free / pages if pages else None,
            cache_hits=self._share("engine_cached_tokens", "engine_prompt_tokens", model),
            accepted=self._share(
                "speculation_accepted_tokens", "speculation_drafted_tokens", model
            ),
        )

    def _growth(self, name: str, model: str | None = None) -> float:
        return _grown(self._before.total(name, model), self._after.total(name, model))

    def _rate(self, name: str, model: str | None = None) -> float:
        return self._growth(name, model) / self._seconds

    def _share(self, part: str, whole: str, model: str) -> float | None:
        of = self._growth(f"alpage_{whole}_total", model)
        return self._growth(f"alpage_{part}_total", model) / of if of else None

    def _times(self, name: str, model: str) -> Times:
        before = dict(self._before.buckets(name, model))
        after = self._after.buckets(name, model)
        if any(count < before.get(bound, 0.0) for bound, count in after):
            before = {}  # the server has started again
        grown = [(bound, count - before.get(bound, 0.0)) for bound, count in after]
        return Times(quantile(grown, 0.5), quantile(grown, 0.95))


def _grown(before: float, after: float) -> float:
    """What a counter counted; one that is smaller than before has begun again."""
    return after - before if after >= before else after


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """The value that `share` of the observations did not exceed, as far as buckets tell.

    `buckets`: upper bounds with cumulative counts, ascending. Evenly spread within a bucket; beyond
    the last finite bound it is that bound.
    """
    count = buckets[-1][1] if buckets else 0.0
    if count <= 0:
        return None
    low, below = 0.0, 0.0
    for bound, reached in buckets:
        if reached >= share * count and reached > below:
            if math.isinf(bound):
                break
            return low + (bound - low) * (share * count - below) / (reached - below)
        if not math.isinf(bound):
            low, below = bound, reached
    return low

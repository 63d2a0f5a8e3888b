"""A histogram of times that come several at once, for every token of every answer."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class TokenTimes(Collector):
    """As `prometheus_client.Histogram` with the label "model", without its two locks a value.

    One thread adds; a reader sees a value that is being added wholly, or in its count and not yet
    in its sum.
    """

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        self._name, self._text = name, text
        self._bounds = list(buckets)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def knows(self, model: str) -> bool:
        """Whether a time of that model was added before."""
        return model in self._counts

    def add(self, model: str, seconds: float, tokens: int) -> None:
        """Add `tokens` times, which make up `seconds` together."""
        counts = self._counts.get(model)
        if counts is None:
            self._sums[model] = 0.0
            counts = self._counts[model] = [0] * (len(self._bounds) + 1)
        counts[bisect_left(self._bounds, seconds / tokens)] += tokens
        self._sums[model] += seconds

    def collect(self) -> Iterator[Metric]:
        """The family, as the registry asks for it."""
        family = HistogramMetricFamily(self._name, self._text, labels=["model"])
        bounds = [*map(str, map(float, self._bounds)), "+Inf"]
        for model, counts in list(self._counts.items()):
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([model], buckets, self._sums[model])
        yield family

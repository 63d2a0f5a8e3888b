"""What users wait for: figures of one round from the times at which tokens came."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from alpage.bench.report import Unit
from alpage.bench.traffic import Load, TimedRequest


@dataclass(slots=True)
class Answer:
    """Seconds since the start of a round: when a request arrived, and when each token came.

    In the open loop a request arrives when it should, even where the one who asks is late.
    """

    arrived: float
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


UNITS: dict[str, Unit] = {
    "output": "tokens/s",
    "prompts and output": "tokens/s",
    "first token, p50": "s",
    "first token, p95": "s",
    "between tokens, p50": "s",
    "between tokens, p95": "s",
    "between tokens, p99": "s",
    "waiting for the first token, mean": "requests",
    "waiting for the first token, most": "requests",
    "finished": "requests",
}
"""Names of the figures, in the order in which they are shown."""


def figures(
    load: Load, requests: Sequence[TimedRequest], answers: Sequence[Answer]
) -> dict[str, float]:
    """The figures of `UNITS` from complete answers, in the order of their requests.

    Open loop: all of it, until the last answer ended. Closed loop: from the first request that
    replaced another one to the last, and the waiting of those that did; the first ones come all at
    once, as later ones never do, and after the last one the load shrinks. A prompt counts when its
    answer begins. Times between tokens are those of all neighbours in all answers.
    """
    counted = answers[load.together or 0 :]
    begin = counted[0].arrived
    end = max(answer.times[-1] for answer in answers)
    if load.together is not None:
        end = max(answer.arrived for answer in counted)
    output = sum(begin < time <= end for answer in answers for time in answer.times)
    prompts = sum(
        len(request.prompt)
        for request, answer in zip(requests, answers, strict=True)
        if begin < answer.times[0] <= end
    )
    first = [answer.times[0] - answer.arrived for answer in counted]
    gaps = np.concatenate([np.diff(answer.times) for answer in counted]).tolist()
    waits = [(max(a.arrived, begin), min(a.times[0], end)) for a in answers]
    waits = [(since, until) for since, until in waits if since <= until]
    return {
        "output": output / (end - begin),
        "prompts and output": (prompts + output) / (end - begin),
        "first token, p50": percentile(first, 50),
        "first token, p95": percentile(first, 95),
        "between tokens, p50": percentile(gaps, 50),
        "between tokens, p95": percentile(gaps, 95),
        "between tokens, p99": percentile(gaps, 99),
        "waiting for the first token, mean": sum(until - since for since, until in waits)
        / (end - begin),
        "waiting for the first token, most": float(_most_together(waits)),
        "finished": float(sum(begin < answer.times[-1] <= end for answer in answers)),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest values in proportion: numpy's default, type 7 of Hyndman and Fan."""
    return float(np.percentile(values, percent))


def _most_together(stretches: Sequence[tuple[float, float]]) -> int:
    # At equal times beginnings come first: a request waits at least an instant.
    changes = sorted(
        [(since, 0, 1) for since, _ in stretches] + [(until, 1, -1) for _, until in stretches]
    )
    return max(accumulate(change for _, _, change in changes), default=0)

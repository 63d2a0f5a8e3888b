"""What users wait for: figures of one round from the times at which tokens came."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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

    Rates count what came until the last answer ended (open loop) or until the last request was
    asked (closed loop: until then there is always the whole load). A prompt counts when its answer
    begins. Times between tokens are those of all neighbours in all answers, not means by answer.
    """
    end = max(answer.times[-1] for answer in answers)
    if load.together is not None:
        end = max(answer.arrived for answer in answers)
    output = sum(time <= end for answer in answers for time in answer.times)
    prompts = sum(
        len(request.prompt)
        for request, answer in zip(requests, answers, strict=True)
        if answer.times[0] <= end
    )
    first = [answer.times[0] - answer.arrived for answer in answers]
    gaps = np.concatenate([np.diff(answer.times) for answer in answers])
    return {
        "output": output / end,
        "prompts and output": (prompts + output) / end,
        "first token, p50": percentile(first, 50),
        "first token, p95": percentile(first, 95),
        "between tokens, p50": percentile(gaps.tolist(), 50),
        "between tokens, p95": percentile(gaps.tolist(), 95),
        "between tokens, p99": percentile(gaps.tolist(), 99),
        "waiting for the first token, mean": _mean_waiting(answers),
        "waiting for the first token, most": float(_most_waiting(answers)),
        "finished": float(sum(answer.times[-1] <= end for answer in answers)),
    }


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest values in proportion: numpy's default, type 7 of Hyndman and Fan."""
    return float(np.percentile(values, percent))


def _mean_waiting(answers: Sequence[Answer]) -> float:
    """Over time: requests that have arrived and have no token yet."""
    whole = max(answer.times[-1] for answer in answers)
    return sum(answer.times[0] - answer.arrived for answer in answers) / whole


def _most_waiting(answers: Sequence[Answer]) -> int:
    # At equal times the arrival comes first: a request waits at least an instant.
    changes = sorted(
        [(answer.arrived, 0, 1) for answer in answers]
        + [(answer.times[0], 1, -1) for answer in answers]
    )
    return int(np.cumsum([change for _, _, change in changes]).max())

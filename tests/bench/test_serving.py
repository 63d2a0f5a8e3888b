"""Alpage under a load: every answer is whole and is the one that the request gets alone."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.weights.gguf_files import tiny_model

from alpage.bench.latency import UNITS
from alpage.bench.serve_like import Options, _context, check, measure, measure_load
from alpage.bench.serving import AlpageServer, Sampling
from alpage.bench.traffic import Load, Mix, TimedRequest, Traffic, from_vocabulary
from alpage.bench.turns import workers
from alpage.bench.worker import Job
from alpage.core.errors import InputError, InternalError, UsageError

SHORT = Mix(message=6, answer=4, system=16)


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[AlpageServer]:
    server = AlpageServer(smollm2_path, threads=1, isa=None, sampling=Sampling())
    assert server.load() > 0
    server.prepare(4, 256)
    yield server
    server.close()


def some(load: Load) -> list[TimedRequest]:
    ids = np.arange(1000, 3000, dtype=np.int32)
    return Traffic(SHORT, from_vocabulary(ids), 1).requests(load, 1)


def test_every_answer_is_whole_and_the_same_in_any_company(server: AlpageServer) -> None:
    requests = some(Load("rate", 20, slots=4, requests=8))
    alone = server.serve(requests, 1)
    crowd = server.serve(requests, 4)
    timed = server.serve(requests, None)
    assert [len(answer.tokens) for answer in alone] == [r.answer_tokens for r in requests]
    assert [a.tokens for a in crowd] == [a.tokens for a in timed] == [a.tokens for a in alone]
    for answers in (alone, crowd, timed):
        for answer in answers:
            assert [answer.arrived, *answer.times] == sorted([answer.arrived, *answer.times])
    assert [answer.arrived for answer in timed] == [request.at for request in requests]


def test_each_one_that_ends_is_replaced(server: AlpageServer) -> None:
    requests = some(Load("together", 2, slots=4, requests=6))
    answers = server.serve(requests, 2)
    assert [answer.arrived for answer in answers[:2]] == [0, 0]
    ends = sorted(answer.times[-1] for answer in answers)
    for answer, end in zip(answers[2:], ends, strict=False):
        assert end <= answer.arrived <= answer.times[0]
    started = sorted(answer.arrived for answer in answers)
    for time in started:
        assert sum(a.arrived <= time < a.times[-1] for a in answers) <= 2


def test_a_request_that_cannot_run_ends_the_measurement(server: AlpageServer) -> None:
    with pytest.raises(InputError, match="outside the vocabulary"):
        server.serve([TimedRequest(0, [10**6], 2, 0)], None)
    # One that is refused in the engine's thread, where the first one's end starts it.
    fine, wrong = TimedRequest(0, [5], 2, 0), TimedRequest(0, [10**6], 2, 0)
    with pytest.raises(InputError, match="outside the vocabulary"):
        server.serve([fine, wrong], 1)
    with pytest.raises(InternalError, match=r"an answer has .* tokens instead of 300"):
        server.serve([TimedRequest(0, [5], 300, 0)], 1)  # longer than the context
    assert server.serve([fine], 1)[0].tokens


def test_it_must_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="has not been loaded"):
        AlpageServer(tmp_path, threads=1, isa=None).serve([], 1)


def test_a_worker_serves_and_the_first_round_does_not_count(smollm2_path: Path) -> None:
    load = Load("together", 2, slots=2, requests=6)
    ids = np.arange(1000, 3000, dtype=np.int32)
    said: list[str] = []
    job = Job("alpage", str(smollm2_path), 1, None, [], serving=True, temperature=0.8)
    assert Job.of(job.to_json()) == job
    with workers([job]) as (worker,):
        worker.load()
        assert worker.facts["threads"] == 1
        found = measure_load(
            [worker], load, 256, Traffic(SHORT, from_vocabulary(ids), 1), 2, said.append
        )
    assert [measured.name for measured in found] == [f"2 together: {name}" for name in UNITS]
    assert all(len(measured.best("alpage")) == 2 for measured in found)
    assert found[0].median("alpage") > 0
    assert said == [
        f"2 together, {what}: alpage" for what in ("warming up", "round 1 of 2", "round 2 of 2")
    ]


def test_loads_are_in_order_and_have_their_defaults() -> None:
    path = Path("m")
    names = [load.name for load in Options(path, rates=(2, 0.5), together=(8, 4)).loads()]
    assert names == ["0.5 a second", "2 a second", "4 together", "8 together"]
    sixteen, sixty_four = Options(path).loads()
    assert (sixteen.requests, sixteen.slots) == (64, 16)
    assert (sixty_four.requests, sixty_four.slots) == (256, 64)
    (rate,) = Options(path, rates=(1,)).loads()
    assert (rate.requests, rate.slots) == (100, 16)


def test_a_model_must_hold_the_longest_request(tmp_path: Path) -> None:
    assert _context(Mix(), 8192) == 2048
    with pytest.raises(UsageError, match=r"has 1977 tokens, but the model holds 1024; .*--answer"):
        _context(Mix(), 1024)
    tiny = tiny_model().write(tmp_path / "tiny.gguf")
    with pytest.raises(UsageError, match="the longest request has"):
        measure(Options(tiny), lambda what: None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rates": (0,)}, "--requests-per-second must be above 0 and at most 10000, not 0"),
        ({"rates": (float("nan"),)}, "not nan"),
        ({"together": (0,)}, "--concurrency must be between 1 and 1024, not 0"),
        ({"slots": 2000}, "--slots must be between 1 and 1024, not 2000"),
        ({"requests": 20}, "--requests must be between 48 and 100000 for 16 together, not 20"),
        ({"mix": Mix(answer=0)}, "--answer-tokens must be between 1 and 1000000, not 0"),
        ({"temperature": -1}, "--temperature must be between 0 and 100, not -1"),
        ({"seed": -1}, "--seed must be between 0 and"),
        ({"runs": 0}, "runs must be between 1 and 1000"),
        ({"against": "x"}, r"--against takes llama\.cpp, http, not 'x'"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(Options(Path("m"), **changes))  # type: ignore[arg-type]

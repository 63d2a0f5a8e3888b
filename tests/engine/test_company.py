"""The real model behind the scheduler: the same tokens alone, together, in any chunks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from alpage.core.types import KvType, SamplingParams
from alpage.engine.native import NativeRunner, sample_row
from alpage.engine.protocol import Request, Runner, TokenEvent
from alpage.engine.scheduler import Limits, Scheduler
from alpage.engine.torch import TorchRunner
from alpage.weights.source import open_model

PAGES = 9
PROMPTS = [list(range(1000 + 31 * n, 1012 + 32 * n)) for n in range(5)]


@pytest.fixture(scope="module", params=["native", "int8", "torch"])
def runner(request: pytest.FixtureRequest, smollm2_path: Path) -> Iterator[Runner]:
    with open_model(smollm2_path) as source:
        made: Runner
        if request.param == "torch":
            made = TorchRunner.load(source, page_count=PAGES)
        else:
            kv: KvType = "int8" if request.param == "int8" else "bf16"
            made = NativeRunner(source, threads=2, context_tokens=PAGES * 16, kv=kv)
    yield made
    made.close()


def answers(
    runner: Runner, prompts: list[list[int]], limits: Limits
) -> tuple[dict[int, list[int]], int]:
    """Tokens of each prompt's answer, all in one scheduler; and how often one gave way."""
    scheduler = Scheduler(runner, limits=limits, sampler=sample_row)
    for prompt in prompts:
        params = SamplingParams(
            max_tokens=16, seed=prompt[0], temperature=0.0 if len(prompt) % 2 else 0.8,
            top_p=0.95, repetition_penalty=1.1,
        )  # fmt: skip
        scheduler.add(prompt[0], Request(prompt, params))
    found: dict[int, list[int]] = {prompt[0]: [] for prompt in prompts}
    while scheduler.busy:
        for number, event in scheduler.step():
            if isinstance(event, TokenEvent):
                found[number].append(event.token)
    assert scheduler.free_pages == runner.page_count
    return found, scheduler.preemptions


def test_answers_are_the_same_in_any_company(runner: Runner) -> None:
    alone: dict[int, list[int]] = {}
    for prompt in PROMPTS:
        alone |= answers(runner, [prompt], Limits())[0]
    assert all(len(tokens) == 16 for tokens in alone.values())
    together, preemptions = answers(runner, PROMPTS, Limits())
    assert together == alone
    assert preemptions > 0  # the pool is too small for all of them
    assert answers(runner, PROMPTS[::-1], Limits(rows=7, running=4))[0] == alone

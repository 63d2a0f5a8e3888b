"""A draft model writes ahead: it changes no token, keeps to its own pages, and is left if wrong."""

import random
from pathlib import Path
from typing import Any

import pytest
from tests.cli.speaker import speaker
from tests.engine.answers import end_of, expected, run, tokens_of
from tests.engine.fakes import FakeConstraint, FakeRunner

from alpage import Llama
from alpage.core.errors import UsageError
from alpage.core.settings import Settings
from alpage.core.types import SamplingParams
from alpage.engine.draft import DraftModel, Wish
from alpage.engine.engine import Engine
from alpage.engine.protocol import FinishEvent, Request
from alpage.engine.scheduler import Limits, Scheduler


class Deaf(FakeRunner):
    """Says something else than the plain fake."""

    def _noise(self, tokens: list[int], width: int, marks: Any = ()) -> Any:
        return super()._noise([*tokens, 1], width, marks)


def asked(prompt: list[int], **sampling: Any) -> Request:
    return Request(
        prompt, SamplingParams(**({"max_tokens": 40, "seed": 3, "temperature": 0.0} | sampling))
    )


def with_draft(
    small: FakeRunner, target: FakeRunner | None = None, *, step: int = 50, **options: Any
) -> tuple[Scheduler, DraftModel]:
    drafts = DraftModel(small, 64, clock=iter(range(1 << 30)).__next__)
    target = target or FakeRunner(context=200, pages=64)
    # How long the target's steps seem beside the draft's: 50 times, a draft nearly always pays.
    clock = iter(range(0, 1 << 40, step)).__next__
    return Scheduler(target, draft=drafts, clock=clock, **options), drafts


def test_a_draft_that_is_right_saves_passes() -> None:
    target = FakeRunner(context=200, pages=64)
    scheduler, drafts = with_draft(FakeRunner(context=200, pages=64), target)
    scheduler.add(0, asked([1, 2, 3], max_tokens=120))
    events = run(scheduler)[0]
    assert tokens_of(events) == expected(asked([1, 2, 3], max_tokens=120), 200)[0]
    usage = end_of(events).usage
    assert usage.accepted_tokens == usage.drafted_tokens > 80
    assert len(target.rows) < 40
    assert (scheduler.free_pages, drafts.free_pages) == (64, 64)


def test_a_draft_that_is_wrong_is_left() -> None:
    target = FakeRunner(context=300, pages=80)
    scheduler, _ = with_draft(Deaf(context=300, pages=80), target, step=3)
    one = asked([1, 2, 3], max_tokens=250)
    scheduler.add(0, one)
    events = run(scheduler)[0]
    assert tokens_of(events) == expected(one, 300)[0]
    usage = end_of(events).usage
    assert usage.accepted_tokens < 10 < usage.drafted_tokens < 60


@pytest.mark.parametrize("seed", range(25))
def test_any_request_in_any_company_says_what_it_says_alone(seed: int) -> None:
    chance = random.Random(seed)
    pages, few = chance.choice([6, 9, 16, 64]), chance.choice([3, 8, 64])
    rows = chance.choice([3, 16, 64])
    limits = Limits(rows, chance.choice([3, 16]), chance.randint(1, rows))
    small = chance.choice([FakeRunner, Deaf])(pages=few, context=chance.choice([20, 64]))
    scheduler, drafts = with_draft(
        small, FakeRunner(pages=pages), context=chance.choice([24, 64]), limits=limits
    )
    limit = min(scheduler.context, pages * 4)
    wanted = []
    for number in range(8):
        one = asked(
            [chance.randrange(60) for _ in range(chance.randint(1, min(limit, 12)))],
            max_tokens=chance.randint(1, 60),
            temperature=chance.choice([0.0, 0.3]),
            seed=chance.randrange(99),
            stop_token_ids=[chance.randrange(60)],
            context_policy=chance.choice(["stop", "shift"]),
        )
        if chance.random() < 0.3:
            rule = FakeConstraint(chance.randrange(1 << 30), 20)
            one = Request(one.prompt, one.sampling, constraint=rule)
        wanted.append(one)
        scheduler.add(number, one)
    events = run(scheduler)
    for number, one in enumerate(wanted):
        assert (tokens_of(events[number]), end_of(events[number]).reason) == expected(one, limit)
    assert (scheduler.free_pages, drafts.free_pages) == (pages, few)


def test_a_long_text_is_caught_up_with_in_parts() -> None:
    small = FakeRunner(context=1000, pages=250)
    drafts = DraftModel(small, 64)
    text = [n % 60 for n in range(700)]
    found = []
    for _ in range(4):
        wish = Wish(1, text, 2)
        drafts.write([wish])
        found.append(wish.found)
    assert [len(tokens) for tokens in found] == [0, 0, 2, 2]
    assert found[2] == found[3] == expected(asked(text, max_tokens=2), 1000)[0]
    assert max(small.rows) == 256
    drafts.forget(1)
    assert drafts.free_pages == 250


def test_an_error_of_the_draft_model_ends_what_runs_and_the_engine_goes_on() -> None:
    small = FakeRunner(context=200, pages=64)
    drafts = DraftModel(small, 64)
    engine = Engine(FakeRunner(context=200, pages=64), draft=drafts)
    small.fail = ValueError("broken")
    with pytest.raises(Exception, match="broken"):
        list(engine.submit(asked([1, 2, 3])))
    *_, last = engine.submit(asked([1, 2, 3]))
    assert isinstance(last, FinishEvent)
    engine.close()
    assert small.closed


@pytest.fixture(scope="module")
def small_path(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model with coarser weights: right often, not always."""
    from alpage.convert.quantize import quantize
    from alpage.weights.source import open_model

    path = tmp_path_factory.mktemp("draft") / "small.gguf"
    with open_model(smollm2_path) as source:
        quantize(source, path, "Q4_0")
    return path


def test_answers_with_a_draft_model_are_those_without(smollm2_path: Path, small_path: Path) -> None:
    options: dict[str, Any] = {"context": 512, "threads": 2, "settings": Settings()}
    prompts = ["The tides of the harbour", "def add(a, b):", "Once upon a time"]
    found = {}
    for draft in (None, small_path):
        with Llama.load(smollm2_path, draft=draft, **options) as llm:
            asked = [
                llm.completion_request(p, temperature=t, seed=4, max_tokens=40)
                for p in prompts
                for t in (0.0, 0.8)
            ]
            streams = [llm.stream(one) for one in asked]
            found[draft] = [stream.result() for stream in streams]
    assert [a.tokens for a in found[None]] == [a.tokens for a in found[small_path]]


def test_a_draft_model_that_knows_it_all_is_followed(tmp_path: Path) -> None:
    path = speaker(b"abcdefghijklmnop", endless=True).write(tmp_path / "speaker.gguf")
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0.0}
    with Llama.load(path, settings=Settings()) as alone:
        plain = alone.generate("x", **options)
    with Llama.load(path, draft=path, settings=Settings()) as llm:
        answer = llm.generate("x", **options)
    assert (answer.text, plain.usage.drafted_tokens) == (plain.text, 0)
    assert answer.usage.accepted_tokens == answer.usage.drafted_tokens > 0


def test_a_draft_model_has_the_same_vocabulary(smollm2_path: Path, tmp_path: Path) -> None:
    other = speaker().write(tmp_path / "other.gguf")
    with pytest.raises(UsageError, match=r"other\.gguf cannot draft for this model: it has 288"):
        Llama.load(smollm2_path, draft=other, settings=Settings())
    with pytest.raises(UsageError, match="takes no draft model"):
        Llama.load(smollm2_path, draft=smollm2_path, engine="torch", settings=Settings())

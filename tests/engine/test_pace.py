"""The chunk beside answers finds the size that the target allows, on any machine."""

import random

import pytest

from alpage.core.errors import UsageError
from alpage.engine.pace import Pace
from alpage.engine.scheduler import Limits


class Machine:
    """Steps that take `answer` and `prompt` seconds a row, with a share of slow ones."""

    def __init__(self, answer: float, prompt: float, noise: float = 0.0, seed: int = 1) -> None:
        self.answer, self.prompt, self.noise = answer, prompt, noise
        self.chance = random.Random(seed)

    def seconds(self, answers: int, prompts: int) -> float:
        quiet = self.answer * answers + self.prompt * prompts
        return quiet * (1 + self.noise * self.chance.random())


def drive(pace: Pace, machine: Machine, answers: int, steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        rows = pace.rows(0, 0)
        times.append(machine.seconds(answers, rows))
        pace.observe(answers, rows, times[-1])
    return times


@pytest.mark.parametrize("prompt", [1e-5, 1e-4, 7e-4, 1.4e-3])
@pytest.mark.parametrize("answers", [1, 16])
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_95_percent_of_the_steps_keep_the_target(prompt: float, answers: int, noise: float) -> None:
    machine = Machine(8e-4, prompt, noise)
    pace = Pace(0.05, most=512)
    drive(pace, machine, answers, 30)
    times = sorted(drive(pace, machine, answers, 400))
    assert times[int(0.95 * len(times))] <= 0.05
    # And it leaves no more than a part of the time unused, unless the chunk is as large as allowed.
    assert pace.rows(0, 0) == 512 or sum(times) / len(times) > 0.02


def test_a_machine_that_is_too_slow_still_ends_its_prompts() -> None:
    pace = Pace(0.001, most=512)
    drive(pace, Machine(0.1, 0.1), 4, 50)
    assert pace.rows(0, 0) == 16


def test_prompts_get_as_much_time_as_answers_that_take_most_of_the_target() -> None:
    machine, pace = Machine(0.0025, 0.001), Pace(0.05, most=512)
    for _ in range(300):
        pace.observe(
            16, pace.rows(0, 0), machine.seconds(16, pace.rows(0, 0)), alone=machine.seconds(16, 0)
        )
    assert 30 < pace.rows(0, 0) <= 40  # 40 ms beside the answers' 40 ms


@pytest.mark.parametrize(("waiting", "rows"), [(0, 32), (4, 48), (24, 128), (100, 128)])
def test_prompts_get_rows_by_those_who_wait_where_answers_take_most_of_the_target(
    waiting: int, rows: int
) -> None:
    machine, pace = Machine(0.0025, 0.01), Pace(0.05, most=512)
    for _ in range(100):
        pace.observe(32, 64, machine.seconds(32, 64), alone=machine.seconds(32, 0))
    assert pace.rows(32, waiting) == rows
    pace.observe(1, 64, machine.seconds(1, 64), alone=machine.seconds(1, 0))
    assert pace.rows(1, waiting) < 32  # one answer leaves the time to keep the target


def test_a_target_that_is_far_off_takes_all_rows() -> None:
    pace = Pace(60, most=300)
    drive(pace, Machine(1e-3, 1e-3), 4, 50)
    assert pace.rows(0, 0) == 300


def test_the_first_prompt_teaches_before_any_answer_waits() -> None:
    pace = Pace(0.05, most=512)
    pace.observe(0, 512, 2.0)
    assert pace.rows(0, 0) == 16


def test_rests_of_prompts_teach_nothing_about_large_chunks() -> None:
    pace = Pace(0.05, most=512)
    drive(pace, Machine(1e-3, 1e-3), 4, 50)
    before = pace.rows(0, 0)
    for _ in range(100):
        pace.observe(4, 3, 0.007)
        pace.observe(4, 0, 0.004)
        pace.observe(4, before // 2, 0.02)
    assert pace.rows(0, 0) == before


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="above 0 seconds, not 0"):
        Limits(inter_token=0)
    with pytest.raises(UsageError, match="not nan"):
        Limits(inter_token=float("nan"))

"""What is measured, by name."""

import pytest

from alpage.bench.cases import FULL, Case, plan, token_ids


def test_names_are_distinct_and_say_what_is_measured() -> None:
    names = [case.name for case in FULL]
    assert len(set(names)) == len(names)
    assert {"prefill 512", "decode", "decode at depth 1,024", "decode, 16 together"} <= set(names)


def test_cases_that_do_not_fit_the_model_are_left_out() -> None:
    assert plan(8192) == (list(FULL), [])
    fits, left_out = plan(511)
    assert [case.name for case in left_out] == ["prefill 512", "decode at depth 1,024"]
    assert len(fits) + len(left_out) == len(FULL)
    assert all(case.positions <= 511 for case in fits)


@pytest.mark.parametrize("case", FULL)
def test_a_case_survives_the_pipe(case: Case) -> None:
    assert Case.of(case.as_json()) == case


def test_token_ids_are_the_same_in_every_run() -> None:
    assert token_ids(100, 50).tolist() == token_ids(100, 50).tolist()
    assert set(token_ids(10_000, 50).tolist()) == set(range(50))

"""A few of the schemas of `python -m tests.schemas`, by a fixed seed: masks and model."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.schemas.__main__ import Named, by_model, by_walks, sorted_out
from tests.schemas.gather import schemas
from tests.schemas.judge import judged
from tests.schemas.walk import Walker

from alpage import Llama
from alpage.core.settings import Settings
from alpage.engine.grammar import GrammarCompiler

_QUICK = ("ollama._types", "fastapi.openapi.models", "langchain_core.messages")
_MANY = 60
_ANSWERED = 16


@pytest.fixture(scope="module")
def chosen() -> list[Named]:
    found = schemas(_QUICK)
    assert len(found) > 5 * _MANY, "of the packages that the tests need anyway"
    random.Random(5).shuffle(found)
    return found[:_MANY]


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[Llama]:
    with Llama.load(smollm2_path, context=512, threads=2, settings=Settings()) as loaded:
        yield loaded


def test_a_complete_answer_is_valid(chosen: list[Named], llm: Llama) -> None:
    compiler = GrammarCompiler(llm.tokenizer, llm.model.config.vocab_size)
    try:
        enforced, refused, failed = sorted_out(chosen, compiler)
        assert not failed.failures
        assert len(enforced) + refused.total() == _MANY
        assert len(enforced) > _MANY // 2
        walked = by_walks(enforced, Walker(llm.tokenizer, compiler), 2)
    finally:
        compiler.close()
    assert not walked.failures
    assert walked.counts["valid"] > len(enforced)
    answered = by_model(enforced[:_ANSWERED], llm, 60)
    assert not answered.failures
    assert answered.counts["valid"] > 0


def test_the_judge_sees_what_is_wrong() -> None:
    schema = {"type": "object", "properties": {"a": {"format": "date"}}, "required": ["a"]}
    assert judged(schema, '{"a": "2024-02-29"}') is None
    for text in ('{"a": "2023-02-29"}', "{}", "{", '{"a": NaN}', "3"):
        assert judged(schema, text), text
    day = {"format": "date-time"}
    assert judged(day, '"2024-01-01T00:00:00Z"') is None
    assert judged(day, '"2024-01-01T00:00:00"')
    assert judged({"format": "duration"}, '"P1DT"')
    assert judged({"format": "hostname"}, '"-a"')

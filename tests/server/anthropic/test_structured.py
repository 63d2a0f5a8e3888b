"""Answers that follow a schema, read by the anthropic client into objects."""

from typing import Any

import anthropic
import pytest
from pydantic import BaseModel
from tests.server.anthropic.asking import GREEDY


class Person(BaseModel):
    name: str
    age: int


OPTIONS: dict[str, Any] = {
    "model": "smollm2", "max_tokens": 60, "extra_body": GREEDY,
    "messages": [{"role": "user", "content": "Ada is 36 years old. Who is it, in JSON?"}],
}  # fmt: skip
FORMAT: Any = {
    "type": "json_schema",
    "schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


@pytest.mark.client("anthropic", "structured outputs: parse")
def test_an_answer_is_parsed(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.parse(**OPTIONS, output_format=Person)
    assert isinstance(answer.parsed_output, Person)
    assert answer.stop_reason == "end_turn"
    # The answer goes back as the client's own objects.
    told: list[Any] = [
        *OPTIONS["messages"],
        {"role": "assistant", "content": answer.content},
        {"role": "user", "content": "Thanks."},
    ]
    after = claude.messages.create(**OPTIONS | {"messages": told, "max_tokens": 2})
    assert after.usage.output_tokens == 2


@pytest.mark.client("anthropic", "structured outputs: stream with output_format")
def test_a_stream_is_parsed(claude: anthropic.Anthropic) -> None:
    whole = claude.messages.parse(**OPTIONS, output_format=Person)
    with claude.messages.stream(**OPTIONS, output_format=Person) as stream:
        final = stream.get_final_message()
    assert final.parsed_output == whole.parsed_output is not None
    beta = claude.beta.messages.parse(**OPTIONS, output_format=Person)
    assert beta.parsed_output == whole.parsed_output


@pytest.mark.client("anthropic", "structured outputs: output_config.format")
def test_the_format_by_both_names(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(**OPTIONS, output_config={"format": FORMAT})
    older = claude.messages.create(**OPTIONS | {"extra_body": GREEDY | {"output_format": FORMAT}})
    assert answer.content == older.content
    Person.model_validate_json(answer.content[0].text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"output_format": FORMAT, "output_config": {"format": FORMAT}}, "give one of them"),
        ({"output_format": {"type": "json_schema", "schema": {"type": "purple"}}}, "purple"),
        ({"output_format": {"type": "text"}}, 'output_format.type is "text": supported is'),
        (
            {
                "output_format": FORMAT,
                "messages": [*OPTIONS["messages"], {"role": "assistant", "content": "{"}],
            },
            "the last message begins the answer",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused(
    claude: anthropic.Anthropic, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(anthropic.BadRequestError, match=message):
        claude.messages.create(**OPTIONS | {"extra_body": fields})

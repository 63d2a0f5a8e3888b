"""The Responses API through the openai client, with the default model."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pydantic
import pytest
from starlette.datastructures import Headers
from tests.server.serving import serving

from alpage import Llama
from alpage.server.accounts.caller import ANYONE
from alpage.server.app import Surroundings
from alpage.server.call import Call
from alpage.server.pool import Pool

ASK = "Say hello to the world."
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": False,
}


def asked_before(number: int, city: str, weather: str) -> list[Any]:
    """A question about the weather that a call has answered, as items."""
    call = f"call{number}"
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"type": "function_call", "call_id": call, "name": "get_weather",
         "arguments": json.dumps({"city": city})},
        {"type": "function_call_output", "call_id": call, "output": weather},
        {"role": "assistant", "content": f"It is {weather} in {city}."},
    ]  # fmt: skip


# The small model calls a tool when it has seen how.
NEEDS_TOOL: Any = [
    *asked_before(1, "Paris", "sunny"),
    *asked_before(2, "Rome", "rainy"),
    {"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Berlin?"}]},
]


class Sky(pydantic.BaseModel):
    colour: str
    sure: bool


def create(client: openai.OpenAI, **options: Any) -> Any:
    asked: dict[str, Any] = {
        "model": "smollm2", "input": ASK, "temperature": 0, "max_output_tokens": 20,
    }  # fmt: skip
    return client.responses.create(**asked | options)


@pytest.mark.client("openai", "responses: text")
def test_an_answer_is_the_facades(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": ASK}],
        temperature=0, top_p=1, max_tokens=200,
    )  # fmt: skip
    answer = create(client, instructions="Be kind.", max_output_tokens=200, metadata={"a": "b"})
    assert answer.output_text == wanted.text
    assert (answer.status, answer.error, answer.incomplete_details) == ("completed", None, None)
    (message,) = answer.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert answer.id.startswith("resp_")
    assert message.id.startswith("msg_")
    assert (answer.object, answer.model) == ("response", "smollm2")
    assert (answer.instructions, answer.metadata) == ("Be kind.", {"a": "b"})
    assert (answer.temperature, answer.top_p) == (0, 1)
    usage = answer.usage
    assert usage.input_tokens == wanted.usage.prompt_tokens
    assert usage.output_tokens == wanted.usage.completion_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens_details.cached_tokens >= 0
    assert usage.output_tokens_details.reasoning_tokens == 0


@pytest.mark.client("openai", "responses: incomplete")
def test_an_answer_that_is_cut_says_so(client: openai.OpenAI) -> None:
    answer = create(client, max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"
    assert answer.usage.output_tokens == 2
    (*_, last) = create(client, max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"
    assert last.response.output_text == answer.output_text
    assert last.response.incomplete_details == answer.incomplete_details


@pytest.mark.client("openai", "responses: streaming")
def test_a_stream_has_every_event_in_order(client: openai.OpenAI) -> None:
    whole = create(client, max_output_tokens=200)
    events = list(create(client, max_output_tokens=200, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added", *["response.output_text.delta"] * len(deltas),
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
        "response.completed",
    ]  # fmt: skip
    assert "".join(event.delta for event in deltas) == whole.output_text
    created, added, done = events[0], events[2], events[-4]
    assert (created.response.status, created.response.output) == ("in_progress", [])
    assert (added.item.status, added.item.content) == ("in_progress", [])
    assert done.text == whole.output_text
    assert events[-2].item.content[0].text == whole.output_text
    final = events[-1].response
    assert final.output_text == whole.output_text
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert {e.item_id for e in [*deltas, done]} == {added.item.id} == {final.output[0].id}


@pytest.mark.client("openai", "responses: log-probabilities")
def test_logprobs(client: openai.OpenAI, llm: Llama) -> None:
    wanted = llm.chat(
        [{"role": "user", "content": ASK}], temperature=0, top_p=1, max_tokens=8, top_logprobs=2
    ).logprobs
    options: Any = {
        "include": ["message.output_text.logprobs"], "top_logprobs": 2, "max_output_tokens": 8,
    }  # fmt: skip
    answer = create(client, **options)
    entries = answer.output[0].content[0].logprobs
    assert wanted is not None
    assert [(e.token, e.logprob, len(e.top_logprobs)) for e in entries] == [
        (token.text, token.logprob, 2) for token in wanted
    ]
    assert [bytes(e.bytes) for e in entries] == [token.data for token in wanted]
    events = list(create(client, **options, stream=True))
    streamed = [
        entry.logprob
        for event in events
        if event.type == "response.output_text.delta"
        for entry in event.logprobs
    ]
    assert streamed == [entry.logprob for entry in entries]
    (done,) = [event for event in events if event.type == "response.output_text.done"]
    assert [entry.logprob for entry in done.logprobs] == streamed
    assert create(client).output[0].content[0].logprobs == []


@pytest.mark.client("openai", "responses: function calls")
def test_function_calls(client: openai.OpenAI) -> None:
    options: Any = {"input": NEEDS_TOOL, "tools": [WEATHER], "max_output_tokens": 60}
    answer = create(client, **options, parallel_tool_calls=True)
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert json.loads(call.arguments) == {"city": "Berlin"}
    assert call.call_id.startswith("call_")
    assert call.id.startswith("fc_")
    assert answer.status == "completed"
    assert answer.tools[0].name == "get_weather"
    # The answer goes back as the client's own objects, with the function's result.
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "windy"}
    told = create(client, **options | {"input": [*NEEDS_TOOL, *answer.output, result]})
    assert "windy" in told.output_text
    # Or only the result, since the server keeps the rest.
    result["output"] = [{"type": "input_text", "text": "windy"}]
    again = create(client, **options | {"input": [result]}, previous_response_id=answer.id)
    assert again.output_text == told.output_text


@pytest.mark.client("openai", "responses: function calls, streaming")
def test_function_calls_in_a_stream(client: openai.OpenAI) -> None:
    options: Any = {"input": NEEDS_TOOL, "tools": [WEATHER], "max_output_tokens": 60}
    events = list(create(client, **options, stream=True))
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
        "response.output_item.done", "response.completed",
    ]  # fmt: skip
    added, delta, done, item = events[2:6]
    assert (added.item.name, added.item.arguments) == ("get_weather", "")
    assert delta.delta == done.arguments == item.item.arguments
    assert json.loads(done.arguments) == {"city": "Berlin"}
    assert events[-1].response.output == [item.item]


@pytest.mark.client("openai", "responses: parse and stream helpers")
def test_the_clients_helpers(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(
        model="smollm2", input="Which colour has the sky?", text_format=Sky, temperature=0
    )
    assert isinstance(parsed.output_parsed, Sky)
    with client.responses.stream(
        model="smollm2", input="Which colour has the sky?", text_format=Sky, temperature=0
    ) as stream:
        for event in stream:
            if event.type == "response.output_text.done":
                assert event.parsed == parsed.output_parsed
        final = stream.get_final_response()
    assert final.output_parsed == parsed.output_parsed
    with client.responses.stream(
        model="smollm2", input=NEEDS_TOOL, tools=[WEATHER], temperature=0
    ) as stream:
        kinds = [event.type for event in stream]
        call = stream.get_final_response().output[0]
    assert "response.function_call_arguments.delta" in kinds
    assert (call.type, call.name) == ("function_call", "get_weather")  # type: ignore[union-attr]


@pytest.mark.client("openai", "responses: JSON")
def test_formats_of_the_text(client: openai.OpenAI) -> None:
    schema = {
        "type": "object", "properties": {"colour": {"enum": ["blue", "red"]}},
        "required": ["colour"], "additionalProperties": False,
    }  # fmt: skip
    form: dict[str, Any] = {"type": "json_schema", "name": "sky", "schema": schema, "strict": True}
    answer = create(client, text={"format": form})
    assert json.loads(answer.output_text)["colour"] in ("blue", "red")
    assert answer.text.format.name == "sky"
    assert answer.text.format.to_dict()["schema"] == schema
    assert create(client, text={"format": {"type": "json_object"}}).output_text.startswith("{")
    assert create(client, text={"format": {"type": "text"}}).text.format.type == "text"


@pytest.mark.client("openai", "responses: conversations that go on")
def test_a_conversation_goes_on(client: openai.OpenAI, llm: Llama) -> None:
    first = create(client, input="My name is Ada.", instructions="Be brief.")
    second = create(client, input="What is my name?", previous_response_id=first.id)
    messages = [
        {"role": "user", "content": "My name is Ada."},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "What is my name?"},
    ]  # without the instructions, as OpenAI has it
    wanted = llm.chat(messages, temperature=0, top_p=1, max_tokens=20)
    assert second.output_text == wanted.text
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens == wanted.usage.prompt_tokens
    third = create(client, input="And now?", previous_response_id=second.id)
    items = client.responses.input_items.list(third.id, order="asc", limit=2)
    shown = [item.model_dump() for item in items]  # further pages come by themselves
    texts = [item["content"][0]["text"] for item in shown]
    assert texts == [
        "My name is Ada.", first.output_text, "What is my name?", second.output_text, "And now?",
    ]  # fmt: skip
    newest = client.responses.input_items.list(third.id)
    assert [item.model_dump() for item in newest] == shown[::-1]


@pytest.mark.client("openai", "responses: retrieve and delete")
def test_a_kept_response(client: openai.OpenAI) -> None:
    answer = create(client)
    assert answer.store is True
    assert client.responses.retrieve(answer.id) == answer
    (*_, last) = create(client, stream=True)
    assert client.responses.retrieve(last.response.id) == last.response
    client.responses.delete(answer.id)
    for gone in (answer.id, create(client, store=False).id, "resp_unknown"):
        with pytest.raises(openai.NotFoundError, match=gone):
            client.responses.retrieve(gone)
        with pytest.raises(openai.NotFoundError, match=gone):
            client.responses.delete(gone)
        with pytest.raises(openai.NotFoundError, match=gone):
            client.responses.input_items.list(gone)
        with pytest.raises(openai.NotFoundError, match=gone) as told:
            create(client, previous_response_id=gone)
        assert told.value.code == "previous_response_not_found"
        assert told.value.param == "previous_response_id"


@pytest.fixture(scope="module")
def forgetful(models: Pool) -> Iterator[str]:
    with serving(Surroundings(pool=models, local=True, responses=None)) as running:
        yield running.url


def test_a_server_that_keeps_nothing(forgetful: str) -> None:
    with openai.OpenAI(base_url=f"{forgetful}/v1", api_key="none", max_retries=0) as client:
        answer = create(client, max_output_tokens=1)
        assert answer.store is False
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(answer.id)
        with pytest.raises(openai.BadRequestError, match="this server keeps nothing") as told:
            create(client, store=True)
        assert told.value.param == "store"


def test_sampling_fields_are_those_of_chats(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": ASK}], seed=5, max_tokens=12,
        temperature=1.5, presence_penalty=1, stop="!", extra_body={"top_k": 40},
    )  # fmt: skip
    answer = create(
        client, temperature=1.5, max_output_tokens=12,
        extra_body={"seed": 5, "presence_penalty": 1, "stop": "!", "top_k": 40},
    )  # fmt: skip
    assert answer.output_text == chat.choices[0].message.content
    digits = create(client, extra_body={"regex": "[0-9]{3}"})
    assert digits.output_text.isdigit()


@pytest.mark.client("openai", "responses: built-in tools", refused=True)
@pytest.mark.parametrize("kind", ["web_search", "file_search", "code_interpreter", "mcp", "custom"])
def test_built_in_tools_are_refused(client: openai.OpenAI, kind: str) -> None:
    with pytest.raises(openai.BadRequestError, match="supported is 'function'") as told:
        create(client, tools=[{"type": kind}])
    assert told.value.param == "tools[0].type"


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"input": [{"type": "reasoning", "id": "x", "summary": []}]},
         "supported is 'message', 'function_call', 'function_call_output'", "input[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "supported is", "input[0].type"),
        ({"input": [{"content": "x"}]}, "input[0].role: this field is required", "input[0].role"),
        ({"input": [1]}, "input[0]", "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
         "supported is 'input_text' or 'output_text'", "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]},
         "no function_call with the call_id 'c'", "input"),
        ({"input": []}, "at least one message", None),
        ({"top_logprobs": 1}, "top_logprobs needs", "top_logprobs"),
        ({"include": ["reasoning.encrypted_content"]}, "supported is", "include[0]"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "has a name and a schema",
         "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "x",
                              "schema": {"uniqueItems": True}}}}, "uniqueItems", "text.format"),
        ({"text": {"verbosity": "low"}}, "does not support it", "text.verbosity"),
        ({"tool_choice": {"type": "web_search"}}, "supported is", "tool_choice.type"),
        ({"truncation": "auto"}, "supported is 'disabled'", "truncation"),
        ({"n": 2}, "there is no such field", "n"),
    ],
)  # fmt: skip
def test_what_is_refused(url: str, fields: dict[str, Any], message: str, param: str | None) -> None:
    body = {"model": "smollm2", "input": ASK, "max_output_tokens": 1} | fields
    answer = httpx.post(f"{url}/v1/responses", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert message in error["message"]
    assert error["param"] == param


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("?stream=true", "cannot be streamed again"),
        ("?include[]=reasoning.encrypted_content", "include is"),
        ("?x=1", "no such parameter"),
        ("/input_items?limit=0", "limit is '0'"),
        ("/input_items?limit=101", "limit is '101'"),
        ("/input_items?order=up", "order is 'up'"),
        ("/input_items?after=x", "no item has that id"),
    ],
)
def test_parameters_of_kept_responses(
    client: openai.OpenAI, url: str, path: str, message: str
) -> None:
    kept = create(client, max_output_tokens=1).id
    answer = httpx.get(f"{url}/v1/responses/{kept}{path}")
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


class NamingDoor:
    """Lets everyone in; the key is the name of the tenant."""

    async def enter(self, call: Call, path: str, headers: Headers) -> None:
        tenant = headers["authorization"].removeprefix("Bearer ")
        call.caller = dataclasses.replace(ANYONE, tenant=tenant)

    def leave(self, call: Call) -> None:
        """Nothing was counted."""


def test_nobody_reads_what_another_tenant_keeps(models: Pool) -> None:
    around = Surroundings(pool=models, local=True, door=NamingDoor())
    with (
        serving(around) as running,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="ada", max_retries=0) as ada,
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="bob", max_retries=0) as bob,
    ):
        kept = create(ada, max_output_tokens=1)
        assert ada.responses.retrieve(kept.id) == kept
        with pytest.raises(openai.NotFoundError):
            bob.responses.retrieve(kept.id)
        with pytest.raises(openai.NotFoundError):
            bob.responses.delete(kept.id)
        with pytest.raises(openai.NotFoundError):
            bob.responses.input_items.list(kept.id)
        with pytest.raises(openai.NotFoundError):
            create(bob, previous_response_id=kept.id)
        assert ada.responses.retrieve(kept.id) == kept

"""langchain-openai against the server, with the default model."""

from collections.abc import Iterator
from typing import Annotated, Any

import httpx
import numpy as np
import openai
import pydantic
import pytest
import tiktoken
import tiktoken.model
import tiktoken.registry
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from alpage import Llama

METHODS = ["json_schema", "function_calling"]
ASK = [SystemMessage("Be kind."), HumanMessage("Say hello to the world.")]


class Sky(pydantic.BaseModel):
    """The sky, seen from here."""

    colour: str = pydantic.Field(max_length=20)
    sure: bool


@tool
def get_weather(city: Annotated[str, pydantic.Field(max_length=20)]) -> str:
    """The weather in a city."""
    return f"windy in {city}"


@pytest.fixture(params=[False, True], ids=["chats", "responses"])
def chat(url: str, request: pytest.FixtureRequest) -> Iterator[ChatOpenAI]:
    with httpx.Client() as http:
        yield ChatOpenAI(
            model="smollm2", base_url=f"{url}/v1", api_key=pydantic.SecretStr("none"),
            temperature=0, max_retries=0, http_client=http, use_responses_api=request.param,
            stream_usage=True, max_completion_tokens=20,
        )  # fmt: skip


def text_of(message: Any) -> str:
    return str(message.text)


@pytest.mark.client("langchain-openai", "chat: invoke, with usage")
def test_invoke(chat: ChatOpenAI, llm: Llama) -> None:
    wanted = llm.chat(
        [{"role": "system", "content": "Be kind."},
         {"role": "user", "content": "Say hello to the world."}],
        temperature=0, top_p=1, max_tokens=20,
    )  # fmt: skip
    answer = chat.invoke(ASK)
    assert text_of(answer) == wanted.text
    usage: Any = answer.usage_metadata
    assert usage["input_tokens"] == wanted.usage.prompt_tokens
    assert usage["output_tokens"] == wanted.usage.completion_tokens
    # The answer goes back into the conversation as it was.
    again = chat.invoke([*ASK, answer, HumanMessage("And again.")])
    assert text_of(again)


@pytest.mark.client("langchain-openai", "chat: stream, with usage")
def test_stream(chat: ChatOpenAI) -> None:
    whole = chat.invoke(ASK)
    chunks = list(chat.stream(ASK))
    assert len(chunks) > 3
    assert "".join(map(text_of, chunks)) == text_of(whole)
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    usage: Any = total.usage_metadata
    assert usage["output_tokens"] == whole.usage_metadata["output_tokens"]  # type: ignore[index]


@pytest.mark.client("langchain-openai", "chat: batch")
def test_batch(chat: ChatOpenAI) -> None:
    chat.max_tokens = 8
    questions: list[Any] = ["Say hello.", "Name a mountain.", "Count to three."]
    alone = [text_of(chat.invoke(question)) for question in questions]
    assert [text_of(answer) for answer in chat.batch(questions)] == alone


@pytest.mark.client("langchain-openai", "chat: structured output")
@pytest.mark.parametrize("method", METHODS)
def test_structured_output(chat: ChatOpenAI, method: Any) -> None:
    chat.max_tokens = 80
    made = chat.with_structured_output(Sky, method=method).invoke("Which colour has the sky?")
    assert isinstance(made, Sky)


@pytest.mark.client("langchain-openai", "chat: tools")
def test_a_tool_is_called_and_its_result_read(chat: ChatOpenAI) -> None:
    chat.max_tokens = 80
    asked = HumanMessage("What is the weather in Berlin?")
    answer = chat.bind_tools([get_weather], tool_choice="required").invoke([asked])
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls[:1]
    assert call["name"] == "get_weather"
    assert isinstance(call["args"]["city"], str)
    results = [ToolMessage(get_weather.invoke(c["args"]), tool_call_id=c["id"])
               for c in answer.tool_calls]  # fmt: skip
    told = chat.bind_tools([get_weather], tool_choice="none").invoke([asked, answer, *results])
    assert text_of(told)


@pytest.mark.client("langchain-openai", "chat: tools, streaming")
def test_a_tool_call_in_a_stream(chat: ChatOpenAI) -> None:
    chat.max_tokens = 80
    bound = chat.bind_tools([get_weather], tool_choice="get_weather")
    chunks = list(bound.stream("What is the weather in Berlin?"))
    total: Any = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    (call,) = total.tool_calls[:1]
    assert call["name"] == "get_weather"
    assert isinstance(call["args"]["city"], str)


@pytest.mark.client("langchain-openai", "responses: conversations that go on")
def test_previous_responses(url: str) -> None:
    with httpx.Client() as http:
        chat = ChatOpenAI(
            model="smollm2", base_url=f"{url}/v1", api_key=pydantic.SecretStr("none"),
            temperature=0, max_retries=0, http_client=http, use_responses_api=True,
            use_previous_response_id=True, max_completion_tokens=20,
        )  # fmt: skip
        first = chat.invoke("My name is Ada.")
        said = [HumanMessage("My name is Ada."), first, HumanMessage("What is my name?")]
        second = chat.invoke(said)
    whole: Any = second.usage_metadata
    begun: Any = first.usage_metadata
    assert whole["input_tokens"] > begun["input_tokens"] + begun["output_tokens"]
    assert second.response_metadata["id"] != first.response_metadata["id"]


@pytest.mark.client("langchain-openai", "embeddings: texts")
def test_embeddings_of_texts(url: str, llm: Llama) -> None:
    with httpx.Client() as http:
        made = OpenAIEmbeddings(
            model="smollm2", base_url=f"{url}/v1", api_key=pydantic.SecretStr("none"),
            check_embedding_ctx_length=False, http_client=http, max_retries=0,
        )  # fmt: skip
        vectors = made.embed_documents(["A pasture", "An alp"])
        query = made.embed_query("A pasture")
    wanted = llm.embed(["A pasture", "An alp"])
    assert np.array_equal(np.array(vectors, np.float32), wanted)
    assert np.array_equal(np.array(query, np.float32), wanted[0])


@pytest.mark.client("langchain-openai", "embeddings: token ids")
def test_embeddings_of_token_ids(url: str, llm: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """langchain sends ids by default, of the vocabulary that tiktoken knows under the name."""
    words = llm.tokenizer
    ranks = {words.token_bytes(i): i for i in range(words.vocab_size) if not words.is_special(i)}
    encoding = tiktoken.Encoding(
        "smollm2", pat_str=r" ?\p{L}+| ?\p{P}+|\p{N}|\s+", mergeable_ranks=ranks, special_tokens={}
    )
    monkeypatch.setitem(tiktoken.model.MODEL_TO_ENCODING, "smollm2", "smollm2")
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "smollm2", encoding)
    texts = ["A pasture above the trees", "An alp."]
    assert [encoding.encode(text) for text in texts] == [llm.prompt_ids(text) for text in texts]
    with httpx.Client() as http:
        made = OpenAIEmbeddings(
            model="smollm2", base_url=f"{url}/v1", api_key=pydantic.SecretStr("none"),
            http_client=http, max_retries=0,
        )  # fmt: skip
        vectors = made.embed_documents(texts)
    assert np.array_equal(np.array(vectors, np.float32), llm.embed(texts))


@pytest.mark.client("langchain-openai", "embeddings: dimensions", refused=True)
def test_dimensions_are_refused(url: str) -> None:
    with httpx.Client() as http:
        made = OpenAIEmbeddings(
            model="smollm2", base_url=f"{url}/v1", api_key=pydantic.SecretStr("none"),
            check_embedding_ctx_length=False, http_client=http, max_retries=0, dimensions=64,
        )  # fmt: skip
        with pytest.raises(openai.BadRequestError, match="dimensions is 64"):
            made.embed_query("A pasture")

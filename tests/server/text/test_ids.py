"""Tokenize, detokenize and apply-template are what this process computes."""

from typing import Any

import httpx
import pytest

from alpage import Llama

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say <|im_end|> and é."},
]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "now", "description": "The time", "parameters": {"type": "object"}},
    }
]


def asked(url: str, route: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/{route}", json={"model": "smollm2", **body}, timeout=60)
    assert answer.status_code == 200, answer.text[:500]
    found: dict[str, Any] = answer.json()
    return found


def refused(url: str, route: str, status: int = 400, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/{route}", json={"model": "smollm2", **body}, timeout=60)
    assert answer.status_code == status, answer.text[:500]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("text", ["", "Hello, world.", "naïve 🙂 <|im_end|>", "a\n\nb\x00"])
def test_ids_of_a_text(url: str, llm: Llama, text: str) -> None:
    plain = asked(url, "tokenize", text=text)
    assert plain == {"model": "smollm2", "ids": llm.tokenize(text), "count": len(plain["ids"])}
    special = asked(url, "tokenize", text=text, parse_special=True)
    assert special["ids"] == llm.tokenize(text, special=True)
    begun = asked(url, "tokenize", text=text, add_special=True)
    assert begun["ids"] == llm.prompt_ids(text)
    back = asked(url, "detokenize", tokens=plain["ids"])
    assert back == {"model": "smollm2", "text": text}


def test_what_each_id_is(url: str, llm: Llama) -> None:
    text = "Ah 🙂<|im_end|>"
    told = asked(url, "tokenize", text=text, parse_special=True, pieces=True)
    assert [piece["id"] for piece in told["pieces"]] == told["ids"]
    assert b"".join(bytes(piece["bytes"]) for piece in told["pieces"]) == text.encode()
    assert told["pieces"][-1]["text"] == "<|im_end|>"
    assert asked(url, "detokenize", tokens=told["ids"])["text"] == "Ah 🙂"  # no control tokens


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_the_prompt_of_a_conversation(
    url: str, llm: Llama, tools: list[dict[str, Any]] | None
) -> None:
    more = {} if tools is None else {"tools": tools}
    written = asked(url, "apply-template", messages=MESSAGES, **more)
    ids = asked(url, "tokenize", messages=MESSAGES, **more)["ids"]
    text, wanted = llm.render_chat(MESSAGES, tools=tools)
    assert ids == wanted == list(llm.chat_request(MESSAGES, tools=tools).prompt)
    assert written == {"model": "smollm2", "text": text, "count": len(wanted)}
    assert text.endswith("<|im_start|>assistant\n")
    assert ("now" in text) == (tools is not None)
    # What the user spells stays text: the template's own control tokens are all there are.
    end = llm.tokenize("<|im_end|>", special=True)
    assert ids.count(*end) == 2
    assert text.count("<|im_end|>") == 3


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("tokenize", {}, "give one of text and messages"),
        ("tokenize", {"text": "a", "messages": MESSAGES}, "give one of text and messages"),
        ("tokenize", {"messages": MESSAGES, "add_special": True}, "add_special works with text"),
        ("tokenize", {"text": "a", "tools": TOOLS}, "tools work with messages only"),
        ("tokenize", {"text": "a" * ((1 << 20) + 1)}, "text is "),
        ("tokenize", {"text": "a b " * 40_000, "pieces": True}, "the text has 80"),
        ("tokenize", {"txt": "a"}, "txt: there is no such field; did you mean text?"),
        ("tokenize", {"text": "a", "messages": []}, "give one of"),
        ("detokenize", {"tokens": [1, 1 << 40]}, "token"),
        ("detokenize", {"tokens": [-1]}, "token"),
        ("detokenize", {"tokens": ["a"]}, 'tokens[0] is "a"'),
        ("apply-template", {"messages": []}, "messages must hold at least one message"),
        ("apply-template", {"messages": [{"role": "user"}]}, "messages[0] (user) has no content"),
    ],
)
def test_refusals(url: str, route: str, body: dict[str, Any], message: str) -> None:
    assert refused(url, route, **body)["message"].startswith(message)


@pytest.mark.parametrize("route", ["tokenize", "detokenize", "apply-template", "rerank"])
def test_an_unknown_model(url: str, route: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "tokenize": {"text": "a"},
        "detokenize": {"tokens": [1]},
        "apply-template": {"messages": MESSAGES},
        "rerank": {"query": "a", "documents": ["b"]},
    }
    error = refused(url, route, 404, model="other", **bodies[route])
    assert error["code"] == "model_not_found"

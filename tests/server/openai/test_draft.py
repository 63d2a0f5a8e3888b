"""Items of a response, out of pieces of an answer in every order."""

from alpage.chat import ToolCall
from alpage.core.types import FinishReason, Usage
from alpage.llama import Piece, TokenLogprob
from alpage.server.openai.draft import Draft, Step

CALL = ToolCall("f", '{"a": 1}', {"a": 1})


def end(reason: FinishReason = "stop", text: str = "") -> Piece:
    return Piece(text, finish_reason=reason, usage=Usage(1, 1))


def token(text: str) -> tuple[TokenLogprob, ...]:
    return (TokenLogprob(1, text.encode(), -0.5),)


def taken(*pieces: Piece) -> tuple[Draft, list[Step]]:
    draft = Draft()
    return draft, [step for piece in pieces for step in draft.take(piece)]


def test_text_around_calls_is_messages_of_its_own() -> None:
    draft, steps = taken(
        Piece("One "), Piece("two"), Piece(tool_calls=(CALL, CALL)), Piece("three"), end()
    )
    assert [item["type"] for item in draft.items] == [
        "message", "function_call", "function_call", "message",
    ]  # fmt: skip
    texts = [item["content"][0]["text"] for item in draft.items if item["type"] == "message"]
    assert texts == ["One two", "three"]
    assert len({item["id"] for item in draft.items}) == 4
    assert {item["status"] for item in draft.items} == {"completed"}
    kinds = [(step.kind, step.index) for step in steps]
    assert kinds == [
        ("opened", 0), ("text", 0), ("text", 0), ("closed", 0),
        ("opened", 1), ("arguments", 1), ("closed", 1),
        ("opened", 2), ("arguments", 2), ("closed", 2),
        ("opened", 3), ("text", 3), ("closed", 3),
    ]  # fmt: skip


def test_an_answer_without_a_word_is_an_empty_message() -> None:
    draft, steps = taken(end("length"))
    (item,) = draft.items
    assert (item["content"][0]["text"], item["status"]) == ("", "incomplete")
    assert [step.kind for step in steps] == ["opened", "text", "closed"]
    assert draft.incomplete


def test_logprobs_wait_for_their_text() -> None:
    draft, steps = taken(
        Piece("", logprobs=token("a")), Piece("ab", logprobs=token("b")),
        Piece("", logprobs=token("c")), end(text=""),
    )  # fmt: skip
    (item,) = draft.items
    assert [entry["token"] for entry in item["content"][0]["logprobs"]] == ["a", "b", "c"]
    told = [[entry["token"] for entry in step.logprobs] for step in steps if step.kind == "text"]
    assert told == [["a", "b"], ["c"]]


def test_tokens_of_a_call_are_no_text() -> None:
    draft, _ = taken(Piece("", logprobs=token("{")), Piece(tool_calls=(CALL,)), end())
    assert [item["type"] for item in draft.items] == ["function_call"]


def test_a_draft_that_is_cut_off_keeps_what_it_has() -> None:
    draft, _ = taken(Piece("One "), Piece("two"))
    draft.cut_off()
    (item,) = draft.items
    assert (item["content"][0]["text"], item["status"]) == ("One two", "incomplete")

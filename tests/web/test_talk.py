"""Conversations with the real server and the default model."""

import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from playwright.sync_api import Page
from tests.web.pages import Open, answers, kept, places, questions, say, settled


def with_settings(page: Page, **values: str) -> None:
    """Fill fields of the settings."""
    page.keyboard.press("Alt+p")
    for name, value in values.items():
        page.locator(f"#settings-{name}").fill(value)
    page.locator("#settings").get_by_role("button", name="Done").click()


def test_talk_and_reload(url: str, visit: Open) -> None:
    """An answer streams in, with figures; a second question knows the first; all of it stays."""
    page = visit(url)
    with_settings(page, temperature="0", maxTokens="24")
    page.evaluate(
        """() => {
          window.lengths = new Set();
          new MutationObserver(() => {
            const shown = document.querySelector(".answer");
            if (shown !== null) window.lengths.add(shown.textContent.length);
          }).observe(document.body, { childList: true, subtree: true, characterData: true });
        }"""
    )
    say(page, "What is the capital of France?")
    settled(page)
    assert "Paris" in answers(page)[0]
    assert page.evaluate("window.lengths.size") > 3
    figures = page.locator(".figures").inner_text()
    for part in ("tokens/s", "first after", "prompt ", "answer ", "context "):
        assert part in figures
    assert " of 2,048" in figures

    say(page, "And of Italy?")
    settled(page, 2)
    assert "cached" in page.locator(".figures").nth(1).inner_text()
    before = (questions(page), answers(page), page.locator(".figures").all_inner_texts())
    assert kept(page) == ["What is the capital of France?"]
    page.reload()
    settled(page, 2)
    assert (questions(page), answers(page), page.locator(".figures").all_inner_texts()) == before
    page.goto(url)  # without the address of the conversation: a new one, and the old in the list
    page.wait_for_selector("html[data-ready]")
    assert answers(page) == []
    page.locator("#list .open").click()
    settled(page, 2)
    assert answers(page) == before[1]


def test_stop_and_say_more(url: str, visit: Open) -> None:
    page = visit(url)
    say(page, "Write a very long story about a mountain, with many chapters.")
    page.locator(".answer p").first.wait_for()
    page.keyboard.press("Escape")
    settled(page)
    assert "You stopped the answer here." in page.locator(".note").inner_text()
    (stopped,) = answers(page)
    assert stopped != ""
    with_settings(page, maxTokens="1")
    say(page, "Thank you.")
    settled(page, 2)
    assert answers(page)[0] == stopped
    assert "limit of tokens" in page.locator(".note").last.inner_text()


def test_versions(url: str, visit: Open) -> None:
    """Answer again, edit, and switch between the versions; a branch keeps what follows it."""
    page = visit(url)
    with_settings(page, maxTokens="6", seed="1")
    say(page, "Name a colour.")
    settled(page)
    first = answers(page)[0]
    page.get_by_role("button", name="Answer again").click()
    settled(page)
    assert answers(page)[0] == first  # the same seed
    assert places(page) == ["2/2"]
    with_settings(page, seed="7")
    page.keyboard.press("Alt+r")
    settled(page)
    third = answers(page)[0]
    assert places(page) == ["3/3"]

    say(page, "Another one?")
    settled(page, 2)
    page.get_by_role("button", name="Previous version").click()
    assert places(page) == ["2/3"]
    assert (answers(page), questions(page)) == ([first], ["Name a colour."])
    page.get_by_role("button", name="Next version").click()
    assert answers(page)[0] == third
    assert questions(page) == ["Name a colour.", "Another one?"]

    page.get_by_role("button", name="Edit").first.click()
    page.get_by_role("textbox", name="Edit the message").fill("Name an animal.")
    page.keyboard.press("Enter")
    settled(page)
    assert questions(page) == ["Name an animal."]
    assert places(page) == ["2/2"]
    edited = answers(page)
    page.reload()
    settled(page)
    assert (questions(page), answers(page), places(page)) == (["Name an animal."], edited, ["2/2"])
    page.get_by_role("button", name="Previous version").click()
    assert questions(page) == ["Name a colour.", "Another one?"]
    assert places(page) == ["1/2", "3/3"]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "big": {"type": "boolean"}},
    "required": ["city", "big"],
    "additionalProperties": False,
}


def test_answers_of_a_schema(url: str, visit: Open) -> None:
    page = visit(url)
    page.keyboard.press("Alt+p")
    page.get_by_label("Answer as JSON of this schema").check()
    box = page.get_by_label("JSON Schema", exact=True)
    assert box.get_attribute("aria-invalid") == "true"
    box.fill('{"type": "object", }')
    assert "not a JSON object yet" in page.locator("#settings-schema-wrong").inner_text()
    page.keyboard.press("Escape")
    say(page, "What is the capital of France?")  # not sent: the mistake is shown instead
    assert page.locator("#settings-schema-wrong").is_visible()
    assert page.locator(".message").count() == 0

    box.fill(json.dumps(SCHEMA))
    assert page.locator("#settings-schema-wrong").inner_text() == ""
    assert box.get_attribute("aria-invalid") == "false"
    page.keyboard.press("Escape")
    page.locator("#question").press("Enter")
    settled(page)
    text = page.locator(".answer pre").inner_text()
    jsonschema.validate(json.loads(text), SCHEMA)
    assert page.locator(".answer .language").inner_text() == "json"

    page.keyboard.press("Alt+p")
    box.fill(json.dumps({"type": "array", "uniqueItems": True}))
    page.keyboard.press("Escape")
    say(page, "And now?")
    page.locator(".note.error").wait_for()
    assert "uniqueItems" in page.locator(".note.error").inner_text()


def test_a_file_and_a_system_prompt_reach_the_model(url: str, visit: Open) -> None:
    page = visit(url)
    with_settings(page, temperature="0", maxTokens="12", system="Answer in one word.")
    text = "The secret word is marmot.\n"
    file = {"name": "secret.txt", "mimeType": "text/plain", "buffer": text.encode()}
    page.locator("#attach-file").set_input_files(file)  # type: ignore[arg-type]
    page.locator("#files .filechip").wait_for()
    say(page, "What is the secret word?")
    settled(page)
    assert "marmot" in answers(page)[0].lower()
    assert page.locator(".message.user .filechip").inner_text() == "secret.txt"
    assert page.locator("#files .filechip").count() == 0

"""Conversations that the browser keeps, and files that go in and out of the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page
from tests.web.pages import Open, answers, kept, press_in_list, questions, say, settled
from tests.web.scripted import PAUSE, Scripted, answer, chunk, end


def talk(page: Page, scripted: Scripted, question: str, text: str) -> None:
    """One question in a conversation of its own."""
    page.locator("#new").click()
    scripted.scripts.append(answer(text))
    say(page, question)
    settled(page)
    page.locator("#list .open", has_text=question).wait_for()


def test_find_rename_and_delete(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    for name in ("Marmots", "Ibex"):
        talk(page, scripted, name, "Yes.")
    assert kept(page) == ["Ibex", "Marmots"]
    page.get_by_role("searchbox").fill("marm")
    assert kept(page) == ["Marmots"]
    page.get_by_role("searchbox").fill("cows")
    assert page.locator("#list").inner_text() == "Nothing found"
    page.get_by_role("searchbox").fill("")

    press_in_list(page, "Rename Marmots")
    page.get_by_role("textbox", name="Title").fill("  <b>Whistlers</b> ")
    page.keyboard.press("Enter")
    page.locator("#list .open", has_text="Whistlers").wait_for()
    press_in_list(page, "Rename Ibex")
    page.keyboard.press("Escape")
    press_in_list(page, "Delete Ibex")
    page.locator("#ask").get_by_role("button", name="Cancel").click()
    press_in_list(page, "Delete Ibex")
    page.locator("#ask").get_by_role("button", name="Delete").click()
    page.locator("#list .open", has_text="Ibex").wait_for(state="detached")
    assert questions(page) == []  # it was the one on screen
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert kept(page) == ["<b>Whistlers</b>"]


def test_a_conversation_deleted_while_it_is_answered(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    scripted.scripts.append([chunk("One"), PAUSE, chunk("Two"), *end()])
    say(page, "Doomed")
    page.locator(".answer p").wait_for()
    press_in_list(page, "Delete Doomed")
    page.locator("#ask").get_by_role("button", name="Delete").click()
    page.locator("#list .open", has_text="Doomed").wait_for(state="detached")
    assert scripted.ended.wait(20)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert kept(page) == []


def test_two_windows(scripted: Scripted, visit: Open) -> None:
    """What each adds to the same conversation is kept, and either sees the other's list."""
    page = visit(scripted.url)
    talk(page, scripted, "Shared", "First.")
    other = page.context.new_page()
    other.goto(page.url)
    settled(other)
    scripted.scripts += [answer("From one."), answer("From the other.")]
    say(page, "One")
    settled(page, 2)
    say(other, "Other")
    settled(other, 2)
    talk(other, scripted, "Elsewhere", "Yes.")
    page.locator("#list .open", has_text="Elsewhere").wait_for()
    page.reload()
    settled(page, 2)
    assert page.locator(".branches .place").inner_text() in ("1/2", "2/2")


def test_export_and_import(scripted: Scripted, visit: Open, tmp_path: Path) -> None:
    """A file carries everything into another browser, branches included, and never overwrites."""
    page = visit(scripted.url)
    page.locator("#export").click()
    assert "no conversation to export" in page.locator(".notice p").inner_text()
    talk(page, scripted, "Marmots", "They *whistle*.")
    scripted.scripts.append(answer("They sleep."))
    page.keyboard.press("Alt+r")
    page.locator(".branches").wait_for()
    settled(page)
    with page.expect_download() as download:
        page.locator("#export").click()
    file = tmp_path / "kept.json"
    download.value.save_as(file)
    assert json.loads(file.read_text("utf-8"))["format"] == "alpage.conversations"

    fresh = visit(scripted.url)
    for count in (1, 2):
        fresh.locator("#import-file").set_input_files(file)
        fresh.wait_for_function(
            "n => document.querySelectorAll('#list .open').length === n", arg=count
        )
    assert "Conversations imported: 1." in fresh.locator(".notice p").inner_text()
    fresh.locator("#list .open").first.click()
    settled(fresh)
    assert (questions(fresh), answers(fresh)) == (["Marmots"], ["They sleep."])
    fresh.get_by_role("button", name="Previous version").click()
    assert answers(fresh) == ["They whistle."]


def message(**fields: Any) -> dict[str, Any]:
    return {"id": "a", "parent": "", "role": "user", "text": "x", **fields}


def document(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"format": "alpage.conversations", "version": 1,
            "conversations": [{"messages": list(messages)}], **fields}  # fmt: skip


REFUSED: list[tuple[Any, str]] = [
    ("{", "not JSON"),
    ([1], "holds no conversations"),
    (None, "holds no conversations"),
    (document(format="other"), "holds no conversations"),
    (document(version=2), "cannot read"),
    (document(conversations=[None]), "holds no conversations"),
    (document(conversations=[{"messages": {}}]), "holds no conversations"),
    (document(message(parent="a")), "holds no conversations"),  # its own parent
    (document(message(parent="b"), message(id="b", parent="a")), "holds no conversations"),
    (document(message(), message()), "holds no conversations"),  # twice the same
    (document(message(role="system")), "holds no conversations"),
    (document(message(id=7)), "holds no conversations"),
    (document(*[message(id=str(n)) for n in range(5001)]), "holds no conversations"),
]


def test_files_that_cannot_be_imported(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    for value, told in REFUSED:
        text = value if isinstance(value, str) else json.dumps(value)
        choose(page, "#import-file", "bad.json", text.encode())
        page.locator(".notice").wait_for()
        assert told in page.locator(".notice p").inner_text(), text[:200]
        page.get_by_role("button", name="Close this message").click()
    assert kept(page) == []
    # What is only strange is set right.
    strange = message(id="__proto__", text=7, files=[{"name": 5}, 3], state="writing", changed="x",
                      figures={"prompt": -1}, error=[], settings=4)  # fmt: skip
    value = document(strange, message(id="constructor", parent="__proto__", role="assistant"))
    value["conversations"][0] |= {"title": ["x"], "chosen": [["", "no"], 5, [[]]], "settings": 5}
    choose(page, "#import-file", "odd.json", json.dumps(value).encode())
    page.locator("#list .open").click()
    settled(page)
    assert answers(page) == ["x"]


def choose(page: Page, field: str, name: str, data: bytes) -> None:
    """Choose a file with this content."""
    file = FilePayload(name=name, mimeType="text/plain", buffer=data)
    page.locator(field).set_input_files(file)


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00\x00", "picture.png is not a text file"),
        ("latin.txt", "déjà vu".encode("latin-1"), "latin.txt is not a text file"),
        ("nul.txt", b"a\x00b", "nul.txt is not a text file"),
        ("large.txt", b"a" * (256 * 1024 + 1), "large.txt is larger than 256 KiB"),
    ],
)
def test_files_that_are_refused(
    scripted: Scripted, visit: Open, name: str, data: bytes, told: str
) -> None:
    page = visit(scripted.url)
    choose(page, "#attach-file", name, data)
    page.locator(".notice").wait_for()
    assert told in page.locator(".notice p").inner_text()
    assert page.locator("#files .filechip").count() == 0
    assert page.locator("#send").is_disabled()


def test_attached_files_are_sent(scripted: Scripted, visit: Open) -> None:
    """By choice and by drag and drop, at most eight; a fence in a file does not end its own."""
    page = visit(scripted.url)
    choose(page, "#attach-file", "a.md", b"```\ninside\n```")
    choose(page, "#attach-file", "b.txt", "\ufeffmarmotte é\n".encode("utf-16-le"))
    data = page.evaluate_handle(
        """() => {
          const data = new DataTransfer();
          for (let n = 0; n < 8; n += 1) data.items.add(new File([`text ${n}`], `dropped${n}.txt`));
          return data;
        }"""
    )
    page.dispatch_event("#talk", "dragenter", {"dataTransfer": data})
    assert page.get_by_text("Drop text files here").is_visible()
    page.dispatch_event("#talk", "drop", {"dataTransfer": data})
    page.locator(".notice").wait_for()
    assert not page.get_by_text("Drop text files here").is_visible()
    assert "a message takes 8 files at most" in page.locator(".notice p").inner_text()
    assert page.locator("#files .filechip").count() == 8
    page.get_by_role("button", name="Remove dropped5.txt").click()
    assert page.locator("#files .filechip").count() == 7

    scripted.scripts.append(answer("Read."))
    say(page, "What is in them?")
    settled(page)
    (body,) = scripted.bodies
    (sent,) = body["messages"]
    assert sent["content"].startswith(
        "a.md:\n````\n```\ninside\n```\n````\n\nb.txt:\n```\nmarmotte é\n```"
    )
    assert sent["content"].endswith("\n\nWhat is in them?")
    assert "text 4" in sent["content"]
    assert "text 5" not in sent["content"]


def test_settings_are_sent_as_they_are(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    scripted.scripts += [answer("a"), answer("b")]
    say(page, "Plain")
    settled(page)
    page.locator("#model").select_option("tuned")
    page.keyboard.press("Alt+p")
    values = {"system": "Be brief.", "temperature": "0,5", "topP": ".9", "maxTokens": "20",
              "seed": "-3", "stop": "END\n\\n\\n\n"}  # fmt: skip
    for name, value in values.items():
        page.locator(f"#settings-{name}").fill(value)
    for name, wrong in {"temperature": "hot", "topP": "0", "maxTokens": "1.5", "seed": "x"}.items():
        page.locator(f"#settings-{name}").fill(wrong)
        assert page.locator(f"#settings-{name}-wrong").inner_text() != ""
        page.locator(f"#settings-{name}").fill(values[name])
        assert page.locator(f"#settings-{name}-wrong").inner_text() == ""
    page.keyboard.press("Escape")
    say(page, "Tuned")
    settled(page, 2)
    plain, tuned = scripted.bodies
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    question = {"role": "user", "content": "Plain"}
    own = {"temperature": 0.6, "top_p": 0.9}
    assert plain == {"model": "model-a", "messages": [question], **own, **stream}
    assert tuned == {
        "model": "tuned",
        "messages": [
            {"role": "system", "content": "Be brief."},
            question,
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "Tuned"},
        ],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 20,
        "seed": -3,
        "stop": ["END", "\n\n"],
        **stream,
    }
    names = page.locator(".message.assistant .who").all_inner_texts()
    assert names == ["model-a", "tuned"]
    page.reload()
    settled(page, 2)
    assert page.locator("#model").input_value() == "tuned"
    assert page.locator("#model option").all_inner_texts() == [
        "model-a",
        "tuned (adapter of model-a)",
    ]
    page.keyboard.press("Alt+p")
    assert page.locator("#settings-system").input_value() == "Be brief."
    page.get_by_role("button", name="Reset").click()
    assert page.locator("#settings-system").input_value() == ""


@pytest.mark.parametrize("allowed", [True, False], ids=["clipboard", "selection"])
def test_copying(scripted: Scripted, visit: Open, allowed: bool) -> None:
    """Code and whole answers, also where the browser keeps its clipboard to secure pages."""

    def closed(page: Page) -> None:
        page.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined });")

    page = visit(scripted.url, before=None if allowed else closed)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text = "Look:\n\n```python\nprint('<b>')\n\tx\n```"
    scripted.scripts.append(answer(text))
    say(page, "Hi")
    settled(page)
    page.evaluate(
        """() => {
          window.copies = 0;
          document.addEventListener("copy", () => { window.copies += 1; });
        }"""
    )
    page.locator(".answer .copy").click()
    page.locator(".answer .copy", has_text="Copied").wait_for()
    page.locator(".message.assistant").get_by_role("button", name="Copy the text").click()
    page.locator(".message.assistant").get_by_role("button", name="Copied").last.wait_for()
    if allowed:
        assert page.evaluate("navigator.clipboard.readText()") == text
    else:
        assert page.evaluate("window.copies") == 2

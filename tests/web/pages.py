"""What tests do on the page, and how they read it."""

import time
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

import alpage.web

STATIC = Path(alpage.web.__file__).parent / "static"

# Runs before anything of the page: what its policy refuses is remembered, by any document.
WATCH = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""

Open = Callable[..., Page]
"""Open the page of a server in a browser of its own: `visit(url, locale="fr-FR", ...)`."""


def say(page: Page, text: str) -> None:
    """Type a question and send it."""
    page.locator("#question").fill(text)
    page.locator("#question").press("Enter")


def settled(page: Page, count: int = 1) -> None:
    """Wait until so many answers are on screen and none is being written."""
    page.wait_for_function(
        "count => document.querySelectorAll('.message.assistant').length === count"
        " && !document.querySelector('[aria-busy]')",
        arg=count,
    )


def answers(page: Page) -> list[str]:
    """The texts of the answers on screen."""
    return page.locator(".message.assistant .answer").all_inner_texts()


def questions(page: Page) -> list[str]:
    """The texts of the questions on screen."""
    return page.locator(".message.user .said").all_inner_texts()


def places(page: Page) -> list[str]:
    """What stands between the buttons that switch versions, of each message that has some."""
    return page.locator(".branches .place").all_inner_texts()


def wait_until_kept(page: Page, state: str) -> None:
    """Wait until the browser keeps a message in this state."""
    states = """async () => {
      const { Store } = await import("/static/store.js");
      const records = await (await Store.open()).all();
      const messages = records.flatMap((record) => record.messages);
      return messages.map((message) => message.text && message.state);
    }"""
    deadline = time.monotonic() + 15
    while state not in page.evaluate(states):
        assert time.monotonic() < deadline, f"no message is kept as {state}"
        page.wait_for_timeout(50)


def kept(page: Page) -> list[str]:
    """The titles in the list of conversations."""
    return page.locator("#list .open").all_inner_texts()


def press_in_list(page: Page, label: str) -> None:
    """Press a button of a conversation, which shows its buttons to the pointer."""
    pressed = page.get_by_role("button", name=label)
    entry = page.locator("#list .entry", has=pressed)
    entry.hover()
    entry.locator(pressed).click()

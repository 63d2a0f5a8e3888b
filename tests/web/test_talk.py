"""Conversations with the real server and the default model."""

from playwright.sync_api import Page

from tests.web.conftest import Open, say, settled


def test_talk(url: str, visit: Open) -> None:
    page = visit(url)
    say(page, "What is the capital of France?")
    settled(page)
    assert "Paris" in page.locator(".answer").inner_text()
    page.screenshot(path="/tmp/shot1.png")

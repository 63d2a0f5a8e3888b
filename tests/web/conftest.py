"""The page in a real headless Chromium.

Whatever a test does: nothing may leave the origin, and nothing may break the page's policy.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from tests.server.serving import serving
from tests.web.pages import WATCH, Open
from tests.web.scripted import Scripted, scripted_server

from alpage import Llama
from alpage.core.settings import Settings
from alpage.server.app import Surroundings
from alpage.server.pool import Pool

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# Not for the session: Playwright's event loop runs as long as it lives, and no test of another
# folder could start its own beside it.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: no `chromium` is on the path")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="package")
def url(smollm2_path: Path) -> Iterator[str]:
    """A real server with the default model."""
    with Llama.load(smollm2_path, context=2048, settings=Settings()) as llm:
        around = Surroundings(pool=Pool.of({"smollm2": llm}), local=True)
        with serving(around) as running:
            yield running.url


@pytest.fixture(scope="package")
def scripted_for_all() -> Iterator[Scripted]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def scripted(scripted_for_all: Scripted) -> Scripted:
    """A server with answers written by the test, which has forgotten earlier tests."""
    scripted_for_all.reset()
    return scripted_for_all


@pytest.fixture
def visit(browser: Browser) -> Iterator[Open]:
    """Open the page of a server in a browser of its own: `visit(url, locale="fr-FR", ...)`."""
    with ExitStack() as stack:

        def opened(
            url: str, *, before: Callable[[Page], object] | None = None, **options: Any
        ) -> Page:
            context = browser.new_context(**{"locale": "en-GB", **options})
            stack.callback(context.close)
            context.set_default_timeout(15_000)
            context.add_init_script(WATCH)
            page = context.new_page()
            stack.callback(_judge, page, _watched(page), url)
            if before is not None:
                before(page)
            page.goto(url)
            page.wait_for_selector("html[data-ready]")
            return page

        yield opened


def _watched(page: Page) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = {"requests": [], "errors": []}
    page.context.on("request", lambda request: seen["requests"].append(request.url))
    page.on("pageerror", lambda error: seen["errors"].append(str(error)))
    page.on("console", lambda message: _note(message, seen["errors"]))
    return seen


def _note(message: ConsoleMessage, errors: list[str]) -> None:
    # The browser itself writes about answers such as 400 and broken connections.
    if message.type == "error" and not message.text.startswith("Failed to load resource"):
        errors.append(message.text)


def _judge(page: Page, seen: dict[str, list[str]], url: str) -> None:
    """What holds for every test: nothing foreign was asked for, nothing refused, nothing failed."""
    assert page.evaluate("window.violations") == []
    assert [
        asked for asked in seen["requests"] if not asked.startswith((f"{url}/", "blob:", "data:"))
    ] == []
    assert seen["errors"] == []

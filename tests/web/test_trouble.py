"""What goes wrong between the page and a server, and what the person sees of it."""

from playwright.sync_api import Page
from tests.web.pages import (
    STATIC,
    Open,
    answers,
    kept,
    press_in_list,
    say,
    settled,
    wait_until_kept,
)
from tests.web.scripted import DROP, PAUSE, Scripted, answer, chunk, end


def test_a_dropped_connection(scripted: Scripted, visit: Open) -> None:
    """What has come stays, marked as cut; trying again makes another version beside it."""
    page = visit(scripted.url)
    scripted.scripts.append([chunk("Half an "), chunk("answer"), DROP])
    say(page, "Hi")
    page.locator(".note").wait_for()
    assert "The connection broke here" in page.locator(".note").inner_text()
    assert answers(page) == ["Half an answer"]
    page.reload()
    page.locator(".note").wait_for()
    assert answers(page) == ["Half an answer"]

    scripted.scripts.append(answer("A whole answer."))
    page.get_by_role("button", name="Try again").click()
    page.locator(".figures").wait_for()
    assert answers(page) == ["A whole answer."]
    assert page.locator(".branches .place").inner_text() == "2/2"
    assert [message["content"] for message in scripted.bodies[1]["messages"]] == ["Hi"]


def test_an_end_without_an_end(scripted: Scripted, visit: Open) -> None:
    """A proxy may close a stream politely in the middle; that is no whole answer either."""
    page = visit(scripted.url)
    scripted.scripts.append([chunk("Half")])
    say(page, "Hi")
    page.locator(".note").wait_for()
    assert "The connection broke here" in page.locator(".note").inner_text()


def test_no_server(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    page.route("**/v1/chat/completions", lambda route: route.abort("connectionrefused"))
    say(page, "Hi")
    page.locator(".note").wait_for()
    assert "The connection broke here" in page.locator(".note").inner_text()
    page.unroute("**/v1/chat/completions")


def test_a_slow_stream(scripted: Scripted, visit: Open) -> None:
    """While an answer is awaited and written, the page says so, and other conversations work."""
    page = visit(scripted.url)
    scripted.scripts.append([PAUSE, chunk("It is **bo"), PAUSE, chunk("ld**."), *end()])
    say(page, "Slowly")
    page.get_by_role("img", name="Waiting for the first word").wait_for()
    assert page.locator("#send").get_attribute("aria-label") == "Stop"
    scripted.go_on()
    page.locator(".answer p").wait_for()
    assert answers(page) == ["It is **bo"]
    assert page.locator("article[aria-busy=true]").count() == 1
    assert page.locator(".waiting").count() == 0

    page.locator("#new").click()
    assert page.locator("#send").get_attribute("aria-label") == "Send"
    scripted.scripts.append(answer("Quickly."))
    say(page, "Meanwhile")
    settled(page)
    assert answers(page) == ["Quickly."]
    page.locator("#list .open", has_text="Slowly").click()
    assert answers(page) == ["It is **bo"]
    scripted.go_on()
    settled(page)
    assert answers(page) == ["It is bold."]
    assert page.locator("#live").inner_text().endswith("The answer is complete.")


def test_stop_ends_the_request(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    scripted.scripts.append([chunk("One"), PAUSE, chunk("Two"), *end()])
    say(page, "Hi")
    page.locator(".answer p").wait_for()
    page.get_by_role("button", name="Stop").click()
    settled(page)
    assert answers(page) == ["One"]
    assert scripted.ended.wait(20)
    wait_until_kept(page, "stopped")
    page.reload()
    settled(page)
    assert "You stopped the answer here." in page.locator(".note").inner_text()


def test_leaving_in_the_middle(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    scripted.scripts.append([chunk("So far"), PAUSE, *end()])
    say(page, "Hi")
    page.locator(".answer p").wait_for()
    wait_until_kept(page, "writing")
    page.reload()
    page.locator(".note").wait_for()
    assert answers(page) == ["So far"]
    assert "The connection broke here" in page.locator(".note").inner_text()


def test_a_key_is_asked_for(scripted: Scripted, visit: Open) -> None:
    """For the list of models, and again when a key is refused; kept for this tab only."""
    scripted.key = "alp-right"
    page = visit(scripted.url)
    field = page.get_by_role("textbox", name="API key")
    assert field.get_attribute("type") == "password"
    field.fill("alp-wrong")
    field.press("Enter")
    page.locator("#key[open]").wait_for()  # asked again
    field.fill("alp-right")
    page.get_by_role("button", name="Use this key").click()
    page.wait_for_function("() => document.querySelectorAll('#model option').length === 2")
    scripted.scripts.append(answer("Welcome."))
    say(page, "Hi")
    settled(page)
    assert answers(page) == ["Welcome."]
    assert page.evaluate("[sessionStorage['alpage.key'], localStorage['alpage.key']]") == [
        "alp-right",
        None,
    ]

    scripted.key = "alp-new"
    say(page, "And now?")
    page.locator("#key[open]").wait_for()
    scripted.scripts.append(answer("Welcome back."))
    page.locator("#key-field").fill("alp-new")
    page.locator("#key-remember").check()
    page.get_by_role("button", name="Use this key").click()
    settled(page, 2)
    assert answers(page)[1] == "Welcome back."
    assert page.evaluate("[sessionStorage['alpage.key'], localStorage['alpage.key']]") == [
        None,
        "alp-new",
    ]
    assert "alp-" not in page.evaluate("JSON.stringify({...localStorage, 'alpage.key': null})")


def test_errors_are_the_server_s_own_words(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    scripted.scripts.append([503, "the queue is full; try again later"])
    say(page, "Hi")
    page.locator(".note.error").wait_for()
    text = page.locator(".note.error").inner_text()
    assert "The server says: the queue is full; try again later" in text
    scripted.scripts.append(answer("Now it works."))
    page.get_by_role("button", name="Try again").click()
    page.locator(".figures").wait_for()
    assert answers(page) == ["Now it works."]


def smaller(page: Page) -> None:
    """The page with less room than it has."""
    limits = (STATIC / "limits.js").read_text("utf-8")
    small = limits.replace("KEPT_BYTES = 64 * 1024 * 1024", "KEPT_BYTES = 3000")
    assert small != limits
    page.route(
        "**/static/limits.js",
        lambda route: route.fulfill(body=small, content_type="text/javascript"),
    )


def test_a_full_store(scripted: Scripted, visit: Open) -> None:
    """What does not fit is told and not kept; nothing older is lost, and there is room again."""
    page = visit(scripted.url, before=smaller)
    scripted.scripts += [answer("Small."), answer("Large. " * 500), answer("Small again.")]
    say(page, "First")
    settled(page)
    page.locator("#new").click()
    say(page, "Second")
    page.locator(".notice").wait_for()
    settled(page)
    assert "is full" in page.locator(".notice p").inner_text()
    assert page.locator(".notice").count() == 1
    page.get_by_role("button", name="Close this message").click()
    assert "First" in kept(page)
    assert answers(page)[0].startswith("Large. Large.")  # still on screen
    page.goto(scripted.url)
    page.wait_for_selector("html[data-ready]")
    for title in kept(page):
        press_in_list(page, f"Delete {title}")
        page.locator("#ask").get_by_role("button", name="Delete").click()
        page.locator("#list .open", has_text=title).wait_for(state="detached")
    say(page, "Third")
    settled(page)
    page.locator("#list .open", has_text="Third").wait_for()
    assert page.locator(".notice").count() == 0


def test_a_browser_that_keeps_nothing(scripted: Scripted, visit: Open) -> None:
    def closed(page: Page) -> None:
        page.add_init_script("Object.defineProperty(window, 'indexedDB', { value: undefined });")

    page = visit(scripted.url, before=closed)
    assert "keeps nothing" in page.locator(".notice p").inner_text()
    scripted.scripts.append(answer("Here I am."))
    say(page, "Hi")
    settled(page)
    assert answers(page) == ["Here I am."]

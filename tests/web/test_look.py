"""For every person: keyboard alone, both languages and themes, narrow screens, enough contrast."""

import pytest
from playwright.sync_api import Page
from tests.web.pages import Open, answers, kept, press_in_list, questions, say, settled
from tests.web.scripted import PAUSE, Scripted, answer, chunk, end

RICH = (
    "# Title\n\nText with `code`, **bold** and [a link](https://example.org/" + "x" * 120 + ").\n\n"
    "> quoted\n\n- item\n- " + "w" * 200 + "\n\n"
    "|" + "|".join(f"column {n}" for n in range(12)) + "|\n" + "|-" * 12 + "|\n"
    "|" + "|".join("cell" for _ in range(12)) + "|\n\n"
    "```python\n" + "print('long') ; " * 20 + "\n```\n"
)  # fmt: skip
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def focused(page: Page) -> str:
    """What has the focus: its id or label."""
    return str(
        page.evaluate(
            "(({ id, ariaLabel, textContent, title }) => id || ariaLabel || title || textContent)"
            "(document.activeElement)"
        )
    )


def test_a_conversation_by_keyboard_alone(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    assert focused(page) == "question"
    scripted.scripts.append(answer("One."))
    page.keyboard.type("first")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line")
    page.keyboard.press("Enter")
    settled(page)
    assert questions(page) == ["first\nline"]
    assert focused(page) == "question"

    scripted.scripts.append(answer("Two."))
    page.keyboard.press("ArrowUp")
    assert focused(page) == "Edit the message"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.press("ArrowUp")
    page.keyboard.type(" changed")
    page.keyboard.press("Enter")
    settled(page)
    assert questions(page) == ["first\nline changed"]

    scripted.scripts.append([chunk("Three"), PAUSE, *end()])
    page.keyboard.press("Alt+r")
    page.locator(".answer p").wait_for()
    page.keyboard.press("Escape")
    settled(page)
    assert "You stopped" in page.locator(".note").inner_text()
    for _ in range(40):  # back to the versions of the answer
        if focused(page) == "Previous version":
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert answers(page) == ["Two."]
    assert focused(page) == "Next version"  # there is no earlier one

    page.keyboard.press("Alt+n")
    assert (questions(page), focused(page)) == ([], "question")
    page.keyboard.press("Alt+c")
    assert focused(page) == "first line changed"
    page.keyboard.press("Enter")
    settled(page)
    page.keyboard.press("?")
    assert page.get_by_role("dialog", name="Keyboard shortcuts").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.keyboard.press("Alt+p")
    assert focused(page) == "settings-system"
    page.keyboard.press("Escape")


def test_every_control_can_be_reached_and_seen(scripted: Scripted, visit: Open) -> None:
    """By Tab, from the skip link on; each has a name, and an outline while it has the focus."""
    page = visit(scripted.url)
    scripted.scripts.append(answer(RICH))
    say(page, "Hi")
    settled(page)
    page.locator("#list .open").wait_for()
    wanted = page.evaluate(
        """() => {
          const kinds = "button, a[href], input, select, textarea, [tabindex='0']";
          const shown = [...document.querySelectorAll(kinds)].filter((one) =>
            one.checkVisibility({ visibilityProperty: true }) && !one.disabled);
          shown.forEach((one, at) => one.dataset.tab = at);
          return shown.length;
        }"""
    )
    page.locator("[data-tab='0']").focus()
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = {}
    for _ in range(wanted + 5):
        tab, name, outline = page.evaluate(
            """() => {
              const one = document.activeElement, style = getComputedStyle(one);
              const box = one.closest(".box") ? getComputedStyle(one.closest(".box")) : style;
              const label = one.labels?.[0]?.textContent;
              const name = one.ariaLabel || label || one.textContent.trim() || one.title;
              const outlined = [style, box].some(({ outlineStyle }) => outlineStyle !== "none");
              return [one.dataset.tab, name, outlined];
            }"""
        )
        if tab is not None:
            seen[tab] = (name, outline)
        page.keyboard.press("Tab")
    assert len(seen) == wanted
    assert all(name and outline for name, outline in seen.values()), seen
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert focused(page) == "question"


def test_screen_readers_are_told(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    scripted.scripts.append(
        [chunk("This is a first sentence, which is quite long enough to be read aloud. "), PAUSE,
         chunk("And the rest"), *end()]
    )  # fmt: skip
    say(page, "Hi")
    live = page.locator("#live")
    assert live.get_attribute("aria-live") == "polite"
    page.wait_for_function("() => document.querySelector('#live').children.length === 2")
    assert "first sentence" in live.inner_text()
    scripted.go_on()
    settled(page)
    assert live.locator("p").all_inner_texts()[-2:] == ["And the rest", "The answer is complete."]
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_phone(scripted: Scripted, visit: Open) -> None:
    """390 pixels: nothing scrolls sideways but code and tables in their boxes."""
    page = visit(scripted.url, **PHONE)
    scripted.scripts += [answer(RICH), [400, "e" * 300], [chunk("x" * 300), *end("length")]]

    def fits() -> None:
        widths = page.evaluate(
            """() => {
              const boxes = "html, body, main, #talk, #messages, #composer, #side, dialog[open]";
              return [...document.querySelectorAll(boxes)].map((box) =>
                [box.localName + box.id, box.scrollWidth, box.clientWidth]);
            }"""
        )
        assert not [(name, inner, outer) for name, inner, outer in widths if inner > outer]
        assert page.evaluate("document.documentElement.scrollWidth") == 390

    fits()
    for count in (1, 2, 3):
        say(page, "q" * 100)
        settled(page, count)
        fits()
    assert page.locator(".answer pre").evaluate("(pre) => pre.scrollWidth > pre.clientWidth")
    assert page.locator(".answer .table").evaluate("(box) => box.scrollWidth > box.clientWidth")
    assert not page.locator("#side").is_visible()
    page.get_by_role("button", name="Conversations").tap()
    page.locator("#list .open").wait_for()
    assert focused(page) == "side-close"
    assert page.locator("main").evaluate("(main) => main.inert")
    fits()
    page.keyboard.press("Escape")
    page.wait_for_function(
        "() => getComputedStyle(document.querySelector('#side')).visibility === 'hidden'"
    )
    assert focused(page) == "menu"
    page.locator("#settings-open").tap()
    page.locator("#settings-json").check()
    fits()


def test_french_and_english(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url, locale="fr-CA")
    assert page.locator("html").get_attribute("lang") == "fr"
    assert page.get_by_role("button", name="Nouvelle conversation").is_visible()
    assert page.locator("#empty h2").inner_text() == "À quoi pensez-vous ?"
    scripted.scripts.append([chunk("Oui."), *end("length", prompt_tokens=1234)])
    say(page, "Bonjour")
    settled(page)
    figures = page.locator(".figures").inner_text()
    assert "jetons/s" in figures
    assert "invite 1\u202f234" in figures
    assert "limite de jetons" in page.locator(".note").inner_text()
    page.locator("#language").select_option("en")
    assert page.locator("html").get_attribute("lang") == "en"
    assert "limit of tokens" in page.locator(".note").inner_text()
    assert page.locator("#question").get_attribute("placeholder") == "Ask anything"
    page.reload()
    settled(page)
    assert page.get_by_role("button", name="New conversation").is_visible()
    assert answers(page) == ["Oui."]


@pytest.mark.parametrize("locale", ["de-DE", "en-US"])
def test_other_languages_get_english(scripted: Scripted, visit: Open, locale: str) -> None:
    page = visit(scripted.url, locale=locale)
    assert page.locator("html").get_attribute("lang") == "en"
    assert kept(page) == []


CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const part = (value) => value <= 10.31 ? value / 3294.6 : ((value / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const ground = (node) => {
    for (; node !== null; node = node.parentElement) {
      const found = numbers(getComputedStyle(node).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const ratios = [];
  for (const node of document.querySelectorAll("body *")) {
    const texts = [...node.childNodes].filter((child) => child.nodeType === Node.TEXT_NODE);
    if (!texts.some((text) => text.data.trim() !== "") && !node.placeholder) continue;
    if (!node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest(":disabled, .offscreen")) continue;
    const style = getComputedStyle(node, node.placeholder ? "::placeholder" : null);
    const [one, two] = [light(numbers(style.color)), light(ground(node))].sort((a, b) => b - a);
    const what = `${node.localName}.${node.className} ${node.textContent.slice(0, 30)}`;
    ratios.push([(one + 0.05) / (two + 0.05), what]);
  }
  return ratios;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_themes_have_contrast(scripted: Scripted, visit: Open, scheme: str) -> None:
    """Every text on its ground has at least 4.5 : 1, as WCAG AA wants it, in both themes."""
    page = visit(scripted.url, color_scheme=scheme, reduced_motion="reduce")
    dark = "getComputedStyle(document.documentElement).colorScheme"
    assert page.evaluate(dark) == scheme
    ratios = page.evaluate(CONTRAST)
    scripted.scripts += [answer(RICH), [400, "refused"], [chunk("long"), *end("length")]]
    for count in (1, 2, 3):
        say(page, "Hi")
        settled(page, count)
    ratios += page.evaluate(CONTRAST)
    page.keyboard.press("Alt+p")
    page.locator("#settings-temperature").fill("7")
    ratios += page.evaluate(CONTRAST)
    page.keyboard.press("Escape")
    press_in_list(page, "Delete Hi")
    ratios += page.evaluate(CONTRAST)
    page.keyboard.press("Escape")
    assert len(ratios) > 100
    low = [(round(ratio, 2), what) for ratio, what in ratios if ratio < 4.5]
    assert not low

    other = "light" if scheme == "dark" else "dark"
    page.locator("#theme").click()
    assert page.evaluate(dark) == other
    page.reload()
    assert page.evaluate(dark) == other
    page.wait_for_selector("html[data-ready]")
    page.locator("#theme").click()
    assert page.evaluate(dark) == scheme
    assert page.evaluate("localStorage['alpage.theme']") is None

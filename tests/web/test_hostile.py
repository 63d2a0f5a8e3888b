"""Answers written against the page: nothing in them runs, loads or leads anywhere by itself."""

import pytest
from playwright.sync_api import Browser, Page
from tests.web.pages import WATCH, Open, answers, say, settled
from tests.web.scripted import Scripted, answer

HOSTILE = """
<script>window.ran = "script"</script>
<img src="http://127.0.0.1:9/x" onerror="window.ran = 'img'">
<svg onload="window.ran='svg'"><animate onbegin="window.ran=1" attributeName=x></svg>
<iframe srcdoc="<script>parent.ran=1</script>"></iframe>
<style>@import "http://127.0.0.1:9/style";</style>
<link rel="prefetch" href="http://127.0.0.1:9/prefetch">
<meta http-equiv="refresh" content="0; url=http://127.0.0.1:9/">
<base href="http://127.0.0.1:9/">

![picture](http://127.0.0.1:9/picture.png)
![data](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9ImFsZXJ0KDEpIi8+)
[a](javascript:window.ran='link') [b]( javascript:window.ran=1 ) [c](JAVASCRIPT&colon;window.ran=1)
[d](data:text/html,<script>opener.ran=1</script>) [e](vbscript:x) [f](//127.0.0.1:9/)
[g](http://a.b/"onmouseover="window.ran=1) <javascript:window.ran=1>
[h](java&#115;cript:window.ran=1) [i](\\javascript:window.ran=1) [j](blob:http://127.0.0.1/x)

`</code><script>window.ran = 'code'</script>`

| <script>window.ran='cell'</script> | "><img src=x onerror=window.ran=1> |
|---|---|
| [x](javascript:window.ran=1) | <b onclick=window.ran=1>b</b> |

- one
  - two <img src=x onerror=window.ran=1>
    - three
      > quoted <script>window.ran=1</script>
      > - four

```html"><img src=x onerror=window.ran=1>
</code></pre><script>window.ran = 'fence'</script>
<img src=x onerror="window.ran = 'fence'">
"""

ALLOWED = {
    "a", "article", "blockquote", "br", "button", "code", "del", "div", "em", "h2", "h3", "h4",
    "h5", "h6", "hr", "i", "li", "ol", "p", "path", "pre", "span", "strong", "svg", "table",
    "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip


def judge(page: Page) -> None:
    """No code ran, and the messages consist of the elements and attributes of the page's own."""
    assert page.evaluate("window.ran") is None
    found = page.evaluate(
        """() => [...document.querySelectorAll("#messages *")].map((node) =>
          [node.localName, ...[...node.attributes].map(({ name }) => name)])"""
    )
    assert {name for name, *_ in found} <= ALLOWED
    attributes = {attribute for _, *rest in found for attribute in rest}
    assert not {name for name in attributes if name.startswith("on") or name in ("src", "style")}
    links = page.evaluate(
        "[...document.querySelectorAll('#messages a')].map((a) => [a.href, a.rel])"
    )
    for href, rel in links:
        assert href.startswith(("http://", "https://", "mailto:"))
        assert rel == "noopener noreferrer"


@pytest.mark.parametrize("size", [3, 10_000])
def test_nothing_runs(scripted: Scripted, visit: Open, size: int) -> None:
    page = visit(scripted.url)
    scripted.scripts.append(answer(HOSTILE, size))
    say(page, HOSTILE)
    settled(page)
    judge(page)
    assert "window.ran = 'fence'" in answers(page)[0]
    assert page.locator(".answer script, .answer img, .message.user script").count() == 0
    page.reload()  # kept and shown again, also as a title
    settled(page)
    judge(page)
    assert page.locator("#list script, #list img").count() == 0


def test_the_watch_sees_what_it_should(browser: Browser, scripted: Scripted) -> None:
    """The judge of every test, judged: a foreign picture, a script and code from text are seen."""
    page = browser.new_page()
    page.add_init_script(WATCH)
    page.goto(scripted.url)
    page.evaluate(
        """() => {
          const image = document.createElement("img");
          image.src = "http://127.0.0.1:9/picture.png";
          const script = document.createElement("script");
          script.textContent = "window.ran = 'inline'";
          const styled = document.createElement("p");
          styled.setAttribute("style", "color: red");
          document.body.append(image, script, styled);
        }"""
    )
    page.wait_for_timeout(100)
    seen = {violation.split(" ", 1)[0] for violation in page.evaluate("window.violations")}
    assert seen == {"img-src", "script-src-elem", "style-src-attr"}
    assert page.evaluate("window.ran") is None
    page.close()


def test_a_hostile_server(scripted: Scripted, visit: Open) -> None:
    """Names of models and messages of errors are texts as well."""
    evil = "<img src=x onerror=window.ran=1>"
    scripted.models = [{"id": evil, "parent": f"{evil}2"}, {"id": 7}, {}, {"id": "b"}]
    page = visit(scripted.url)
    assert page.locator("#model option").count() == 2
    scripted.scripts.append([400, f"{evil} is wrong"])
    say(page, "Hi")
    page.locator(".note.error").wait_for()
    assert f"{evil} is wrong" in page.locator(".note.error").inner_text()
    judge(page)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (b"data: {not json\n\n", "is not JSON"),
        (b"data: " + b"x" * 1_200_000, "too large"),
        (b'data: {"error": {"message": "the cache is full"}}\n\n', "the cache is full"),
    ],
)
def test_a_broken_stream(scripted: Scripted, visit: Open, event: bytes, told: str) -> None:
    page = visit(scripted.url)
    scripted.scripts.append([*answer("So far so good.")[:1], event, b"data: [DONE]\n\n"])
    say(page, "Hi")
    page.locator(".note.error").wait_for()
    assert told in page.locator(".note.error").inner_text()
    assert answers(page) == ["So far so good."]


def test_strange_events_are_passed_over(scripted: Scripted, visit: Open) -> None:
    page = visit(scripted.url)
    odd = [b": comment\r\n\r\n", b"event: x\nid: 1\nretry: 5\n\n", b"data: null\n\n",
           b"data: 5\n\n",
           b'data: {"choices": []}\n\n', b'data: {"choices": [{"delta": {"content": 7}}]}\n\n',
           b'data: {"usage": {"prompt_tokens": "x"}}\n\n',
           b'data: {"choices":\r\ndata: [{"delta": {"content": "split "}}]}\r\n\r\n']  # fmt: skip
    scripted.scripts.append([*odd, *answer("as it should")])
    say(page, "Hi")
    settled(page)
    assert answers(page) == ["split as it should"]


def test_a_long_answer(scripted: Scripted, visit: Open) -> None:
    """200 KB in small pieces: whole, and the page still answers to the keyboard."""
    paragraph = (
        "A *sentence* with `code`, **and** a [link](https://example.org/x).\n\n- item\n- item\n\n"
    )
    text = paragraph * (200_000 // len(paragraph)) + "```\n" + "code\n" * 4000
    page = visit(scripted.url)
    scripted.scripts.append(answer(text, 64))
    say(page, "Hi")
    settled(page)
    assert page.locator(".answer > p").count() == 200_000 // len(paragraph)
    code = page.locator(".answer pre").evaluate("(pre) => pre.textContent")
    assert code == ("code\n" * 4000).rstrip("\n")
    assert page.evaluate("document.querySelector('#talk').scrollTop") > 1000
    say(page, "")
    judge(page)

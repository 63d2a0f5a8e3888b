"""The page's Markdown, case by case, as the nodes that it makes in a real browser."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from tests.web.scripted import Scripted

# Nodes as a short text: tags, and of the attributes only those that mean something here.
SHOW = """
const SHOWN = ["href", "start", "class"];
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
function show(node) {
  if (node.nodeType === Node.TEXT_NODE) return plain(node.data);
  const inside = [...node.childNodes].map(show).join("");
  if (node.matches("div.code")) return `<pre ${node.querySelector(".language").textContent}>` +
    `${plain(node.querySelector("code").textContent)}</pre>`;
  if (node.matches("div.table")) return inside;
  const shown = SHOWN.filter((name) =>
    node.hasAttribute(name) && !/^level/.test(node.getAttribute(name)));
  const attributes = shown.map((name) => ` ${node.getAttribute(name)}`).join("");
  return /^(br|hr)$/.test(node.localName) ? `<${node.localName}>` :
    `<${node.localName}${attributes}>${inside}</${node.localName}>`;
}
"""

RENDER = f"""async (text) => {{
  {SHOW}
  const {{ renderMarkdown }} = await import("/static/markdown/render.js");
  const host = document.createElement("div");
  renderMarkdown(text, host, {{ copy: "Copy", copied: "Copied", code: "code", table: "Table" }});
  return [...host.childNodes].map(show).join("");
}}"""

STREAM = f"""async ([text, sizes]) => {{
  {SHOW}
  const {{ MarkdownStream }} = await import("/static/markdown/stream.js");
  const host = document.createElement("div");
  const words = {{ copy: "Copy", copied: "Copied", code: "code", table: "Table" }};
  let nodes = 0;
  const watch = new MutationObserver(() => undefined);
  watch.observe(host, {{ childList: true, subtree: true }});
  const stream = new MarkdownStream(host, words);
  for (let at = 0, turn = 0; at < text.length; turn += 1) {{
    const size = sizes[turn % sizes.length];
    stream.push(text.slice(at, at + size));
    at += size;
    for (const {{ addedNodes, removedNodes }} of watch.takeRecords()) {{
      nodes += addedNodes.length + removedNodes.length;
    }}
  }}
  stream.end();
  return [[...host.childNodes].map(show).join(""), stream.work, nodes];
}}"""


@pytest.fixture(scope="module")
def page(browser: Browser, scripted_for_all: Scripted) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(scripted_for_all.url)
    yield page
    page.close()


@pytest.fixture(scope="module")
def render(page: Page) -> Callable[[str], str]:
    return lambda text: str(page.evaluate(RENDER, text))


A = "<a http://a.b/>"

CASES = {
    # Paragraphs and lines.
    "": "",
    "   \n\n ": "",
    "one": "<p>one</p>",
    "one\n\n\ntwo": "<p>one</p><p>two</p>",
    "one\ntwo": "<p>one<br>two</p>",
    "one  \ntwo": "<p>one<br>two</p>",
    "one\\\ntwo": "<p>one<br>two</p>",
    "one\r\ntwo\rthree": "<p>one<br>two<br>three</p>",
    "a<br>b<br/>c": "<p>a<br>b<br>c</p>",
    "    indented": "<p>indented</p>",
    # Headings and rules.
    "# A\n## B\n### C\n###### D": "<h3>A</h3><h4>B</h4><h5>C</h5><h6>D</h6>",
    "# A #": "<h3>A</h3>",
    "# C#": "<h3>C#</h3>",
    "#": "<h3></h3>",
    "#none": "<p>#none</p>",
    "####### seven": "<p>####### seven</p>",
    "text\n# A": "<p>text</p><h3>A</h3>",
    "# *a* `b`": "<h3><em>a</em> <code>b</code></h3>",
    "---": "<hr>",
    "a\n---\nb": "<p>a</p><hr><p>b</p>",
    "* * *": "<hr>",
    "--": "<p>--</p>",
    # Emphasis.
    "*a* **b** ***c***": "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em></p>",
    "_a_ __b__": "<p><em>a</em> <strong>b</strong></p>",
    "snake_case_name": "<p>snake_case_name</p>",
    "2 * 3 * 4": "<p>2 * 3 * 4</p>",
    "2*3*4": "<p>2<em>3</em>4</p>",
    "**a *b* c**": "<p><strong>a <em>b</em> c</strong></p>",
    "*a **b** c*": "<p><em>a <strong>b</strong> c</em></p>",
    "*foo**bar**baz*": "<p><em>foo<strong>bar</strong>baz</em></p>",
    "**open": "<p>**open</p>",
    "**a*": "<p>*<em>a</em></p>",
    "*a _b* c_": "<p><em>a _b</em> c_</p>",
    "** a **": "<p>** a **</p>",
    "~~a~~ ~b~": "<p><del>a</del> <del>b</del></p>",
    "~~~~": "<pre code></pre>",
    "a~~~b~~~": "<p>a~~~b~~~</p>",
    "**é**à": "<p><strong>é</strong>à</p>",
    "*a\nb*": "<p><em>a<br>b</em></p>",
    # Code spans, escapes, entities.
    "`a`": "<p><code>a</code></p>",
    "`*a*`": "<p><code>*a*</code></p>",
    "``a`b``": "<p><code>a`b</code></p>",
    "`` `a` ``": "<p><code>`a`</code></p>",
    "`open": "<p>`open</p>",
    "`a``": "<p>`a``</p>",
    "`<b>`": "<p><code>&lt;b></code></p>",
    r"\*a\* \`b\` \\": "<p>*a* `b` \\</p>",
    r"\a": "<p>\\a</p>",
    "&lt;b&gt; &amp;amp; &#65;&#x42; &nope; &": "<p>&lt;b> &amp;amp; AB &amp;nope; &amp;</p>",
    "&#0;&#x110000;&#xd800;": "<p>\ufffd\ufffd\ufffd</p>",
    # Links.
    "[a](http://a.b)": f"<p>{A}a</a></p>",
    '[a](http://a.b "title") [b](<http://a.b> \'t\')': f"<p>{A}a</a> {A}b</a></p>",
    "[*a* `b`](http://a.b)": f"<p>{A}<em>a</em> <code>b</code></a></p>",
    "[](http://a.b)": f"<p>{A}http://a.b/</a></p>",
    "[a](http://a.b/c_(d))": "<p><a http://a.b/c_(d)>a</a></p>",
    "[a [b](http://a.b) c](http://a.b)": f"<p>[a {A}b</a> c](<a http://a.b/>http://a.b</a>)</p>",
    "[http://x.y](http://a.b)": f"<p>{A}http://x.y</a></p>",
    "[a](mailto:a@b.c)": "<p><a mailto:a@b.c>a</a></p>",
    "*[a*](http://a.b)": f"<p>*{A}a*</a></p>",
    "see http://a.b.": f"<p>see {A}http://a.b</a>.</p>",
    "(http://a.b)": f"<p>({A}http://a.b</a>)</p>",
    "http://a.b/(c)": "<p><a http://a.b/(c)>http://a.b/(c)</a></p>",
    "**http://a.b**": f"<p><strong>{A}http://a.b</a></strong></p>",
    "xhttp://a.b http://": "<p>xhttp://a.b http://</p>",
    "<http://a.b>": f"<p>{A}http://a.b</a></p>",
    "![cat](http://a.b)": "<p><a http://a.b/ picture>cat</a></p>",
    "[a]": "<p>[a]</p>",
    "[a](": "<p>[a](</p>",
    "[a](http://a.b": f"<p>[a](<a http://a.b/>http://a.b</a></p>",  # noqa: F541
    "[a](http://a.b and more)": f"<p>[a]({A}http://a.b</a> and more)</p>",
    "[a](/relative) [b](#c) [c](//d.e)": "<p>[a](/relative) [b](#c) [c](//d.e)</p>",
    # What could run or load something stays text.
    "<script>window.ran=1</script>": "<p>&lt;script>window.ran=1&lt;/script></p>",
    "<img src=x onerror=alert(1)>": "<p>&lt;img src=x onerror=alert(1)></p>",
    "[a](javascript:alert(1))": "<p>[a](javascript:alert(1))</p>",
    "[a](JaVaScRiPt:alert`1`)": "<p>[a](JaVaScRiPt:alert<code>1</code>)</p>",
    "[a](java\tscript:alert(1))": "<p>[a](java\tscript:alert(1))</p>",
    "[a](data:text/html,x) [b](vbscript:x) [c](file:///a)":
        "<p>[a](data:text/html,x) [b](vbscript:x) [c](file:///a)</p>",
    "![a](data:image/png;base64,AA==)": "<p>![a](data:image/png;base64,AA==)</p>",
    "<javascript:alert(1)>": "<p>&lt;javascript:alert(1)></p>",
    '[a](http://a.b"onmouseover="x)': f'<p>[a]({A}http://a.b</a>"onmouseover="x)</p>',
    "`</code><b>`": "<p><code>&lt;/code>&lt;b></code></p>",
    "```\n</code></pre><script>1</script>\n```":
        "<pre code>&lt;/code>&lt;/pre>&lt;script>1&lt;/script></pre>",
    "```<img/onerror=x>\na\n```": "<pre <img/onerror=x>>a</pre>",
    # Code blocks.
    "```python\na\n\n  b\n```\nc": "<pre python>a\n\n  b</pre><p>c</p>",
    "```\na": "<pre code>a</pre>",
    "```": "<pre code></pre>",
    "~~~\n```\n~~~": "<pre code>```</pre>",
    "````\n```\n````": "<pre code>```</pre>",
    "```make\na:\n\tb\n```": "<pre make>a:\n\tb</pre>",
    "- a\n\n\t```\n\t\tb\n\t```": "<ul><li>a<pre code>\tb</pre></li></ul>",
    "text\n```\na\n```": "<p>text</p><pre code>a</pre>",
    "  ```\n  a\n   b\n  ```": "<pre code>a\n b</pre>",
    "``` a`b": "<p>``` a`b</p>",
    "```\n*a* # b\n```": "<pre code>*a* # b</pre>",
    # Quotes.
    "> a\n> b": "<blockquote><p>a<br>b</p></blockquote>",
    "> a\nb\n\nc": "<blockquote><p>a<br>b</p></blockquote><p>c</p>",
    "> > a\n> - b": "<blockquote><blockquote><p>a</p></blockquote><ul><li>b</li></ul></blockquote>",
    ">": "<blockquote></blockquote>",
    # Lists.
    "- a\n- b": "<ul><li>a</li><li>b</li></ul>",
    "* a\n+ b": "<ul><li>a</li><li>b</li></ul>",
    "1. a\n2. b": "<ol><li>a</li><li>b</li></ol>",
    "3) a\n4) b": "<ol 3><li>a</li><li>b</li></ol>",
    "- a\n\n- b": "<ul><li>a</li><li>b</li></ul>",
    "- a\n  - b\n    - c\n- d":
        "<ul><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li><li>d</li></ul>",
    "1. a\n  - b\n2. c": "<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>",
    "1. a\n\n   b\n2. c": "<ol><li>a<p>b</p></li><li>c</li></ol>",
    "1. a\n   ```\n   b\n   ```": "<ol><li>a<pre code>b</pre></li></ol>",
    "- a\nlazy\n\nend": "<ul><li>a<br>lazy</li></ul><p>end</p>",
    "text\n- a": "<p>text</p><ul><li>a</li></ul>",
    "in\n2024. a": "<p>in<br>2024. a</p>",
    "- [x] a\n- [ ] b": "<ul><li task>\u2611 a</li><li task>\u2610 b</li></ul>",
    "-a": "<p>-a</p>",
    "-\n- b": "<ul><li></li><li>b</li></ul>",
    "- # A": "<ul><li><h3>A</h3></li></ul>",
    "- a\n\t- b": "<ul><li>a<ul><li>b</li></ul></li></ul>",
    "- a\n\n1. b": "<ul><li>a</li></ul><ol><li>b</li></ol>",
    # Tables.
    "|a|b|\n|-|-|\n|1|2|": "<table><thead><tr><th left>a</th><th left>b</th></tr></thead>"
        "<tbody><tr><td left>1</td><td left>2</td></tr></tbody></table>",
    "a|b\n:-:|-:\n*1*|`2`\nend": "<table><thead><tr><th center>a</th><th right>b</th></tr></thead>"
        "<tbody><tr><td center><em>1</em></td><td right><code>2</code></td></tr></tbody></table>"
        "<p>end</p>",
    "|a|\n|-|": "<table><thead><tr><th left>a</th></tr></thead></table>",
    "|a|b|\n|-|": "<p>|a|b|<br>|-|</p>",
    "|a\\|b|\n|-|\n|c|d|": "<table><thead><tr><th left>a|b</th></tr></thead>"
        "<tbody><tr><td left>c</td></tr></tbody></table>",
    "text\n|a|\n|-|": "<p>text</p><table><thead><tr><th left>a</th></tr></thead></table>",
    "a | b": "<p>a | b</p>",
}  # fmt: skip


@pytest.mark.parametrize(("text", "nodes"), CASES.items(), ids=[repr(text)[:40] for text in CASES])
def test_a_case(render: Callable[[str], str], text: str, nodes: str) -> None:
    assert render(text) == nodes


def test_links_lead_out_without_ties(page: Page) -> None:
    found = page.evaluate(
        """async () => {
          const { renderMarkdown } = await import("/static/markdown/render.js");
          const host = document.createElement("div");
          renderMarkdown("[a](https://a.b) <https://c.d> https://e.f ![g](https://h.i)", host, {});
          return [...host.querySelectorAll("*")].map((node) =>
            [node.localName, ...[...node.attributes].map(({ name, value }) => `${name}=${value}`)]);
        }"""
    )
    links = [node for node in found if node[0] == "a"]
    assert len(links) == 4
    assert {node[0] for node in found} == {"a", "p"}
    for link in links:
        assert {"rel=noopener noreferrer", "target=_blank"} <= set(link)


@pytest.mark.parametrize("sizes", [[1], [2, 7, 3], [50]], ids=str)
def test_streamed_is_as_whole(page: Page, render: Callable[[str], str], sizes: list[int]) -> None:
    """In whatever pieces a text comes, it ends as if it had come whole."""
    for text in [*CASES, "\n\n".join(text for text in CASES if text != "```")]:
        whole = render(text)
        streamed, _, _ = page.evaluate(STREAM, [text, sizes])
        assert streamed == whole, repr(text)


LONG = {
    "paragraphs": "A *few* words with `code` in them.\n\n",
    "one paragraph": "A *few* words with `code` in them. ",
    "items": "- an item with **bold** words\n",
    "numbered": "1. an item\n   - below it\n\n",
    "one nested item": "  - below\n",
    "table rows": "| cell | cell |\n",
    "code": "    for line in lines:\n",
    "one line of code": "0123456789",
    "quote": "> quoted words\n",
}
OPENING = {
    "one nested item": "- an item\n",
    "table rows": "| a | b |\n|---|---|\n",
    "code": "```python\n",
    "one line of code": "```\n",
}


@pytest.mark.parametrize("name", LONG)
def test_a_stream_costs_what_its_length_does(page: Page, name: str) -> None:
    """Counted in characters that were parsed and in nodes that changed: twice the text is about
    twice the work, and never more than a few times the text."""
    costs = []
    for size in (30_000, 60_000):
        text = OPENING.get(name, "") + LONG[name] * (size // len(LONG[name]))
        _, work, nodes = page.evaluate(STREAM, [text, [200]])
        costs.append((work, nodes))
        assert work < 14 * len(text)
        assert nodes < len(text)
    (small, few), (large, many) = costs
    assert large < 2.6 * small
    assert many < 2.6 * few


HOSTILE: dict[str, Any] = {
    "stars": "*" * 50_000,
    "open stars": "*a " * 50_000,
    "stars around letters": "*a" * 50_000,
    "mixed": "*_~`[!<&" * 20_000,
    "nested emphasis": "*a **b " * 20_000 + "c** d*" * 20_000,
    "brackets": "[" * 100_000,
    "closed brackets": "[" * 50_000 + "]" * 50_000,
    "targets": "[a](" * 40_000,
    "unclosed targets": "[](x" * 40_000,
    "links": "[a](http://a.b)" * 10_000,
    "ticks": "".join("`" * n + " " for n in range(1, 500)),
    "lone ticks": "`a``" * 40_000,
    "entities": "&#" * 80_000,
    "schemes": "http://" * 25_000,
    "punctuated schemes": "http://." + ".,;:" * 40_000,
    "angles": "<http://a" * 20_000,
    "quotes": ">" * 100_000,
    "nested quotes": "\n".join(">" * n for n in range(300)),
    "nested items": "\n".join("  " * n + "- a" for n in range(400)),
    "items in a line": "- " * 50_000,
    "fences": "```\n" * 40_000,
    "rules": "- " * 50_000 + "a",
    "pipes": "|" * 100_000 + "\n" + "|-" * 50_000,
    "wide table": "|a" * 60 + "\n" + "|-" * 60 + "\n" + ("|b" * 60 + "\n") * 1000,
    "spaces": "a" + " " * 100_000 + "b",
    "heading marks": "# " + "# " * 50_000,
    "blank lines": "\n" * 100_000,
    "carriage returns": "\r" * 50_000,
    "surrogates": "\ud83d\ude00*" * 20_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_is_too_much(page: Page, name: str) -> None:
    """Texts made against parsers: rendered at all, and neither deep nor larger than they are."""
    text = json.loads(json.dumps(HOSTILE[name]))
    depth, nodes = page.evaluate(
        """async (text) => {
          const { renderMarkdown } = await import("/static/markdown/render.js");
          const host = document.createElement("div");
          renderMarkdown(text, host, { copy: "", copied: "", code: "", table: "" });
          let deepest = 0, nodes = 0;
          const walk = document.createTreeWalker(host);
          for (let depth = 0, node = host; node !== null; nodes += 1) {
            deepest = Math.max(deepest, depth);
            let next = walk.firstChild();
            if (next !== null) depth += 1;
            while (next === null) {
              next = walk.nextSibling();
              if (next === null) {
                if (walk.parentNode() === null) break;
                depth -= 1;
              }
            }
            node = next;
          }
          return [deepest, nodes];
        }""",
        text,
    )
    assert depth <= 60
    assert nodes <= 20 + 4 * len(text)

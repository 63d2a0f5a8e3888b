"""The page's files: what the server gives, what it does not, and what may not be in them."""

import http.client
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.web.pages import STATIC

from alpage.server.page import CONTENT_SECURITY_POLICY
from alpage.web.files import page_files

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PATHS = sorted(path for path in STATIC.rglob("*") if path.is_file())
MODULES = [path for path in PATHS if path.suffix == ".js"]


def name_of(path: Path) -> str:
    return path.relative_to(STATIC).as_posix()


def test_the_page_and_its_headers(url: str) -> None:
    page = httpx.get(url, headers=HTML)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text == (STATIC / "index.html").read_text("utf-8")
    script = httpx.get(f"{url}/static/app.js")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    for answer in (page, script, httpx.get(url), httpx.get(f"{url}/static/none.js")):
        headers = answer.headers
        assert headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert headers["referrer-policy"] == "no-referrer"
        assert "nosniff" in headers["x-content-type-options"]
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["permissions-policy"] == "camera=(), microphone=(), geolocation=()"
        assert headers["cache-control"] == "no-cache"
        assert "access-control-allow-origin" not in headers


def test_the_policy_allows_nothing_but_the_origin() -> None:
    parts = dict(part.split(" ", 1) for part in CONTENT_SECURITY_POLICY.split("; "))
    assert parts.pop("img-src") == "'self' data:"
    assert {name for name, value in parts.items() if value == "'none'"} == {
        "default-src", "base-uri", "form-action", "frame-ancestors",
    }  # fmt: skip
    assert {name for name, value in parts.items() if value == "'self'"} == {
        "script-src", "style-src", "connect-src", "font-src",
    }  # fmt: skip


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "text/html;q=0", "text/plain"])
def test_programs_get_a_sign_of_life(url: str, accept: str) -> None:
    answer = httpx.get(url, headers={"accept": accept})
    assert (answer.status_code, answer.text) == (200, "Alpage is running")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["vary"] == "accept"


@pytest.mark.parametrize("path", ["/", "/static/app.js", "/static/lang/fr.js"])
def test_unchanged_files_are_not_sent_again(url: str, path: str) -> None:
    first = httpx.get(url + path, headers=HTML)
    for condition in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = httpx.get(url + path, headers={**HTML, "if-none-match": condition})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    changed = httpx.get(url + path, headers={**HTML, "if-none-match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)


@pytest.mark.parametrize("path", ["/", "/static/style/base.css", "/static/none"])
def test_head_is_get_without_the_body(url: str, path: str) -> None:
    got, headed = httpx.get(url + path, headers=HTML), httpx.head(url + path, headers=HTML)
    assert (headed.status_code, headed.content) == (got.status_code, b"")
    assert headed.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    "path",
    ["/static/", "/static/none.js", "/static/lang", "/static/../page.py",
     "/static/..%2f__init__.py", "/static/lang/../../files.py", "/static/%2e%2e/files.py",
     "/static//etc/passwd",
     "/static/app.js/", "/static/APP.JS", "/static/app.js%00", "/static/..\\files.py",
     "/static/" + "a" * 5000],
)  # fmt: skip
def test_only_the_page_s_files_exist(url: str, path: str) -> None:
    """Asked for as written: clients would tidy such paths up."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert answer.status == 404
    assert b"import" not in answer.read()
    connection.close()


def test_other_methods_are_refused(url: str) -> None:
    for path in ("/", "/static/app.js"):
        assert httpx.post(url + path, json={}).status_code == 405


def test_the_schema_of_the_api_leaves_the_page_out(url: str) -> None:
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert not [path for path in paths if path == "/" or path.startswith("/static")]


def test_every_file_is_in_the_table() -> None:
    assert {name_of(path) for path in PATHS} == set(page_files())
    assert len({file.etag for file in page_files().values()}) == len(PATHS)


def test_every_import_is_there() -> None:
    """What a module imports, and the page links to, is a file of the page, and each is used."""
    used = {"index.html"}
    for path in PATHS:
        text = path.read_text("utf-8")
        for relative in re.findall(r'^(?:import|export) [^"]*"(\./|\.\./)([^"]+)";$', text, re.M):
            used.add(name_of((path.parent / "".join(relative)).resolve()))
        if path.suffix == ".html":
            used |= set(re.findall(r'"/static/([^"]+)"', text))
    assert used == set(page_files())


def test_no_way_to_make_nodes_or_code_of_text() -> None:
    """Nodes are built one by one; nothing in the page could turn a text into markup or code."""
    refused = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser"
        r"|setHTML|\beval\(|new Function|srcdoc=|\bjavascript:|setTimeout\([\"'`]"
    )
    for path in MODULES:
        assert not refused.findall(path.read_text("utf-8")), name_of(path)
    page = (STATIC / "index.html").read_text("utf-8")
    assert not re.findall(r"\son\w+=|\sstyle=|<style|javascript:|https?://", page)
    for path in PATHS:
        if path.suffix == ".css":
            assert not re.findall(r"url\(|@import|expression", path.read_text("utf-8"))


def test_modules_are_small_and_documented() -> None:
    for path in MODULES:
        text = path.read_text("utf-8")
        assert len(text.splitlines()) <= 400, name_of(path)
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if re.match(r"export (async )?(function|class|const)\b", line):
                assert lines[number - 1].rstrip().endswith("*/"), f"{name_of(path)}:{number + 1}"


def strings(language: str) -> dict[str, str]:
    """The strings of a language's module, which are lines of JSON."""
    lines = (STATIC / "lang" / f"{language}.js").read_text("utf-8").splitlines()
    pairs = [json.loads("{" + line.strip().rstrip(",") + "}") for line in lines if ": " in line]
    found: dict[str, str] = {}
    for pair in pairs:
        assert not found.keys() & pair.keys(), pair
        found |= pair
    return found


def test_both_languages_say_the_same() -> None:
    english, french = strings("en"), strings("fr")
    assert len(english) > 100
    assert english.keys() == french.keys()
    for key, text in english.items():
        holes = re.compile(r"\{\w+\}")
        assert sorted(holes.findall(text)) == sorted(holes.findall(french[key])), key
        assert text.strip(), key
        assert french[key].strip(), key
    alike = {key for key in english if english[key] == french[key]}
    assert alike <= {"code", "conversation", "conversations", "json.on", "settings.topP"}


def test_every_string_is_used_and_every_used_one_exists() -> None:
    used: set[str] = set()
    prefixes: set[str] = set()
    for path in PATHS:
        if path.suffix not in (".js", ".html") or path.parent.name == "lang":
            continue
        text = path.read_text("utf-8")
        used |= set(re.findall(r'data-t(?:-label|-placeholder)?="([^"]+)"', text))
        used |= set(re.findall(r'"([a-z]+(?:\.\w+)*)"', text))
        prefixes |= set(re.findall(r"`([a-z]+\.)\$\{", text))
    known = strings("en").keys()
    unused = {key for key in known - used if not key.startswith(tuple(prefixes))}
    assert not unused
    marked = set(re.findall(r'data-t[a-z-]*="([^"]+)"', (STATIC / "index.html").read_text("utf-8")))
    called = {
        key
        for path in MODULES
        for key in re.findall(r'\bt\((?:[^()"]*\? )?"([^"]+)"', path.read_text("utf-8"))
    }
    assert marked | called <= known

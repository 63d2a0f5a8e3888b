"""Write docs/compatibility.md: what each client can do here, with the test that shows it.

Tests say it themselves: `@pytest.mark.client("openai", "chat: streaming")`, or with `refused=True`
for what is refused by name. Run it without arguments after adding one; `--check` says whether the
page is up to date.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "compatibility.md"
TESTS = CHECKOUT / "tests" / "server"
CLIENTS = {
    "openai": "OpenAI's Python client",
    "langchain-openai": "LangChain, through its OpenAI package",
    "litellm": "LiteLLM, as an OpenAI-compatible endpoint",
    "anthropic": "Anthropic's Python client",
    "ollama": "Ollama's Python client",
}
HEAD = """# Clients

Written by `scripts/compatibility_table.py` from the marks of the tests: change those, not this
page. Each row is shown by the test that it names, which drives the client's own, unchanged package
against a running server with the default model. *Refused* means an answer with status 400, or the
status that the dialect has for it, that names what is not supported; nothing is ignored in silence.
"""


@dataclass(frozen=True, slots=True, order=True)
class Shown:
    """One feature of one client, and where it is shown."""

    client: str
    feature: str
    refused: bool
    test: str


def shown() -> Iterator[Shown]:
    """Every mark of every test of the server."""
    for path in sorted(TESTS.rglob("test_*.py")):
        name = path.relative_to(CHECKOUT).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.client":
                    yield _shown(mark, f"{name}::{node.name}")


def _shown(mark: ast.Call, test: str) -> Shown:
    try:
        client, feature = (ast.literal_eval(argument) for argument in mark.args)
        more = {str(word.arg): ast.literal_eval(word.value) for word in mark.keywords}
    except ValueError:
        raise SystemExit(
            f"{test}: a client's mark has a name and a feature, both literal"
        ) from None
    if client not in CLIENTS or set(more) - {"refused"}:
        raise SystemExit(f"{test}: no such mark: {ast.unparse(mark)}")
    return Shown(client, feature, bool(more.get("refused", False)), test)


def page() -> str:
    """The whole page."""
    found = sorted(set(shown()))
    versions = _versions()
    parts = [HEAD]
    for client, title in CLIENTS.items():
        own = [row for row in found if row.client == client]
        if not own:
            raise SystemExit(f"no test shows anything of the client {client!r}")
        parts.append(f"## {title} {versions[client]}\n")
        parts.append("| feature | | shown by |\n| --- | --- | --- |")
        for feature in dict.fromkeys(row.feature for row in own):
            parts.append(_row([row for row in own if row.feature == feature]))
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


def _row(rows: list[Shown]) -> str:
    if len({row.refused for row in rows}) > 1:
        raise SystemExit(f"{rows[0].feature!r} is shown to work and to be refused: {rows}")
    links = ", ".join(_link(row.test) for row in rows)
    return f"| {rows[0].feature} | {'refused' if rows[0].refused else 'works'} | {links} |"


def _link(test: str) -> str:
    file, _, function = test.partition("::")
    return f"[{function.removeprefix('test_').replace('_', ' ')}](../{file})"


def _versions() -> dict[str, str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    pins = project["optional-dependencies"]["test"]
    return dict(pin.split("==") for pin in pins if "==" in pin)


def main() -> None:
    """Write the page, or with --check compare it."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
    elif not PAGE.exists() or PAGE.read_text("utf-8") != page():
        raise SystemExit("docs/compatibility.md is old: run python scripts/compatibility_table.py")


if __name__ == "__main__":
    main()

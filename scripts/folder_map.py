"""Write the folder map into the pages that show it: first sentences of the docstrings.

Run it without arguments after adding a package; `--check` says whether the map is up to date.
"""

import ast
import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = (CHECKOUT / "README.md", CHECKOUT / "docs" / "structure.md")
BEGIN, END = "<!-- map: written by scripts/folder_map.py -->\n", "<!-- end of map -->"
FOLDERS_OF_OTHER_LANGUAGES = {
    "native": "The core in C++20, which knows no Python: kernels, paged attention, sampling.",
    "tests": "A mirror of `src/`, the budgets, the documentation's commands, the clean machine.",
    "scripts": "`start`, `setup`, `test`, `check`, `build`: the same for a person and for CI.",
    "benchmarks": "What was measured: command, machine, number and date.",
    "docs": "How it is built, and how to extend it.",
}


def first_sentence(source: Path) -> str:
    """The first sentence of a module's docstring; a package without one is an error."""
    docstring = ast.get_docstring(ast.parse(source.read_text("utf-8")))
    if not docstring:
        raise SystemExit(f"{source} needs a docstring: the folder map quotes its first sentence")
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s", paragraph, maxsplit=1)[0]


def folder_map() -> str:
    """A Markdown table: the packages and modules of `alpage`, then the folders around them."""
    package = CHECKOUT / "src" / "alpage"
    rows = ["| where | what |", "|---|---|"]
    for path in sorted(package.glob("*/__init__.py")):
        rows.append(f"| `src/alpage/{path.parent.name}/` | {first_sentence(path)} |")
    for path in sorted(package.glob("[!_]*.py")):
        rows.append(f"| `src/alpage/{path.name}` | {first_sentence(path)} |")
    for name, what in FOLDERS_OF_OTHER_LANGUAGES.items():
        if (CHECKOUT / name).is_dir():
            rows.append(f"| `{name}/` | {what} |")
    return "\n".join(rows) + "\n"


def updated(page: Path) -> str:
    """The text of `page` with today's map between its two marks."""
    before, begin, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} has lost the lines around the map: {BEGIN.strip()}, {END}")
    return before + begin + folder_map() + end + after


def main() -> int:
    """Exit code 1 with `--check` and an old map, else 0."""
    old = [page for page in PAGES if updated(page) != page.read_text("utf-8")]
    if old and "--check" in sys.argv[1:]:
        print("the folder map is old: run scripts/folder_map.py", file=sys.stderr)
        return 1
    for page in old:
        page.write_text(updated(page), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

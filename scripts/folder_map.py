"""Write the folder map into README.md, from the first sentence of each package's docstring.

Run it without arguments after adding a package; `--check` says whether the map is up to date.
"""

import ast
import re
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
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


def main() -> int:
    """Exit code 1 with `--check` and an old map, else 0."""
    readme = CHECKOUT / "README.md"
    text = readme.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(
            f"{readme} has lost the lines that enclose the map: {BEGIN.strip()}, {END}"
        )
    updated = before + begin + folder_map() + end + after
    if updated == text:
        return 0
    if "--check" in sys.argv[1:]:
        print("the folder map in README.md is old: run scripts/folder_map.py", file=sys.stderr)
        return 1
    readme.write_text(updated, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

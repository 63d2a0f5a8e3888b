"""The budgets of the code base. Raising one is its own commit, with a reason."""

import ast
import graphlib
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "src" / "alpage"

PYTHON_FILE_LINES = 500
CPP_FILE_LINES = 700
FUNCTION_LINES = 60
FUNCTION_LINES_P90 = 40
LINE_CHARACTERS = 100
BASE_DEPENDENCIES = 12

CPP = {".cpp", ".h", ".hpp", ".inl"}
# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile(
    r"(?<![\w.~$}-])/(?:" + "|".join(("work", "root", "home", "Users")) + ")/"
)
REGISTRY_HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("files", "pythonhosted", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
        ("download", "pytorch", "org"),
    )
)


def project_files() -> list[Path]:
    """What git tracks, and what it would if it were added now."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    paths = [CHECKOUT / name for name in done.stdout.split("\0") if name]
    return sorted(path for path in set(paths) if path.is_file())


FILES = project_files()
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
SHELL_FILES = [
    path
    for path in FILES
    if path.suffix == ".sh" or (not path.suffix and path.read_bytes().startswith(b"#!/"))
]


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).as_posix()


def line_count(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def function_lengths(path: Path) -> Iterator[tuple[str, int]]:
    """Lines of each function from `def` to its end, without decorators."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{name_of(path)}:{node.lineno} {node.name}", node.end_lineno - node.lineno + 1


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, lazy ones included: `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute here"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_the_files_are_found() -> None:
    assert PACKAGE / "__init__.py" in PYTHON_FILES
    assert CHECKOUT / "scripts" / "setup" in SHELL_FILES
    assert any(path.suffix in CPP for path in FILES)


def test_file_lengths() -> None:
    too_long = [
        f"{name_of(path)}: {line_count(path)}"
        for path in FILES
        if (path.suffix == ".py" and line_count(path) > PYTHON_FILE_LINES)
        or (path.suffix in CPP and line_count(path) > CPP_FILE_LINES)
    ]
    assert not too_long, "\n".join(too_long)


def test_function_lengths() -> None:
    lengths = [found for path in PYTHON_FILES for found in function_lengths(path)]
    too_long = [f"{name}: {lines}" for name, lines in lengths if lines > FUNCTION_LINES]
    assert not too_long, "\n".join(too_long)
    package = [
        n for path in PYTHON_FILES if PACKAGE in path.parents for _, n in function_lengths(path)
    ]
    p90 = statistics.quantiles(package, n=10)[-1]
    assert p90 <= FUNCTION_LINES_P90, f"90th percentile of the package's functions: {p90} lines"


def test_line_lengths() -> None:
    too_long = [
        f"{name_of(path)}:{number}: {len(line)}"
        for path in FILES
        if path.suffix in CPP or path in PYTHON_FILES or path in SHELL_FILES
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(line) > LINE_CHARACTERS
    ]
    assert not too_long, "\n".join(too_long)


def test_no_import_cycle() -> None:
    graph = grimp.build_graph("alpage", cache_dir=None)
    # The root re-exports the facade at its first use: that one edge is no load-time import.
    imports = {
        module: graph.find_modules_directly_imported_by(module) - {"alpage.llama"}
        if module == "alpage"
        else graph.find_modules_directly_imported_by(module)
        for module in graph.modules
    }
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("name", "places"),
    [
        (
            "alpage._native",
            ("engine/native.py", "weights/"),
        ),  # compiled: import-linter cannot see it
        ("torch", ("model/", "engine/torch.py")),  # the base installation has none
        ("gguf", ()),  # other people's readers judge ours, in tests
        ("transformers", ()),
    ],
)
def test_imports_that_belong_to_few_places(name: str, places: tuple[str, ...]) -> None:
    strangers = [
        f"{name_of(path)}:{line}"
        for path in PYTHON_FILES
        if PACKAGE in path.parents and not path.relative_to(PACKAGE).as_posix().startswith(places)
        for line, imported in imports(path)
        if imported == name or imported.startswith(f"{name}.")
    ]
    assert not strangers, f"{name} is imported only in {places}, not in {strangers}"


def test_base_dependencies() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    assert len(project["dependencies"]) <= BASE_DEPENDENCIES
    assert not [d for d in project["dependencies"] if d.startswith("torch")]


def test_importing_alpage_is_light() -> None:
    """Standard library only, no output; the time is shown (pytest -s), not asserted."""
    code = "import alpage, sys; print(*{'numpy', 'torch', 'typer', 'fastapi'} & set(sys.modules))"
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "", f"import alpage loads {done.stdout}"
    times = [line for line in done.stderr.splitlines() if line.endswith(" alpage")]
    print(f"\nimport alpage (microseconds, own | with imports): {times[-1]}")


def test_no_trace_of_one_machine() -> None:
    """No home folder, checkout path or registry host: those belong to each user's configuration."""
    found = []
    for path in FILES:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue  # a picture or another binary file
        for number, line in enumerate(text.splitlines(), 1):
            if MACHINE_PATH.search(line) or any(host in line for host in REGISTRY_HOSTS):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)

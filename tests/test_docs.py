"""The documentation's commands and programs run, and show what they show on the page.

The convention is described in CONTRIBUTING.md, under "Documentation that runs".
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
PAGES = [CHECKOUT / "README.md", CHECKOUT / "CONTRIBUTING.md", *CHECKOUT.glob("docs/**/*.md")]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCRIPT = re.compile(r"(?<![\w/.-])scripts/[\w.-]+")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)[^)]*\)")
MARK = "::end of command::"
SECONDS = 300


@dataclass
class Block:
    """One fenced block of a page, and the first line of its inside."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass
class Command:
    """What follows `$ `, and what the page shows below it."""

    text: str
    shown: list[str] = field(default_factory=list)
    exit_code: int = 0


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in sorted(PAGES):
        text = page.read_text("utf-8")
        for match in FENCE.finditer(text):
            if match[1] in languages:
                line = text.count("\n", 0, match.start(2)) + 1
                found.append(Block(page, line, match[1], match[2]))
    return found


def commands(block: Block) -> list[Command]:
    parsed: list[Command] = []
    for line in block.text.splitlines():
        failure = re.fullmatch(r"\[exit (\d+)\]", line)
        if line.startswith("$ "):
            parsed.append(Command(line[2:]))
        elif parsed and parsed[-1].text.endswith("\\"):
            parsed[-1].text += f"\n{line}"
        elif parsed and failure:
            parsed[-1].exit_code = int(failure[1])
        elif parsed:
            parsed[-1].shown.append(line.rstrip())
        else:
            pytest.fail(f"{block}: a console block begins with a command, '$ ...', not {line!r}")
    return parsed


def matches(shown: str, real: str) -> bool:
    """Equal but for space at the ends, where `...` on the page stands for anything."""
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, real.strip(), re.DOTALL) is not None


def run(arguments: list[str], folder: Path, alpage_home: Path) -> str:
    """Both outputs together; whatever the block started in the background ends with it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ALPAGE_")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment |= {"ALPAGE_HOME": str(alpage_home), "TERM": "dumb", "COLUMNS": "100"}
    # Into a file, not a pipe: what runs in the background would keep a pipe open.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        process = subprocess.Popen(
            arguments,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            output.write(f"\nstill running after {SECONDS} s\n")
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of it has ended already
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        return output.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path) -> Path:
    """One empty folder for all blocks, so that a later one may use what an earlier one wrote."""
    return tmp_path_factory.mktemp("docs")


@pytest.mark.parametrize("block", blocks("console"), ids=str)
def test_console(block: Block, folder: Path, alpage_home: Path) -> None:
    steps = commands(block)
    lines = []
    for step in steps:
        lines += [step.text, f"printf '\\n%s%d\\n' '{MARK}' $?"]
    output = run(["bash", "-c", "\n".join(lines)], folder, alpage_home)
    parts = re.split(rf"^{re.escape(MARK)}(\d+)\n", output, flags=re.MULTILINE)
    assert len(parts) == 2 * len(steps) + 1, f"{block} ended early:\n{output}"
    for step, real, code in zip(steps, parts[0::2], parts[1::2], strict=False):
        assert int(code) == step.exit_code, f"$ {step.text}\n{real}\n[exit {code}]"
        if step.shown:
            shown = "\n".join(step.shown)
            assert matches(shown, real), f"$ {step.text}\nshown:\n{shown}\nreal:\n{real}"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python(block: Block, folder: Path, alpage_home: Path) -> None:
    program = folder / f"{block.page.stem}_{block.line}.py"
    program.write_text(block.text, "utf-8")
    command = [sys.executable, str(program)]
    if ">>> " in block.text:
        command[1:1] = ["-m", "doctest", "-o", "ELLIPSIS", "-o", "NORMALIZE_WHITESPACE"]
        program = program.rename(program.with_suffix(".txt"))
        command[-1] = str(program)
    finished = "the block has finished"
    if ">>> " not in block.text:
        program.write_text(f"{block.text}\nprint({finished!r})\n", "utf-8")
        assert finished in run(command, folder, alpage_home).splitlines()
    else:
        assert run(command, folder, alpage_home).strip() == ""


@pytest.mark.parametrize("page", sorted(PAGES), ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    """Scripts and linked files; commands of `sh` blocks are read, not run (they run this suite)."""
    text = page.read_text("utf-8")
    for name in SCRIPT.findall(text):
        assert (CHECKOUT / name.rstrip(".")).is_file(), f"{page.name} names {name}"
    for target in LINK.findall(text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_page_that_lies_is_found(tmp_path: Path, alpage_home: Path) -> None:
    """The checker itself: wrong output, wrong exit code, and output that matches."""
    page = tmp_path / "page.md"
    for text, right in {
        "$ echo one two\none ...\n": True,
        "$ echo one\nthree\n": False,
        "$ printf 'no line end'\nno line end\n": True,
        "$ false\n": False,
        "$ bash -c 'exit 3'\n[exit 3]\n": True,
        "$ sleep 100 &\n$ echo after\nafter\n": True,
    }.items():
        block = Block(page, 1, "console", text)
        if right:
            test_console(block, tmp_path, alpage_home)
        else:
            with pytest.raises(AssertionError):
                test_console(block, tmp_path, alpage_home)

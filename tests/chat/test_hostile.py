"""A hostile template ends with one clear error, in bounded time and memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.chat import hostile

from alpage.chat import ChatTemplate
from alpage.core.errors import TemplateError


@pytest.mark.timeout(60)
@pytest.mark.parametrize("case", hostile.ALL)
def test_what_is_said(case: str) -> None:
    source, message = hostile.ALL[case]
    said = hostile.said(source)
    kind = "InputError" if "refuses these messages" in message else "TemplateError"
    assert said.startswith(f"{kind}: the model's chat template ")
    assert any(part in said for part in message.split("|"))
    assert len(said) < 2200
    assert "alpage." not in said


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_AS")
def test_memory_stays_small() -> None:
    """All memory eaters again, in a process that may map 512 MiB: none of them runs out."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    result = subprocess.run(
        [sys.executable, "-m", "tests.chat.hostile", str(512 << 20)],
        cwd=root, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = result.stdout.splitlines()
    assert len(lines) == len(hostile.MEMORY)
    for line, (_, message) in zip(lines, hostile.MEMORY.values(), strict=True):
        assert message in line
        assert "too much memory" not in line


def test_a_template_that_fails_once_can_be_used_again() -> None:
    template = ChatTemplate("{{ 'x' * (messages[0].content | int) }}")
    with pytest.raises(TemplateError, match="it makes a value of more than"):
        template.render([{"role": "user", "content": "1000000000"}])
    assert template.render_text([{"role": "user", "content": "3"}]) == "xxx"


def test_large_honest_messages_pass() -> None:
    text = "x" * 3_000_000
    template = ChatTemplate("{{ messages[0].content }}{{ messages | tojson }}")
    assert template.render_text([{"role": "user", "content": text}]).startswith(text)

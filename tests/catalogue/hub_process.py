"""A pull from a hub in a process of its own, for tests that kill, interrupt or starve it.

`python -m tests.catalogue.hub_process NAME HOME [FILE_SIZE_LIMIT]` prints the path, or the error's
class and message, and exits with the error's code.
"""

import sys
from pathlib import Path

from alpage.catalogue.hub_name import require_hub_name
from alpage.catalogue.hub_pull import pull_hub
from alpage.core.errors import AlpageError


def main(arguments: list[str]) -> int:
    if len(arguments) > 2:
        import resource

        limit = int(arguments[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    home = Path(arguments[1])
    try:
        print(pull_hub(require_hub_name(arguments[0]), home).path(home))
    except AlpageError as error:
        print(f"{type(error).__name__}: {error}")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Records usage until it is killed; prints each call after its record is on the disk.

`python -m tests.server.accounts.usage_process URL`
"""

import sys
import threading
import time

from alpage.server.accounts.database import open_database
from alpage.server.accounts.usage import Usage, UsageRecord


def record(call: str, **values: object) -> UsageRecord:
    """A record with something in every field."""
    fields = {
        "time": time.time(), "key": "k", "key_name": "build", "tenant": "t", "model": "smollm2",
        "endpoint": "/v1/chat/completions", "status": 200, "finish_reason": "stop",
        "prompt_tokens": 10, "cached_tokens": 4, "completion_tokens": 5,
        "first_token_seconds": 0.25, "seconds": 1.5,
    }  # fmt: skip
    return UsageRecord(**(fields | {"call": call} | values))  # type: ignore[arg-type]


def work(usage: Usage, name: int) -> None:
    number = 0
    while True:
        usage.record(record(f"{name}-{number}")).result()
        sys.stdout.write(f"{name}-{number}\n")
        sys.stdout.flush()
        number += 1


if __name__ == "__main__":
    writer = Usage(open_database(sys.argv[1]))
    for thread in range(4):
        threading.Thread(target=work, args=(writer, thread)).start()

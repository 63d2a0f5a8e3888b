"""A short program on one engine: what its users wait for, and the memory they need.

`python -m alpage.bench.start ENGINE MODEL THREADS` loads the model, continues `PROMPT` greedily,
prints a line at the first token, goes on to `ANSWER_TOKENS` and prints its peak resident memory
in bytes. Both engines are used as their documentation shows, through their Python interfaces.
"""

import sys
from collections.abc import Iterator
from typing import Any

PROMPT = "The history of the village begins with a spring, a mill and a road over the pass, which"
ANSWER_TOKENS = 32
CONTEXT = 2048


def main(engine: str, model: str, threads: int) -> None:
    """See the module."""
    pieces = _alpage(model, threads) if engine == "alpage" else _llama_cpp(model, threads)
    next(pieces)
    print("first token", flush=True)  # noqa: T201 - the output of this program
    for _ in pieces:
        pass
    print(peak_memory(), flush=True)  # noqa: T201


def _alpage(path: str, threads: int) -> Iterator[Any]:
    from alpage import Llama

    with Llama.load(path, threads=threads, context=CONTEXT, cache_tokens=CONTEXT) as model:
        yield from model.generate(
            PROMPT, stream=True, max_tokens=ANSWER_TOKENS, temperature=0, ignore_eos=True
        )


def _llama_cpp(path: str, threads: int) -> Iterator[Any]:
    import importlib

    package: Any = importlib.import_module("llama_cpp")
    model = package.Llama(
        path, n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    yield from model.create_completion(PROMPT, stream=True, max_tokens=ANSWER_TOKENS, temperature=0)


def peak_memory() -> int:
    """The most memory that this process has had resident, in bytes; 0 where it is unknown."""
    try:
        # getrusage would do, but on Linux it remembers the process that started this one.
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""`alpage perplexity`: how well a model predicts a text."""

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from alpage.cli.loading import load
from alpage.cli.options import Engine, Json, KvType, Threads
from alpage.cli.output import note, print_json, say
from alpage.core.errors import FormatError, NotFoundError, UsageError
from alpage.core.paths import storage_errors
from alpage.evals.perplexity import LEAST_CONTEXT, Perplexity, Progress, perplexity, runner_scorer

Model = Annotated[
    str,
    typer.Argument(help="A name of the catalogue, a GGUF file, or a Hugging Face folder."),
]
File = Annotated[Path, typer.Argument(help="A text, in UTF-8.", show_default=False)]
Chunk = Annotated[
    int, typer.Option("--context", metavar="TOKENS", help="Tokens of one chunk of the text.")
]
Chunks = Annotated[
    int | None,
    typer.Option(metavar="N", help="Only the first N chunks. Default: all of the text."),
]


def command(
    model: Model,
    file: File,
    context: Chunk = 512,
    chunks: Chunks = None,
    engine: Engine = "native",
    kv_type: KvType = "bf16",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Measure how well a model predicts a text; lower is better.

    The protocol is llama.cpp's: chunks that do not overlap, the second half of each scored.
    """
    if context < LEAST_CONTEXT:
        raise UsageError(f"--context must be at least {LEAST_CONTEXT} tokens, not {context}")
    text = read_text(file)
    with load(
        model,
        engine=engine,
        threads=threads,
        context=context,
        cache_tokens=context,
        kv_type=kv_type,
    ) as loaded:
        tokenizer = loaded.tokenizer
        bos = tokenizer.bos_id if tokenizer.add_bos else None
        # Nothing else uses this engine, so its runner is free.
        score = runner_scorer(loaded.engine.runner)
        ids = loaded.tokenize(text, add_bos=bos is not None)
        with _progress() as progress:
            found = perplexity(
                score, ids, context=context, bos=bos, chunks=chunks, progress=progress
            )
        facts = {
            "model": loaded.model.name, "file": str(file), "engine": engine, "kv_type": kv_type,
            **asdict(found),
        }  # fmt: skip
    if json:
        print_json(facts)
        return
    say(
        f"perplexity {found.value:.4f} ± {found.standard_error:.4f}\n"
        f"{found.scored:,} tokens scored in {found.chunks} chunks of {context}; "
        f"{loaded.model.name}, {loaded.model.quantization}, engine {engine}"
    )


def read_text(path: Path) -> str:
    """A whole text file; NotFoundError, StorageError, or FormatError where it is not UTF-8."""
    if not path.exists():
        raise NotFoundError(f"there is no file {path}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a text file")
    with storage_errors(f"read {path}"):
        content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is not UTF-8 text: byte 0x{content[error.start]:02x} at offset "
            f"{error.start:,}; convert it first"
        ) from error


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a line for each tenth of the way in a log; both on standard error."""
    if not sys.stderr.isatty():
        yield _tenths
        return
    from rich.console import Console  # only here: rich takes a tenth of a second to load
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda done, total, result: bar.update(
            task, completed=done, total=total, description=f"perplexity {result.value:.4f}"
        )


def _tenths(done: int, total: int, result: Perplexity) -> None:
    if 10 * done // total > 10 * (done - 1) // total:
        note(f"chunk {done} of {total}: perplexity {result.value:.4f}")

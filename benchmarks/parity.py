"""Is the native core right? Every weight type against the reference on the same weights.

    python -m benchmarks.parity TEXT --chunks 196

makes the default model in each type, measures its perplexity on TEXT with the native core and
with the reference (PyTorch, float32) on the same chunks, and compares the greedy continuations of
`prompts.txt` until the first step whose two most likely tokens are closer than 0.05 in the
reference's logits. Writes `parity.json` after each type and the table `parity.md` at the end;
`--types` measures some types again and keeps the others.
"""

import argparse
import datetime
import json
import platform
import shlex
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from alpage import __version__
from alpage.bench.llamacpp import is_installed
from alpage.bench.machine import this_machine
from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.catalogue.pull import pull
from alpage.core.paths import atomic_write, cache_home
from alpage.core.processors import usable_processors
from alpage.core.settings import Settings
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.native import NativeRunner, sample_row
from alpage.engine.protocol import Request, Runner, TokenEvent
from alpage.engine.torch import TorchRunner
from alpage.evals.perplexity import Scorer, runner_scorer
from alpage.llama.text import load_text_side
from alpage.weights.source import open_model
from benchmarks.models import MIXED, TYPES, make, tensor_types
from benchmarks.peer import LlamaCppScorer
from benchmarks.scores import Scores, deviation, score

HERE = Path(__file__).parent
SHIPPED = "shipped"
"""The default model's file as it is."""
CONTEXT = 512
ANSWER_TOKENS = 48
CLOSE = 0.05
"""Logits closer than this may rank either way."""
PAGE = 16


@dataclass(frozen=True, slots=True)
class Text:
    """What is scored: the ids of a text, and how much of it."""

    ids: list[int]
    bos: int | None
    chunks: int


Answer = list[tuple[int, float]]
"""Tokens with the gap between the two largest logits of their step."""


def continuations(engine: Engine, prompts: list[list[int]]) -> list[Answer]:
    """Greedy answers of all prompts, run together."""
    sampling = SamplingParams(
        max_tokens=ANSWER_TOKENS, temperature=0, ignore_eos=True, top_logprobs=2
    )
    tickets = [engine.submit(Request(prompt, sampling)) for prompt in prompts]
    return [
        [(e.token, e.top[0][1] - e.top[1][1]) for e in ticket if isinstance(e, TokenEvent)]
        for ticket in tickets
    ]


def first_difference(answer: Answer, reference: Answer) -> tuple[int, float | None]:
    """Steps that agree before the reference's first close call; the gap where they differ.

    None: no difference in those steps.
    """
    for step, ((token, _), (wanted, gap)) in enumerate(zip(answer, reference, strict=True)):
        if gap < CLOSE:
            return step, None
        if token != wanted:
            return step, gap
    return len(reference), None


def run_engine(runner: Runner, text: Text, prompts: list[list[int]]) -> tuple[Scores, list[Answer]]:
    """Score the text and continue the prompts; closes the runner."""
    scores = _score(runner_scorer(runner), text)
    engine = Engine(runner, sampler=sample_row)
    try:
        return scores, continuations(engine, prompts)
    finally:
        engine.close()


def compare(path: Path, text: Text, prompts: list[list[int]], options: Any) -> dict[str, Any]:
    """One row of the table: the model file `path` in both engines."""
    tokens = CONTEXT + sum(len(prompt) + ANSWER_TOKENS + PAGE for prompt in prompts)
    with open_model(path) as source:
        native = NativeRunner(
            source, threads=options.threads, context_tokens=tokens, isa=options.isa
        )
        isa = native.isa
        own, answers = run_engine(native, text, prompts)
        reference = TorchRunner.load(
            source, page_count=-(-tokens // PAGE), page_size=PAGE, threads=options.threads
        )
        right, wanted = run_engine(reference, text, prompts)
    agreed = [first_difference(a, w) for a, w in zip(answers, wanted, strict=True)]
    return {
        "tensors": tensor_types(path),
        "isa": isa,
        "native": _numbers(own),
        "reference": _numbers(right),
        **deviation(own, right),
        "prompts": len(prompts),
        "prompts_equal": sum(gap is None for _, gap in agreed),
        "steps_compared": sum(step for step, _ in agreed),
        "differences": [
            {"prompt": index, "step": step, "gap": gap}
            for index, (step, gap) in enumerate(agreed)
            if gap is not None
        ],
    }


def _numbers(scores: Scores) -> dict[str, float]:
    return {**scores.numbers(), "seconds": round(scores.seconds, 1)}


def _score(scorer: Scorer, text: Text) -> Scores:
    return score(scorer, text.ids, context=CONTEXT, bos=text.bos, chunks=text.chunks)


def beside_llama_cpp(path: Path, text: Text, row: dict[str, Any], threads: int) -> None:
    """Add llama.cpp's perplexity, and how far it is from the reference's."""
    scorer = LlamaCppScorer(path, threads)
    try:
        found = _score(scorer, text)
    finally:
        scorer.close()
    row["llama.cpp"] = _numbers(found)
    row["llama.cpp_deviation"] = found.value / row["reference"]["perplexity"] - 1


def table(report: dict[str, Any]) -> str:
    """The report as a page in Markdown."""
    machine, text, versions = report["machine"], report["text"], report["versions"]
    lines = [
        "# Native core against the reference",
        "",
        "Made by `python -m benchmarks.parity`: do not edit. The default model in every weight "
        "type; perplexity of the native core and of the reference (PyTorch, float32) on the same "
        "dequantised weights and the same chunks. Greedy: prompts whose continuation (48 tokens) "
        "is the reference's up to the first step whose two largest reference logits are closer "
        f"than {CLOSE}, and the steps compared until there.",
        "",
        f"- text: {text['name']}, {text['chunks']} chunks of {CONTEXT} ({text['tokens']:,} tokens)",
        f"- machine: {machine['processor']}, {machine['usable_processors']} processors, "
        f"{report['threads']} threads",
        f"- versions: Alpage {versions['alpage']}, PyTorch {versions['torch']}, "
        f"Python {versions['python']}",
        f"- {report['date'][:10]}, `{report['command']}`",
        "",
        "| type | matrices | native | reference | deviation | greedy: equal prompts | steps |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [_table_row(kind, report["types"][kind]) for kind in _in_order(report["types"])]
    shipped = report["types"].get(SHIPPED, {})
    if "llama.cpp" in shipped:
        lines += [
            "",
            f"llama.cpp on the file as shipped, the same chunks: "
            f"{shipped['llama.cpp']['perplexity']:.4f}, {shipped['llama.cpp_deviation']:+.3%}.",
        ]
    return "\n".join(lines) + "\n"


def _in_order(kinds: dict[str, Any]) -> list[str]:
    return [kind for kind in (SHIPPED, *TYPES) if kind in kinds]


def _table_row(kind: str, row: dict[str, Any]) -> str:
    matrices = ", ".join(f"{count} {name}" for name, count in row["tensors"].items())
    cells = [
        {SHIPPED: "as shipped", **MIXED}.get(kind, kind),
        matrices,
        f"{row['native']['perplexity']:.4f}",
        f"{row['reference']['perplexity']:.4f}",
        f"{row['deviation']:+.3%} ± {row['deviation_error']:.3%}",
        f"{row['prompts_equal']} of {row['prompts']}",
        f"{row['steps_compared']:,}",
    ]
    return f"| {' | '.join(cells)} |"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("text", type=Path, help="a text of at least CHUNKS * 512 tokens")
    parser.add_argument("--chunks", type=int, default=196, help="of 512 tokens (default 196)")
    parser.add_argument("--prompts", type=int, default=60, help="of prompts.txt (default: all 60)")
    parser.add_argument("--types", nargs="+", choices=(SHIPPED, *TYPES), metavar="TYPE",
                        help=f"default: all of {', '.join((SHIPPED, *TYPES))}")  # fmt: skip
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--isa", help="force the native core's instruction set")
    parser.add_argument("--out", type=Path, default=HERE, help="where parity.md and .json go")
    return parser.parse_args(arguments)


def wanted_types(options: argparse.Namespace) -> list[str]:
    """What was asked for, or everything that can be made here."""
    if options.types:
        return list(options.types)
    if is_installed():
        return [SHIPPED, *TYPES]
    print("without llama-cpp-python the K types cannot be made; they are left out")
    return [kind for kind in (SHIPPED, *TYPES) if kind not in MIXED]


def main(arguments: list[str]) -> None:
    """See the module."""
    options = parse(arguments)
    model = pull(DEFAULT_MODEL, cache_home(Settings.from_environment()))
    with open_model(model) as source:
        side = load_text_side(source)
    bos = side.tokenizer.bos_id if side.tokenizer.add_bos else None
    text = Text(side.encode_prompt(options.text.read_text("utf-8")), bos, options.chunks)
    lines = (HERE / "prompts.txt").read_text("utf-8").splitlines()[: options.prompts]
    prompts = [side.encode_prompt(line.replace("\\n", "\n")) for line in lines]
    report = _start(options, arguments)
    for kind in wanted_types(options):
        with tempfile.TemporaryDirectory() as folder:
            path = model
            if kind != SHIPPED:
                path = Path(folder) / f"{kind}.gguf"
                make(model, kind, path, options.threads)
            row = compare(path, text, prompts, options)
            if kind == SHIPPED and is_installed():
                beside_llama_cpp(path, text, row, options.threads)
        report["types"][kind] = row
        _save(options.out / "parity.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        print(_table_row(kind, row), flush=True)
    _save(options.out / "parity.md", table(report))


def _start(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    """The report so far: rows of an earlier run are kept if they were measured on the same text."""
    file = options.out / "parity.json"
    text = {
        "name": options.text.name,
        "chunks": options.chunks,
        "tokens": options.chunks * CONTEXT,
    }
    kept: dict[str, Any] = {}
    if options.types and file.exists():
        before = json.loads(file.read_text("utf-8"))
        kept = before["types"] if before["text"] == text else {}
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.parity", *_public(arguments)]),
        "machine": asdict(this_machine()),
        "threads": options.threads,
        "versions": {
            "alpage": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "text": text,
        "types": kept,
    }


def _public(arguments: list[str]) -> list[str]:
    """Arguments with folders cut off: they are nobody else's."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _save(path: Path, content: str) -> None:
    with atomic_write(path) as file:
        file.write(content.encode())


if __name__ == "__main__":
    main(sys.argv[1:])

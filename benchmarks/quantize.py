"""Alpage's quantisation beside llama.cpp's: errors, perplexity and speed.

    python -m benchmarks.quantize TEXT --calibrate OTHER_TEXT

Errors: root mean square over the same tensors, of the default model as float32 and of random ones
of the shapes of Llama 3.2 1B (normal, 0.02); where importance is given (measured on OTHER_TEXT, or
random) the error is weighted with it. Perplexity: the default model in float32, made into each mix
by both, read by Alpage's native core on TEXT; differences have the error of paired token losses.
Speed: the whole default model from F32 and F16, and a random 1B from F16, in turns, medians.
`--parts` measures some parts again and keeps the others, `--mixes` likewise some rows of
perplexity; results go to `quantize.json`, and as tables to `quantize.md`.
"""

import argparse
import ctypes
import datetime
import importlib
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage import __version__
from alpage.bench.machine import this_machine
from alpage.catalogue.entries import DEFAULT_MODEL
from alpage.catalogue.pull import pull
from alpage.convert.calibrate import importance, text_ids
from alpage.convert.mixes import MIXES
from alpage.convert.quantize import quantize
from alpage.convert.shapes import random_model
from alpage.core.paths import atomic_write, cache_home
from alpage.core.processors import usable_processors
from alpage.core.settings import Settings
from alpage.engine.native import NativeRunner
from alpage.evals.perplexity import runner_scorer
from alpage.llama.text import load_text_side
from alpage.weights.contents import ModelSource
from alpage.weights.dequantize import dequantize_blocks
from alpage.weights.names import from_canonical
from alpage.weights.quantize import encode
from alpage.weights.source import open_model
from alpage.weights.tensor import TensorType
from benchmarks.models import make, quantise_with_llama_cpp
from benchmarks.scores import Scores, deviation, score

HERE = Path(__file__).parent
PARTS = ("error", "perplexity", "speed")
KINDS = ("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0")
MIXED = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0")
TIMED = ("F16", "BF16", *MIXED)
TIMED_LARGE = ("BF16", "Q8_0", "Q4_K_M", "Q4_0")
SHAPES = {"wq": (2048, 2048), "wk": (512, 2048), "w1": (8192, 2048), "w2": (2048, 8192)}
"""Of Llama 3.2 1B."""
CONTEXT = 512

Floats = NDArray[np.float32]
Tensors = Iterator[tuple[str, Floats, Floats]]
"""Name, weights [rows, columns], importance [columns]."""


class LlamaCppEncoder:
    """`ggml_quantize_chunk` out of llama-cpp-python."""

    def __init__(self) -> None:
        llama_cpp: Any = importlib.import_module("llama_cpp")
        folder = Path(llama_cpp.__file__).parent / "lib"
        library: Any = ctypes.CDLL(str(next(folder.glob("libggml-base.*"))))
        self._floats = ctypes.POINTER(ctypes.c_float)
        self._quantise = library.ggml_quantize_chunk
        self._quantise.restype = ctypes.c_size_t
        numbers = [ctypes.c_int64] * 3
        self._quantise.argtypes = [
            ctypes.c_int, self._floats, ctypes.c_void_p, *numbers, self._floats,
        ]  # fmt: skip

    def __call__(self, x: Floats, kind: TensorType, cost: Floats | None) -> NDArray[np.uint8]:
        """As `alpage.weights.quantize.encode`."""
        out = np.zeros(x.shape[0] * kind.row_bytes(x.shape[1]), np.uint8)
        given = None if cost is None else cost.ctypes.data_as(self._floats)
        self._quantise(
            int(kind), x.ctypes.data_as(self._floats), out.ctypes.data, 0, *x.shape, given
        )
        return out


def squared_error(
    raw: NDArray[np.uint8], kind: TensorType, x: Floats, cost: Floats | None
) -> float:
    """Sum of (weighted) squared errors; importance counts relative to its mean."""
    back = np.empty(x.size, np.float32)
    dequantize_blocks(kind.name, raw, back)
    squares = (x.astype(np.float64) - back.reshape(x.shape)) ** 2
    return float((squares if cost is None else squares * (cost / cost.mean())).sum())


def random_tensors() -> Tensors:
    """Of the shapes of Llama 3.2 1B."""
    rng = np.random.default_rng(1)
    for name, shape in SHAPES.items():
        weights = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        yield name, weights, rng.lognormal(0, 1, shape[1]).astype(np.float32)


def model_tensors(source: ModelSource, found: Mapping[str, Floats]) -> Tensors:
    """All matrices of an open model; those without importance have an equal one."""
    for name, tensor in source.tensors.items():
        if len(tensor.shape) == 2:
            values = tensor.dequantize()
            yield name, values, found.get(name, np.ones(tensor.columns, np.float32))


def errors(tensors: Callable[[], Tensors], kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Root mean squares by type: ours and theirs, plain and weighted."""
    theirs = LlamaCppEncoder()
    sums = {kind: dict.fromkeys(("plain", "their_plain", "weighted", "their_weighted"), 0.0)
            for kind in kinds}  # fmt: skip
    counts = dict.fromkeys(kinds, 0)
    for _, x, cost in tensors():
        for kind in kinds:
            stored = TensorType[kind]
            if x.shape[1] % stored.block_size:
                continue
            counts[kind] += x.size
            for label, given in (("plain", None), ("weighted", cost)):
                ours = encode(x, stored, given)
                sums[kind][label] += squared_error(ours, stored, x, given)
                other = theirs(x, stored, given)
                sums[kind][f"their_{label}"] += squared_error(other, stored, x, given)
    return {
        kind: {label: float(np.sqrt(total / counts[kind])) for label, total in sums[kind].items()}
        for kind in kinds
        if counts[kind]
    }


def measure_errors(plain: Path, found: Mapping[str, Floats]) -> dict[str, Any]:
    """The part "error"."""
    with open_model(plain) as source:
        default = errors(lambda: model_tensors(source, found))
    return {"default model": default, "random 1B shapes": errors(random_tensors)}


def score_file(path: Path, text: str, chunks: int, threads: int) -> Scores:
    """Perplexity of a file, read by the native core."""
    with open_model(path) as source:
        side = load_text_side(source)
        runner = NativeRunner(source, threads=threads, context_tokens=CONTEXT)
    bos = side.tokenizer.bos_id if side.tokenizer.add_bos else None
    ids = side.encode_prompt(text)
    found = score(runner_scorer(runner), ids, context=CONTEXT, bos=bos, chunks=chunks)
    runner.close()
    return found


def measure_perplexity(
    plain: Path, found: Mapping[str, Floats], text: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The part "perplexity"; `source` is the float32 model itself."""
    threads, rows = options.threads, {}
    target = plain.with_name("made.gguf")
    by_file = {from_canonical(name, "gguf"): values for name, values in found.items()}
    rows["source"] = {"ours": score_file(plain, text, options.chunks, threads).numbers()}
    for mix in options.mixes or MIXED:
        row: dict[str, Any] = {}
        for label, ours, theirs in (("", None, None), (" calibrated", found, by_file)):
            with open_model(plain) as source:
                quantize(source, target, mix, importance=ours, threads=threads)
            own = score_file(target, text, options.chunks, threads)
            target.unlink()
            quantise_with_llama_cpp(plain, target, mix, threads, theirs)
            other = score_file(target, text, options.chunks, threads)
            target.unlink()
            row[f"ours{label}"] = own.numbers() | deviation(own, other)
            row[f"theirs{label}"] = other.numbers()
        rows[mix] = row
        print(_perplexity_row(mix, row), flush=True)
    return rows


def measure_speed(
    sources: Mapping[str, Path], mixes: Sequence[str], target: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of each round, in turns: ours until the file is on the disk, theirs until done.

    `sources`: files by the type of their weights. llama.cpp's files reach the disk later, which
    is kept as "theirs synced".
    """
    rows: dict[str, Any] = {}
    for mix in mixes:
        for origin, path in sources.items():
            if mix == origin:
                continue
            row: dict[str, list[float]] = {"ours": [], "theirs": [], "theirs synced": []}
            for turn in range(options.runs + 1):  # the first warms up
                seconds = _one_turn(path, target, mix, options.threads)
                if turn:
                    for key, value in zip(row, seconds, strict=True):
                        row[key].append(value)
            rows[f"{origin} -> {mix}"] = row
            print(f"{origin} -> {mix}: {_ratio(row):.2f}x", flush=True)
    return rows


def _one_turn(path: Path, target: Path, mix: str, threads: int) -> tuple[float, float, float]:
    start = time.perf_counter()
    with open_model(path) as source:
        quantize(source, target, mix, threads=threads)
    own = time.perf_counter() - start
    target.unlink()
    start = time.perf_counter()
    quantise_with_llama_cpp(path, target, mix, threads)
    theirs = time.perf_counter() - start
    with target.open("rb") as file:
        os.fsync(file.fileno())
    synced = time.perf_counter() - start
    target.unlink()
    return own, theirs, synced


def _ratio(row: Mapping[str, list[float]]) -> float:
    pairs = zip(row["theirs"], row["ours"], strict=True)
    return statistics.median(theirs / ours for theirs, ours in pairs)


def page(report: Mapping[str, Any]) -> str:
    """The report in Markdown."""
    lines = [
        "# Quantisation beside llama.cpp's",
        "",
        "Made by `python -m benchmarks.quantize`: do not edit. Ratios are Alpage / llama.cpp for "
        "errors (below 1: Alpage is nearer) and llama.cpp / Alpage for time (above 1: Alpage is "
        "faster).",
    ]
    for part, render in (("error", _error_lines), ("perplexity", _perplexity_lines),
                         ("speed", _speed_lines)):  # fmt: skip
        if part in report:
            facts = report[part]
            lines += ["", *render(facts["rows"]), "", _context(facts)]
    return "\n".join(lines) + "\n"


def _context(facts: Mapping[str, Any]) -> str:
    machine = facts["machine"]
    return (
        f"{facts['note']} {machine['processor']}, {facts['threads']} threads; Alpage "
        f"{facts['versions']['alpage']}, llama-cpp-python {facts['versions']['llama-cpp-python']}; "
        f"{facts['date'][:10]}, `{facts['command']}`"
    )


def _error_lines(rows: Mapping[str, Any]) -> list[str]:
    lines = ["## Reconstruction error", ""]
    for where, kinds in rows.items():
        lines += [
            f"{where[0].upper()}{where[1:]}:",
            "",
            "| type | RMSE | llama.cpp | ratio | weighted RMSE | llama.cpp | ratio |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        ]
        for kind, row in kinds.items():
            cells = [kind]
            for label in ("plain", "weighted"):
                ours, theirs = row[label], row[f"their_{label}"]
                ratio = f"{ours / theirs:.3f}" if theirs else "both exact" if not ours else "-"
                cells += [f"{ours:.4g}", f"{theirs:.4g}", ratio]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return lines[:-1]


def _perplexity_lines(rows: Mapping[str, Any]) -> list[str]:
    source = rows["source"]["ours"]
    lines = [
        "## Perplexity",
        "",
        f"The float32 weights themselves: {source['perplexity']:.4f} ± "
        f"{source['standard_error']:.4f}.",
        "",
        "| mix | Alpage | llama.cpp | difference | Alpage, calibrated | llama.cpp, calibrated | "
        "difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    return lines + [_perplexity_row(mix, row) for mix, row in rows.items() if mix != "source"]


def _perplexity_row(mix: str, row: Mapping[str, Any]) -> str:
    cells = [mix]
    for label in ("", " calibrated"):
        own, other = row[f"ours{label}"], row[f"theirs{label}"]
        cells += [f"{own['perplexity']:.4f}", f"{other['perplexity']:.4f}"]
        cells.append(f"{own['deviation']:+.2%} ± {own['deviation_error']:.2%}")
    return f"| {' | '.join(cells)} |"


def _speed_lines(rows: Mapping[str, Any]) -> list[str]:
    lines = ["## Speed"]
    for model, found in rows.items():
        lines += [
            "",
            f"{model}:",
            "",
            "| | Alpage, s | llama.cpp, s | ratio | llama.cpp until on the disk, s |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for name, row in found.items():
            ours, theirs, synced = (statistics.median(row[who]) for who in row)
            lines.append(
                f"| {name} | {ours:.2f} | {theirs:.2f} | {_ratio(row):.2f} | {synced:.2f} |"
            )
    return lines


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("text", type=Path, help="a text for perplexity")
    parser.add_argument(
        "--calibrate", type=Path, required=True, help="another text, for importance"
    )
    parser.add_argument("--calibrate-tokens", type=int, default=20_480)
    parser.add_argument("--chunks", type=int, default=40, help="of 512 tokens (default 40)")
    parser.add_argument("--runs", type=int, default=5, help="rounds of the part speed")
    parser.add_argument(
        "--no-large", dest="large", action="store_false", help="no speed of a random 1B"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--mixes", nargs="+", choices=tuple(MIXES), help="default: the usual ones")
    parser.add_argument("--model", type=Path, help="default: the default model")
    parser.add_argument("--threads", type=int, default=usable_processors())
    parser.add_argument("--out", type=Path, default=HERE, help="where quantize.md and .json go")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    """See the module."""
    options = parse(arguments)
    model = options.model or pull(DEFAULT_MODEL, cache_home(Settings.from_environment()))
    file = options.out / "quantize.json"
    report: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    with tempfile.TemporaryDirectory(dir=options.out) as folder:
        plain = Path(folder) / "plain.gguf"
        make(model, "F32", plain, options.threads)
        with open_model(model) as source:
            ids = text_ids(source, options.calibrate.read_text("utf-8"), options.calibrate_tokens)
            found = {}
            if options.parts != ["speed"]:
                found = importance(source, ids, threads=options.threads)
        for part in options.parts:
            if part == "error":
                rows = measure_errors(plain, found)
                note = f"Importance from {len(ids):,} tokens of {options.calibrate.name}."
            elif part == "perplexity":
                rows = measure_perplexity(plain, found, options.text.read_text("utf-8"), options)
                note = (
                    f"{options.chunks} chunks of {CONTEXT} tokens of {options.text.name}; "
                    f"importance from {len(ids):,} tokens of {options.calibrate.name}."
                )
            else:
                rows = _both_sizes(model, plain, options)
                note = (
                    f"Medians of {options.runs} rounds, in turns; the source in the system's "
                    "cache, Alpage's time until the result is on the disk."
                )
            made = {"rows": rows, "note": note, **_facts(options, arguments)}
            some = part != "error" and options.mixes
            report[part] = _again(report.get(part), made, options) if some else made
            _save(file, json.dumps(report, indent=2) + "\n")
            _save(options.out / "quantize.md", page(report))


def _again(
    before: Mapping[str, Any] | None, made: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """The rows of some mixes in place of those of an earlier run, which keeps the others."""
    if before is None or not set(made["rows"]) <= set(before["rows"]):
        return dict(made)
    again = f"{', '.join(options.mixes)} again on {made['date'][:10]}: `{made['command']}`."
    return {
        **before,
        "rows": {key: row | made["rows"].get(key, {}) for key, row in before["rows"].items()},
        "note": f"{before['note']} {again}",
    }


def _both_sizes(model: Path, plain: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The part "speed": the default model from both floating types, and a random 1B from F16."""
    half, large, target = (plain.with_name(name) for name in ("half", "large", "made"))
    make(model, "F16", half, options.threads)
    mixes = options.mixes or TIMED
    rows = {"Default model": measure_speed({"F32": plain, "F16": half}, mixes, target, options)}
    if options.large:
        quantize(random_model("1b"), large, "F16")
        rows["Random weights, the size of Llama 3.2 1B"] = measure_speed(
            {"F16": large}, options.mixes or TIMED_LARGE, target, options
        )
    return rows


def _facts(options: argparse.Namespace, arguments: list[str]) -> dict[str, Any]:
    llama_cpp: Any = importlib.import_module("llama_cpp")
    shown = [Path(word).name if "/" in word else word for word in arguments]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.quantize", *shown]),
        "threads": options.threads,
        "machine": {"processor": this_machine().processor},
        "versions": {
            "alpage": __version__,
            "llama-cpp-python": llama_cpp.__version__,
            "python": platform.python_version(),
        },
    }


def _save(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


if __name__ == "__main__":
    main(sys.argv[1:])

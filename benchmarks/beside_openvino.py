"""Alpage beside OpenVINO, in turns: the same model, each with its own files.

    python -m benchmarks.beside_openvino --python OTHER/bin/python MODEL.gguf ...

OTHER is a virtual environment with `openvino==2026.4.0 optimum-intel nncf`, which want versions of
torch and transformers of their own. OpenVINO's weights are made from those of the first MODEL, in
four bits (groups of 64, asymmetric) and in eight; the faster counts. Both are given token ids and
give logits; OpenVINO's prefill computes the logits of all tokens, as its exported models do. One
report for each MODEL goes to `results/`, for `benchmarks.render`.
"""

import argparse
import datetime
import subprocess
import sys
import tempfile
from pathlib import Path

from alpage.bench.cases import DECODE, Case
from alpage.bench.machine import others_at_work, processor_times, stolen_share, this_machine
from alpage.bench.report import Report
from alpage.bench.turns import measure_case, workers
from alpage.bench.worker import Job
from alpage.cli import main as alpage
from alpage.core.paths import atomic_write
from alpage.core.processors import usable_processors
from alpage.weights.source import open_model

HERE = Path(__file__).parent
SIDE = HERE / "openvino_side.py"
CASES = [Case("prefill", 512), DECODE, Case("decode", 32, depth=128, sequences=16)]


def exported(model: Path, python: str, folder: Path) -> Path:
    """OpenVINO's files of `model` in `folder`, made where they are missing."""
    floats = folder / "huggingface"
    if not floats.exists():
        alpage(["convert", str(model), str(floats), "--to", "hf"])
    subprocess.run([python, "-P", str(SIDE), "export", str(floats), str(folder)], check=True)
    return folder


def measure(model: Path, files: Path, options: argparse.Namespace) -> Report:
    """One model; rounds in turns."""
    date = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
    with open_model(model) as source:
        facts = {"name": source.name, "file": model.name, "quantization": source.quantization}
        facts["bytes"] = str(source.file_bytes)
    threads, others, before = options.threads, others_at_work(), processor_times()
    other = (
        "OpenVINO",
        [options.python, "-P", str(SIDE), "serve", str(files), str(threads)],
    )
    with workers([Job("alpage", str(model), threads, None, CASES), other]) as sides:
        for side in sides:
            side.load()
        found = [measure_case(sides, case, options.runs) for case in CASES]
        engines = {side.engine: side.facts for side in sides}
    return Report(
        date=date,
        command=f"python -m benchmarks.beside_openvino --python python {model.name}",
        model=facts,
        machine=this_machine().as_json(),
        settings={
            "threads": threads, "runs": options.runs,
            "others_at_work": others, "stolen": stolen_share(before, processor_times()),
        },
        engines=engines,
        measurements=found,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--python", required=True, help="of the environment with OpenVINO")
    parser.add_argument("--files", type=Path, help="where OpenVINO's files are, or are to be kept")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_processors())
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = exported(options.models[0], options.python, folder)
        for model in options.models:
            report = measure(model, files, options)
            name = f"openvino-{report.model['quantization'].lower()}.json"
            with atomic_write(HERE / "results" / name) as file:
                file.write(f"{report.to_json()}\n".encode())
            for row in report.table():
                sys.stdout.write("  ".join(f"{cell:28}" for cell in row).rstrip() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What LoRA adapters cost a batch: throughput of 16 answers with adapters over without, in turns.

    python -m benchmarks.adapters [--rounds 9]

Adapters of rank 16 with random weights on all matrices of all layers of the default model, in
PEFT's layout. 16 requests at a time, the same prompts and numbers of tokens on both sides. Writes
`adapters.json` and the table `adapters.md`.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from alpage import Llama
from alpage.core.config import LlamaConfig
from alpage.weights.names import expected_shapes, from_canonical
from alpage.weights.peft import CONFIG_NAME, WEIGHTS_NAME
from benchmarks.in_turns import Row, record, take_turns, write_page

RANK, TOGETHER, TOKENS = 16, 16, 64
CASES = {"1 adapter": 1, "8 adapters": 8, "16 adapters": 16}


def write_adapter(folder: Path, config: LlamaConfig, seed: int) -> None:
    """A random adapter of every matrix of the layers."""
    chance, weights, modules = np.random.default_rng(seed), {}, set()
    for name, shape in expected_shapes(config):
        if len(shape) != 2 or not name.startswith("layers."):
            continue
        module = from_canonical(name, "huggingface").removesuffix(".weight")
        modules.add(module.rsplit(".", 1)[1])
        for half, size in {"A": (RANK, shape[1]), "B": (shape[0], RANK)}.items():
            values = chance.standard_normal(size) * (0.02 if half == "B" else shape[1] ** -0.5)
            weights[f"base_model.model.{module}.lora_{half}.weight"] = values.astype(np.float32)
    folder.mkdir()
    save_file(weights, folder / WEIGHTS_NAME)
    about = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "bias": "none",
             "target_modules": sorted(modules)}  # fmt: skip
    (folder / CONFIG_NAME).write_text(json.dumps(about))


def throughput(llm: Llama, names: list[str]) -> float:
    """Tokens a second of all answers together; answer i has adapter i modulo their number."""
    began = time.perf_counter()
    asked = []
    for number in range(TOGETHER):
        options: dict[str, Any] = {"adapter": names[number % len(names)]} if names else {}
        request = llm.completion_request(
            f"The story of house number {number}: ", temperature=0.0, max_tokens=TOKENS,
            ignore_eos=True, **options,
        )  # fmt: skip
        asked.append(replace(request, speculate=False))
    answers = [ticket.result() for ticket in [llm.stream(request) for request in asked]]
    return sum(answer.usage.completion_tokens for answer in answers) / (time.perf_counter() - began)


def measure(llm: Llama, rounds: int) -> list[Row]:
    """One row for each number of adapters."""
    rows, names = [], list[str]()
    with tempfile.TemporaryDirectory() as parent:
        for number in range(max(CASES.values())):
            folder = Path(parent) / f"adapter-{number}"
            write_adapter(folder, llm.model.config, number)
            names.append(llm.load_adapter(folder))
    for name, count in CASES.items():
        with_them = partial(throughput, llm, names[:count])
        row = Row(name, TOGETHER * TOKENS)
        rows.append(take_turns(row, rounds, with_them, partial(throughput, llm, [])))
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rows, how = record("adapters", parser.parse_args().rounds, measure)
    text = [
        f"{how} {TOGETHER} answers of {TOKENS} tokens at a time, rank {RANK}, every matrix of "
        "every layer; throughput with adapters over without, prompts included."
    ]
    lines = [f"| {row.name} | {row.cells()}" for row in rows]
    write_page("adapters", "What adapters cost", text, "in one batch", lines)


if __name__ == "__main__":
    main()

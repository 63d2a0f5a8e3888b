"""OpenVINO's side of `benchmarks.beside_openvino`, in an environment of its own without Alpage.

Speaks as `alpage.bench.worker` does: requests are lines of JSON, answers too.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

VARIANTS = ("int4", "int8")
WARM_STEPS = 2


def export(folder: Path, target: Path) -> None:
    """A Hugging Face folder as OpenVINO's files, weights in each of VARIANTS."""
    intel: Any = importlib.import_module("optimum.intel")
    for variant in VARIANTS:
        place = target / variant
        if (place / "openvino_model.xml").exists():
            continue
        config = (
            intel.OVWeightQuantizationConfig(bits=4, sym=False, group_size=64, ratio=1.0)
            if variant == "int4"
            else intel.OVWeightQuantizationConfig(bits=8)
        )
        model = intel.OVModelForCausalLM.from_pretrained(
            folder, export=True, quantization_config=config, compile=False
        )
        model.save_pretrained(place)


class Side:
    """All variants of one model, compiled for latency on so many threads."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._openvino: Any = importlib.import_module("openvino")
        self._folder, self._threads = folder, threads
        self._requests: dict[str, Any] = {}
        self._settings: dict[str, str] = {}
        self._vocabulary = 0

    def load(self) -> float:
        """Compile; seconds for the first variant."""
        core = self._openvino.Core()
        self._requests.clear()
        taken = []
        for variant in VARIANTS:
            start = perf_counter()
            compiled = core.compile_model(
                str(self._folder / variant / "openvino_model.xml"), "CPU",
                {"INFERENCE_NUM_THREADS": self._threads, "PERFORMANCE_HINT": "LATENCY"},
            )  # fmt: skip
            self._requests[variant] = compiled.create_infer_request()
            taken.append(perf_counter() - start)
            for key in ("INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "INFERENCE_NUM_THREADS"):
                value = compiled.get_property(key)
                self._settings[key] = str(getattr(value, "to_string", lambda v=value: v)())
            self._vocabulary = compiled.output("logits").partial_shape[2].get_length()
        return taken[0]

    def run(self, case: dict[str, Any], variant: str) -> float:
        """Tokens a second of one case (`alpage.bench.cases`)."""
        request = self._requests[variant]
        count, tokens, depth = case["sequences"], case["tokens"], case["depth"]
        request.reset_state()
        prefill = case["kind"] == "prefill"
        if prefill:
            self._pass(request, self._ids(1, 32), 0)
            request.reset_state()
        if depth:
            self._pass(request, np.repeat(self._ids(1, depth), count, axis=0), 0)
        steps = [self._ids(1, tokens)] if prefill else np.split(self._ids(count, tokens), tokens, 1)
        at = depth
        if not prefill:  # threads and memory are warm then
            for step in steps[:WARM_STEPS]:
                self._pass(request, step, at)
                at += 1
        start = perf_counter()
        for step in steps:
            self._pass(request, step, at)
            at += step.shape[1]
        return float(count * tokens / (perf_counter() - start))

    def facts(self) -> dict[str, Any]:
        """Version, and how the models were compiled."""
        settings = ", ".join(f"{key.lower()} {value}" for key, value in self._settings.items())
        return {
            "version": self._openvino.__version__,
            "build": f"{', '.join(VARIANTS)}; {settings}",
        }

    def _ids(self, count: int, tokens: int) -> Any:
        rng = np.random.default_rng(2)
        return rng.integers(0, self._vocabulary, (count, tokens), dtype=np.int64)

    @staticmethod
    def _pass(request: Any, ids: Any, first: int) -> None:
        count, tokens = ids.shape
        positions = np.tile(np.arange(first, first + tokens, dtype=np.int64), (count, 1))
        request.infer(
            {
                "input_ids": ids,
                "attention_mask": np.ones((count, first + tokens), np.int64),
                "position_ids": positions,
                "beam_idx": np.arange(count, dtype=np.int32),
            }
        )
        _ = request.get_tensor("logits").data[0, 0, 0]


def main() -> None:
    """`export FOLDER TARGET`, or `serve TARGET THREADS` until standard input ends."""
    if sys.argv[1] == "export":
        export(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    side = Side(Path(sys.argv[2]), int(sys.argv[3]))
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        if request["do"] == "load":
            answer = {"seconds": side.load(), "variants": VARIANTS, "facts": side.facts()}
        elif request["do"] == "run":
            answer = {"rate": side.run(request["case"], request["variant"])}
        answers.write(f"{json.dumps(answer)}\n")
        answers.flush()


if __name__ == "__main__":
    main()

"""What guessing ahead is worth: copying, editing, filling in, and free prose, on and off in turns.

    python -m benchmarks.speculation [--rounds 5]

The default model answers each prompt greedily, with and without speculation, one after the other in
every round; the tokens must be equal. Decode speed is the answer's tokens after the first by the
engine's own clock; ratios are medians over the rounds. Writes `speculation.json` and the table
`speculation.md`.
"""

import argparse
import datetime
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpage import Llama, __version__
from alpage.bench.machine import others_at_work, this_machine
from alpage.core.paths import atomic_write
from alpage.core.types import Usage
from alpage.llama import Completion, TextRequest

HERE = Path(__file__).parent
_TEXT = (
    "The harbour of Brest was built where three rivers meet. In 1631 a cardinal ordered wooden "
    "wharves there, and fifty years later the town had an arsenal, two dry docks and a rope walk "
    "four hundred metres long. Ships of the line were repaired under a roof of slate, while "
    "pilots kept a chart of every rock between the island and the mouth of the channel."
)
_FORM = (
    '{"name": "Brest", "founded": 1631, "rivers": ["Penfeld", "Elorn", "Aulne"], "docks": 2, '
    '"rope_walk_metres": 400, "arsenal": true, "island": "Ouessant", "roof": "slate"}'
)
PROMPTS = {
    "quote the document": f"Repeat this text word for word, nothing else.\n\n{_TEXT}",
    "edit this text": f"Write this text again with Brest changed to Lorient.\n\n{_TEXT}",
    "fill this JSON": f"Write this JSON again, on one line, with founded set to 1666.\n\n{_FORM}",
    "free prose: a story": "Write a long story about a girl who finds a door in a mountain.",
    "free prose: an essay": "Why do people keep diaries? Answer with an essay.",
    "free prose: advice": "How should I prepare for a hike of five days? Explain in detail.",
}
TOKENS = 160


def answer(llm: Llama, request: TextRequest, *, speculate: bool) -> Completion:
    """One greedy answer."""
    return llm.stream(replace(request, speculate=speculate)).result()


def rate(usage: Usage) -> float:
    """Tokens a second after the first."""
    return (usage.completion_tokens - 1) / usage.decode_seconds


def measure(llm: Llama, rounds: int) -> list[dict[str, Any]]:
    """One row for each prompt."""
    rows = []
    for name, text in PROMPTS.items():
        request = llm.chat_request(
            [{"role": "user", "content": text}], temperature=0.0, max_tokens=TOKENS
        )
        answer(llm, request, speculate=True)  # warm, and the prompt is in the cache from now on
        ratios, rates, usage = [], [], None
        for round_ in range(rounds):
            found = {}
            for speculate in (True, False) if round_ % 2 else (False, True):
                found[speculate] = answer(llm, request, speculate=speculate)
            assert found[True].tokens == found[False].tokens, f"{name}: the answer changed"
            usage, plain = found[True].usage, found[False].usage
            ratios.append(rate(usage) / rate(plain))
            rates.append(rate(plain))
        assert usage is not None
        rows.append(
            {
                "prompt": name,
                "tokens": usage.completion_tokens,
                "drafted": usage.drafted_tokens,
                "accepted": usage.accepted_tokens,
                "plain_rate": statistics.median(rates),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        )
        print(f"{name:24} {rows[-1]['ratio']:.2f}x  {min(ratios):.2f} to {max(ratios):.2f}")
    return rows


def table(report: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Guessing ahead",
        "",
        f"`{report['command']}`, {report['date']}, Alpage {report['version']}, "
        f"{report['machine']['processor']}, {report['threads']} threads, default model. Decode "
        "speed with speculation over without, same tokens, in turns; median and range of "
        f"{report['rounds']} rounds. Other programs took {report['others']:.0%} of the processors "
        "before the run.",
        "",
        "| prompt | answer, tokens | guessed | right | tokens/s without | with, ratio | range |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row['prompt']} | {row['tokens']} | {row['drafted']} | {row['accepted']} | "
        f"{row['plain_rate']:.0f} | **{row['ratio']:.2f}x** | "
        f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f} |"
        for row in report["rows"]
    ]
    return "\n".join([*lines, ""])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    others = others_at_work()
    with Llama.load(pull=True) as llm:
        rows = measure(llm, rounds)
        report = {
            "command": f"python -m benchmarks.speculation --rounds {rounds}",
            "date": datetime.date.today().isoformat(),
            "version": __version__,
            "machine": this_machine().as_json(),
            "threads": getattr(llm.engine.runner, "threads", 0),
            "rounds": rounds,
            "others": others or 0.0,
            "rows": rows,
        }
    with atomic_write(HERE / "speculation.json") as file:
        file.write((json.dumps(report, indent=1) + "\n").encode())
    with atomic_write(HERE / "speculation.md") as file:
        file.write(table(report).encode())


if __name__ == "__main__":
    main()

"""What a grammar costs one answer: decode speed under it over free decoding, in turns.

    python -m benchmarks.constraints [--rounds 9]

The default model, one request at a time, no guessing ahead. Under "any text" nothing is ever
refused; under JSON Schema most of the text is the model's own, with and without jumps over what the
schema alone decides (an answer with log-probabilities does not jump; both sides have them then).
The free answer has as many tokens. Writes `constraints.json` and the table `constraints.md`.
"""

import argparse
from dataclasses import replace
from functools import partial
from typing import Any

from alpage import Llama
from alpage.llama import TextRequest
from benchmarks.in_turns import Row, decode_rate, record, take_turns, write_page

TOKENS = 96
PEOPLE = {
    "type": "array",
    "minItems": 200,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
}
CASES: dict[str, dict[str, Any]] = {
    "any text": {"regex": "(?s:.*)"},
    "JSON Schema, every token sampled": {"json_schema": PEOPLE, "top_logprobs": 0},
    "JSON Schema": {"json_schema": PEOPLE},
}


def rate(llm: Llama, request: TextRequest) -> float:
    """Tokens a second of one answer of `TOKENS`."""
    usage = llm.stream(replace(request, speculate=False)).result().usage
    assert usage.completion_tokens == TOKENS
    return decode_rate(usage)


def measure(llm: Llama, rounds: int) -> list[Row]:
    """Greedy and sampled, each case."""
    rows = []
    for temperature in (0.0, 0.8):
        for name, rule in CASES.items():
            options: dict[str, Any] = {
                "temperature": temperature, "seed": 1, "max_tokens": TOKENS, "ignore_eos": True
            }  # fmt: skip
            options |= {key: rule[key] for key in rule if key == "top_logprobs"}
            ask = [{"role": "user", "content": "Describe a person as JSON."}]
            free = llm.chat_request(ask, **options)
            held = llm.chat_request(ask, **(options | rule))

            row = Row(f"{name}, temperature {temperature:g}", TOKENS)
            rows.append(take_turns(row, rounds, partial(rate, llm, held), partial(rate, llm, free)))
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rows, how = record("constraints", parser.parse_args().rounds, measure)
    text = [f"{how} Decode speed of {TOKENS} tokens under a grammar over that of a free answer."]
    lines = [f"| {row.name} | {row.cells()}" for row in rows]
    write_page("constraints", "What a grammar costs", text, "grammar", lines)


if __name__ == "__main__":
    main()

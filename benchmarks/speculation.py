"""What guessing ahead is worth: copying, editing, filling in, and free prose, on and off in turns.

    python -m benchmarks.speculation [--rounds 5]

The default model answers each prompt greedily, with and without speculation, one after the other in
every round; the tokens must be equal. Decode speed is the answer's tokens after the first by the
engine's own clock; ratios are medians over the rounds. Writes `speculation.json` and the table
`speculation.md`.
"""

import argparse
from dataclasses import replace
from functools import partial

from alpage import Llama
from benchmarks.in_turns import Row, decode_rate, record, take_turns, write_page

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


class Case:
    """One prompt, answered with and without; `row` and `answers` grow with each answer."""

    def __init__(self, llm: Llama, name: str, text: str) -> None:
        self._llm = llm
        self._request = llm.chat_request(
            [{"role": "user", "content": text}], temperature=0.0, max_tokens=TOKENS
        )
        self.row, self.answers = Row(name), set[tuple[int, ...]]()

    def rate(self, speculate: bool) -> float:
        """Answer once; tokens a second."""
        answer = self._llm.stream(replace(self._request, speculate=speculate)).result()
        self.answers.add(tuple(answer.tokens))
        usage = answer.usage
        if speculate:
            self.row.tokens = usage.completion_tokens
            self.row.counts = {"guessed": usage.drafted_tokens, "right": usage.accepted_tokens}
        return decode_rate(usage)


def measure(llm: Llama, rounds: int) -> list[Row]:
    """One row for each prompt."""
    rows = []
    for name, text in PROMPTS.items():
        case = Case(llm, name, text)
        rows.append(
            take_turns(case.row, rounds, partial(case.rate, True), partial(case.rate, False))
        )
        assert len(case.answers) == 1, f"{name}: the answer changed"
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rows, how = record("speculation", parser.parse_args().rounds, measure)
    text = [f"{how} Decode speed with speculation over without; the tokens are the same."]
    lines = [
        f"| {row.name} | {row.tokens} | {row.counts['guessed']} | {row.counts['right']} | "
        f"{row.cells()}"
        for row in rows
    ]
    write_page(
        "speculation", "Guessing ahead", text, "prompt | answer, tokens | guessed | right", lines
    )


if __name__ == "__main__":
    main()

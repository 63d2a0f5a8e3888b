"""Every schema of the installed packages: refused by keyword, or answered and judged.

    python -m tests.schemas [--limit N] [--walks K] [--record]

The default model answers `--limit` of the schemas (all unless given), 16 at a time; random tokens
of the masks answer all of them, `--walks` times each. `--record` writes benchmarks/schemas.md and
schemas.json. Ends with 1 where an answer is invalid or something failed.
"""

import argparse
import collections
import datetime
import functools
import json
import os
import platform
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.schemas.gather import schemas
from tests.schemas.judge import judged
from tests.schemas.walk import Walker, grammar_of, refused_keyword

import alpage
from alpage import Llama
from alpage.catalogue.pull import pull
from alpage.core.errors import InputError, UsageError
from alpage.engine.grammar import GrammarCompiler

_TOGETHER = 16
_TOKENS = 200
_WALK_TOKENS = 150
_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
Named = tuple[str, dict[str, Any]]
Counts = collections.Counter[str]


class Tally:
    """What became of the schemas and their answers."""

    def __init__(self) -> None:
        self.counts: Counts = collections.Counter()
        self.failures: list[str] = []

    def add(self, name: str, schema: dict[str, Any], answer: Callable[[], str | None]) -> None:
        """Judge one answer, None where it was cut."""
        try:
            text = answer()
            wrong = None if text is None else judged(schema, text)
        except InputError:  # the grammar became too large on the way, and the request says so
            self.counts["ended by an error"] += 1
        except Exception as error:  # whatever it is, it is a failure of this run
            self.counts["internal error"] += 1
            self.failures.append(f"{name}: {error!r:.300}")
        else:
            kind = "cut by length" if text is None else "INVALID" if wrong else "valid"
            self.counts[kind] += 1
            if wrong:
                self.failures.append(f"{name}: {text!r:.300}: {wrong:.300}")


def sorted_out(found: list[Named], compiler: GrammarCompiler) -> tuple[list[Named], Counts, Tally]:
    """The schemas that can be enforced, the keywords of the others, and what failed."""
    enforced, refused, tally = [], collections.Counter[str](), Tally()
    for name, schema in found:
        try:
            compiler.check(grammar_of(schema), None)
            enforced.append((name, schema))
        except UsageError as error:
            refused[refused_keyword(str(error))] += 1
        except Exception as error:  # as above
            tally.failures.append(f"{name}: {error!r:.300}")
    return enforced, refused, tally


def by_walks(enforced: list[Named], walker: Walker, walks: int) -> Tally:
    """Answers of random tokens."""
    tally = Tally()
    for name, schema in enforced:
        grammar = grammar_of(schema)
        for seed in range(walks):
            tally.add(name, schema, functools.partial(walker.walk, grammar, seed, _WALK_TOKENS))
    return tally


def by_model(enforced: list[Named], llm: Llama, tokens: int = _TOKENS) -> Tally:
    """Answers of the model at temperature 1, many at a time."""
    tally = Tally()

    def one(number: int) -> None:
        name, schema = enforced[number]
        topic = str(schema.get("title", "thing"))[:60]
        ask = [{"role": "user", "content": f"Write an example of a {topic}, as JSON."}]

        def answer() -> str | None:
            made = llm.chat(
                ask, json_schema=json.dumps(schema), temperature=1.0, top_p=1.0, seed=number,
                max_tokens=tokens,
            )  # fmt: skip
            return made.text if made.finish_reason == "stop" else None

        tally.add(name, schema, answer)

    with ThreadPoolExecutor(_TOGETHER) as threads:
        list(threads.map(one, range(len(enforced))))
    return tally


def main() -> int:
    """Run it all; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.schemas")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--walks", type=int, default=2)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    found = schemas()
    random.Random(0).shuffle(found)
    given = os.environ.get("TEST_ALPAGE_HOME")
    home = Path(given) if given else _FOLDER.parent / ".cache" / "alpage-test"
    with Llama.load(pull("smollm2", home), context=1024) as llm:
        compiler = GrammarCompiler(llm.tokenizer, llm.model.config.vocab_size)
        enforced, refused, failed = sorted_out(found, compiler)
        report: dict[str, Any] = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "alpage": alpage.__version__,
            "python": platform.python_version(),
            "schemas": len(found),
            "refused": dict(refused.most_common()),
            "failed to compile": len(failed.failures),
            "walks": {"each": options.walks},
            "model": {"schemas": min(len(enforced), options.limit or len(enforced))},
        }
        walked = by_walks(enforced, Walker(llm.tokenizer, compiler), options.walks)
        report["walks"] |= dict(walked.counts)
        answered = by_model(enforced[: options.limit], llm)
        report["model"] |= dict(answered.counts)
        compiler.close()
    failures = [*failed.failures, *walked.failures, *answered.failures]
    sys.stdout.write(json.dumps(report, indent=2) + "\n" + "\n".join(failures) + "\n")
    if options.record:
        _record(report)
    return 1 if failures else 0


def _record(report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=2) + "\n"
    (_FOLDER / "schemas.json").write_text(text, encoding="utf-8")
    kinds = ("valid", "cut by length", "ended by an error", "INVALID", "internal error")
    lines = [
        "# Schemas of other people",
        "",
        f"`python -m tests.schemas --limit {report['model']['schemas']} --record`, "
        f"{report['date']}, Alpage {report['alpage']}, the default model.",
        "",
        f"{report['schemas']:,} different JSON Schemas of installed packages: files, models of "
        "pydantic, and the definitions inside of both. "
        f"{sum(report['refused'].values()):,} are refused before an answer begins, with the "
        "keyword named. The others are answered, and `jsonschema` judges what is complete.",
        "",
        f"| answers | by the default model, {report['model']['schemas']:,} schemas, temperature 1, "
        f"{_TOKENS} tokens | by random tokens of the masks, {report['walks']['each']} for each "
        f"schema, {_WALK_TOKENS} tokens |",
        "|---|---:|---:|",
        *(
            f"| {kind} | {report['model'].get(kind, 0):,} | {report['walks'].get(kind, 0):,} |"
            for kind in kinds
        ),
        "",
        "An answer ends by an error where its grammar becomes too ambiguous to go on with; the "
        "request fails and says so.",
        "",
        "| refused because of | schemas |",
        "|---|---:|",
        *(f"| `{keyword}` | {count:,} |" for keyword, count in report["refused"].items()),
    ]
    (_FOLDER / "schemas.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

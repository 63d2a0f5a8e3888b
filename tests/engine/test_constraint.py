"""Constraints of llguidance: what they allow in every vocabulary, and answers under them."""

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
from tests.tokenizer.spm import trained

from alpage import Llama
from alpage.core.errors import InputError, UsageError
from alpage.core.settings import Settings
from alpage.core.types import SamplingParams
from alpage.engine.grammar import MAX_TEXT, Grammar, GrammarCompiler
from alpage.engine.native import NativeRunner, sample_row
from alpage.engine.protocol import FailEvent, FinishEvent, Request, TokenEvent
from alpage.engine.scheduler import Limits, Scheduler
from alpage.llama.text import load_text_side
from alpage.tokenizer import StreamDecoder, Tokenizer, from_sentencepiece, from_tiktoken
from alpage.weights.source import open_model

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "address": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Zürich", "東京"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
        "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 2},
    },
    "required": ["name", "age", "address", "tags"],
    "additionalProperties": False,
}
SCHEMAS: list[dict[str, Any]] = [
    PERSON,
    {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"},
    {"type": "number", "minimum": -1, "exclusiveMaximum": 2},
    {"anyOf": [{"type": "null"}, {"type": "boolean"}, {"const": {"é😀": [1]}}]},
    {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False},
    {
        "type": "object",
        "properties": {"next": {"$ref": "#/$defs/node"}},
        "required": ["next"],
        "additionalProperties": False,
        "$defs": {
            "node": {
                "type": ["object", "null"],
                "properties": {"next": {"$ref": "#/$defs/node"}},
                "additionalProperties": False,
            }
        },
    },
]
PATTERNS = [r"[a-c]{3,5} [0-9]+(\.[0-9]{2})?", "(yes|no)!?", " ?[äöü ]{0,4}/end", r"\n\t\"x"]
LARK = """
start: term (("+" | "-") term)~1..3
term: NUMBER | "(" start ")"
NUMBER: /[1-9][0-9]{0,2}/
"""


@pytest.fixture(scope="module", params=["gguf", "tiktoken", "llama2", "user", "bare"])
def tokenizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Tokenizer:
    if request.param == "gguf":
        with open_model(request.getfixturevalue("smollm2_path")) as source:
            return load_text_side(source).tokenizer
    if request.param == "tiktoken":
        return from_tiktoken(request.getfixturevalue("llama3_tokenizer_path"))
    path = tmp_path_factory.mktemp("spm") / request.param
    path.write_bytes(trained(request.param))
    return from_sentencepiece(path)


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> Iterator[GrammarCompiler]:
    made = GrammarCompiler(tokenizer, tokenizer.vocab_size + 70)  # weights padded beyond the ids
    yield made
    made.close()


def walk(
    compiler: GrammarCompiler, tokenizer: Tokenizer, grammar: Grammar, seed: int, after: int | None
) -> str | None:
    """Text of a random answer, None for one that goes on and on.

    What is forced must be all that the masks allow.
    """
    chance = random.Random(seed)
    constraint, tokens = compiler.begin(grammar, after), list[int]()
    forced: list[int] = []
    while not constraint.ended and len(tokens) < 200:
        constraint.prepare()
        forced = forced or constraint.forced()
        mask, complete = constraint.allowed(), constraint.complete
        ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
        assert not any(
            token >= tokenizer.vocab_size or tokenizer.is_special(token) for token in ids
        )
        if forced:
            assert ids == forced[:1] and not complete
            forced.pop(0)
        if complete and (not ids or chance.random() < 0.3):
            break
        tokens.append(chance.choice(ids))
        constraint.accept(tokens[-1])
    if len(tokens) == 200:
        return None
    decoder = StreamDecoder(tokenizer, after=() if after is None else (after,))
    return "".join(map(decoder.push, tokens)) + decoder.flush()


def check_json(schema: dict[str, Any], text: str) -> None:
    value = json.loads(text)
    jsonschema.validate(value, schema, jsonschema.Draft202012Validator)
    assert "\n" not in text


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:30])
def test_every_vocabulary_spells_the_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    """Random walks, at the beginning of a text and behind ordinary text."""
    inside = tokenizer.encode("a")[-1]
    for seed in range(4):
        for after in (None, inside):
            text = walk(compiler, tokenizer, Grammar.json_schema(schema), seed, after)
            if text is not None:
                check_json(schema, text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_vocabulary_spells_the_regex(
    compiler: GrammarCompiler, tokenizer: Tokenizer, pattern: str
) -> None:
    inside = tokenizer.encode("a")[-1]
    for seed in range(4):
        for after in (None, inside):
            text = walk(compiler, tokenizer, Grammar.regex(pattern), seed, after)
            assert text is None or re.fullmatch(pattern, text), text


def test_every_vocabulary_spells_the_grammar(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    for seed in range(8):
        text = walk(compiler, tokenizer, Grammar.lark(LARK), seed, None)
        if text is not None:
            assert isinstance(eval(re.sub(r"[^0-9()+-]", "?", text)), int)


@pytest.mark.parametrize(
    "asks", ['start: <|im_end|> "a"', 'start: <[0]> "a"', 'start: "a" <[0-9]>']
)
def test_no_grammar_reaches_a_control_token(
    compiler: GrammarCompiler, tokenizer: Tokenizer, asks: str
) -> None:
    with pytest.raises((UsageError, InputError), match="grammar"):
        special = sorted(tokenizer.vocabulary.special)[0]
        text = asks.replace("<[0", f"<[{special}").replace("-9", f"-{special}")
        constraint = compiler.begin(Grammar.lark(text), None)
        for _ in range(2):
            (token,) = constraint.forced() or tokenizer.encode_inside("a")
            assert not tokenizer.is_special(token)
            constraint.allowed()
            constraint.accept(token)


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[Llama]:
    with Llama.load(smollm2_path, context=512, threads=2, settings=Settings()) as loaded:
        yield loaded


ASK = [{"role": "user", "content": "Invent a person, as JSON."}]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: str(schema)[:30])
def test_answers_are_valid(llm: Llama, schema: dict[str, Any]) -> None:
    for temperature, seed in ((0, 0), (1, 1), (1, 2)):
        answer = llm.chat(
            ASK, json_schema=schema, temperature=temperature, top_p=1, seed=seed, max_tokens=120
        )
        if answer.finish_reason == "stop":
            check_json(schema, answer.text)
        else:
            assert (answer.finish_reason, len(answer.tokens)) == ("length", 120)
            assert schema["type"] in ("object", "number"), "the others have an end"
            assert schema is not PERSON


def test_a_jump_changes_nothing_but_the_number_of_passes(llm: Llama) -> None:
    """Log-probabilities need every token sampled, so such an answer does not jump."""
    for temperature in (0.0, 0.9):
        options: dict[str, Any] = {"temperature": temperature, "seed": 5, "max_tokens": 100}
        jumped = llm.chat(ASK, json_schema=json.dumps(PERSON), **options)
        walked = llm.chat(ASK, json_schema=PERSON, top_logprobs=1, **options)
        assert jumped.tokens == walked.tokens
        assert (jumped.finish_reason, jumped.logprobs) == ("stop", None)
        assert walked.logprobs is not None
        assert [entry.id for entry in walked.logprobs] == list(walked.tokens)
        assert all(entry.logprob is not None for entry in walked.logprobs)


def test_guesses_change_nothing_under_a_schema(llm: Llama) -> None:
    """A constraint takes a guess only once it was verified; forced tokens may have been guessed."""
    known = {"name": "Ada Lovelace", "city": "London", "born": 1815, "fields": ["mathematics"]}
    schema: dict[str, Any] = {"type": "object", "properties": {k: {} for k in known}}
    schema |= {"required": [*known], "additionalProperties": False}
    schema["properties"] |= {"name": {"type": "string"}, "born": {"type": "integer"}}
    ask = [{"role": "user", "content": f"Write this JSON again, unchanged: {json.dumps(known)}"}]
    for temperature in (0.0, 0.7):
        request = llm.chat_request(
            ask, json_schema=schema, temperature=temperature, seed=2, max_tokens=80
        )
        guessed = llm.stream(request).result()
        plain = llm.stream(replace(request, speculate=False)).result()
        assert guessed.tokens == plain.tokens
        assert (plain.usage.drafted_tokens, guessed.finish_reason) == (0, "stop")
        assert temperature or guessed.usage.accepted_tokens > 10


def test_where_an_answer_ends(llm: Llama) -> None:
    whole = llm.generate("x", regex="abc+d", temperature=0, max_tokens=30)
    assert (whole.finish_reason, re.fullmatch("abc+d", whole.text) is not None) == ("stop", True)
    for limit in range(1, 4):
        cut = llm.chat(ASK, json_schema=PERSON, temperature=0, max_tokens=limit)
        assert (cut.finish_reason, cut.usage.completion_tokens) == ("length", limit)
        assert len(cut.tokens) == limit, "forced tokens count"
    # The last token makes the answer whole: it is not cut.
    count = len(llm.tokenizer.encode("hello world!"))
    exact = llm.generate("x", regex="hello world!", temperature=0, max_tokens=count)
    assert (exact.text, exact.finish_reason) == ("hello world!", "stop")
    assert llm.generate("x", regex="", temperature=0).text == ""
    stopped = llm.generate("x", regex="hello world!", stop="lo", temperature=0)
    assert (stopped.text, stopped.finish_reason, stopped.stop) == ("hel", "stop", "lo")
    ids = llm.tokenizer.encode(" world")
    ended = llm.generate("x", regex="hello world!", stop_token_ids=ids, temperature=0)
    assert (ended.text, ended.finish_reason) == ("hello", "stop")
    endless = llm.generate("x", regex="(ab)*", temperature=0, ignore_eos=True, max_tokens=9)
    assert endless.finish_reason == "length"
    full = llm.generate([5] * 505, regex="hello world, how are you today my friends", temperature=0)
    assert (full.finish_reason, len(full.tokens)) == ("context", 8)
    slid = llm.generate(
        [5] * 505, regex="hello world, how are you today my friends", context_policy="shift"
    )
    assert slid.text == "hello world, how are you today my friends"


def requests(side: Any, compiler: GrammarCompiler) -> dict[int, Request]:
    made = {}
    for number, schema in enumerate([*SCHEMAS[:4], None]):
        prompt = side.encode_prompt(f"Here is the {'big ' * number}JSON: ")
        grammar = None if schema is None else Grammar.json_schema(schema)
        constraint = None if grammar is None else compiler.begin(grammar, prompt[-1])
        sampling = SamplingParams(
            max_tokens=40, seed=number, temperature=0.0 if number % 2 else 0.8,
            repetition_penalty=1.1,
        )  # fmt: skip
        made[number] = Request(prompt, sampling, side.end_ids, constraint=constraint)
    return made


def test_answers_are_the_same_in_any_company(smollm2_path: Path) -> None:
    """Alone, together, and with too few pages: a restart never advances a constraint again."""
    with open_model(smollm2_path) as source:
        side = load_text_side(source)
        runner = NativeRunner(source, threads=2, context_tokens=5 * 16)
    compiler = GrammarCompiler(side.tokenizer, runner.config.vocab_size)

    def run(numbers: list[int], limits: Limits) -> tuple[dict[int, list[int]], int]:
        scheduler = Scheduler(runner, limits=limits, sampler=sample_row)
        asked = requests(side, compiler)
        for number in numbers:
            scheduler.add(number, asked[number])
        found: dict[int, list[int]] = {number: [] for number in numbers}
        while scheduler.busy:
            for number, event in scheduler.step():
                assert not isinstance(event, FailEvent), event
                if isinstance(event, TokenEvent):
                    found[number].append(event.token)
        assert scheduler.free_pages == runner.page_count
        return found, scheduler.preemptions

    try:
        alone = {n: tokens for i in range(5) for n, tokens in run([i], Limits())[0].items()}
        together, preemptions = run([0, 1, 2, 3, 4], Limits())
        assert together == alone
        assert preemptions > 0
        assert run([4, 3, 2, 1, 0], Limits(rows=5, running=3))[0] == alone
        for number, schema in enumerate(SCHEMAS[:4]):
            text = side.tokenizer.decode(alone[number])
            if len(alone[number]) < 40:
                check_json(schema, text)
    finally:
        compiler.close()
        runner.close()


def test_cancelled_in_the_middle(llm: Llama) -> None:
    grammar = {"type": "array", "items": {"type": "integer"}, "minItems": 400}
    stream = llm.chat(ASK, json_schema=grammar, temperature=0, stream=True)
    for number, _ in enumerate(stream):
        if number == 5:
            stream.cancel()
    assert stream.result().finish_reason == "cancelled"
    assert llm.chat(ASK, regex="after", temperature=0).text == "after"


def test_threads_share_a_grammar(llm: Llama) -> None:
    wanted = llm.chat(ASK, json_schema=PERSON, seed=3, max_tokens=100).tokens
    found: list[Any] = [None] * 3

    def ask(place: int) -> None:
        found[place] = llm.chat(ASK, json_schema=PERSON, seed=3, max_tokens=100).tokens

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"json_schema": {"type": "array", "uniqueItems": True}}, "uniqueItems"),
        ({"json_schema": {"properties": {"a": {"not": {}}}}}, '"not"'),
        ({"json_schema": {"if": {}, "then": {}}}, '"if", "then"'),
        ({"json_schema": {"type": "string", "format": "colour"}}, "Unknown format: colour"),
        ({"json_schema": {"type": "strnig"}}, "Invalid type: strnig"),
        ({"json_schema": {"$ref": "http://127.0.0.1/x"}}, "127.0.0.1/x"),
        ({"json_schema": {"minimum": 3, "maximum": 2, "type": "integer"}}, "Unsatisfiable"),
        ({"json_schema": {"oneOf": [{"minimum": 3}, {"maximum": 5}]}}, "oneOf"),
        ({"json_schema": {"x-guidance": {"lenient": True}, "not": {}}}, "x-guidance"),
        ({"json_schema": False}, "Unsatisfiable"),
        ({"json_schema": "{"}, "json_schema is not JSON"),
        ({"json_schema": '{"const": NaN}'}, "NaN"),
        ({"json_schema": {"const": float("inf")}}, "not JSON"),
        ({"json_schema": {"const": object()}}, "not JSON"),
        ({"json_schema": "[]"}, "must be a JSON object or true"),
        ({"json_schema": '{"items":' * 5000 + "{}" + "}" * 5000}, "json_schema"),
        ({"json_schema": '{"items":' * 200 + "{}" + "}" * 200}, "recursion limit"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"regex": "("}, "regex parse error"),
        ({"regex": 3}, "regex must be a string"),
        ({"regex": "\ud800"}, "UTF-8"),
        ({"grammar": "start: x"}, 'unknown name: "x"'),
        ({"grammar": ""}, "grammar"),
        ({"grammar": "start: start"}, "cannot be"),
        ({"regex": "a" * (MAX_TEXT + 1)}, "at most 262,144"),
        ({"regex": "a", "grammar": "b"}, "regex or grammar"),
        ({"json_schemas": {}}, "did you mean json_schema"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_enforced_is_refused_by_name(
    llm: Llama, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        llm.generate("x", max_tokens=1, **options)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 700
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(UsageError, match="tools"):
        llm.chat(ASK, tools=[tool], regex="a")


HOSTILE: dict[str, Callable[[], Grammar]] = {
    "intersected patterns": lambda: Grammar.json_schema(
        {"allOf": [{"type": "string", "pattern": f".*x{i}y.*"} for i in range(30)]}
    ),
    "many options": lambda: Grammar.json_schema(
        {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(9000)}}
    ),
    "many rules": lambda: Grammar.lark(
        "start: " + " | ".join(f'"k{i}" start' for i in range(12000)) + ' | "z"'
    ),
    "large enum": lambda: Grammar.json_schema({"enum": [f"value{i}" for i in range(15000)]}),
    "multiples": lambda: Grammar.json_schema({"type": "integer", "multipleOf": 999999937}),
    "long repeat": lambda: Grammar.json_schema({"type": "string", "minLength": 10**9}),
    "nested repeats": lambda: Grammar.regex("(((a{0,900}b?){0,900}c?){0,900}d?)*"),
    "shared suffixes": lambda: Grammar.regex(".*a.{500}"),
    "complement": lambda: Grammar.lark("start: A\nA: /.*a.{18}/ & ~/.*b.{17}/"),
    "ambiguous": lambda: Grammar.lark('start: s\ns: s s | "a" | '),
    "tree of references": lambda: Grammar.json_schema(
        {
            "$ref": "#/$defs/a0",
            "$defs": {"a60": {"type": "null"}}
            | {
                f"a{i}": {"properties": {c: {"$ref": f"#/$defs/a{i + 1}"} for c in "lr"}}
                for i in range(60)
            },
        }
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_an_error_or_an_answer(llm: Llama, name: str) -> None:
    """None takes the process along; a request behind it is answered as ever."""
    one = HOSTILE[name]()
    try:
        options: Any = {one.kind: one.text, "max_tokens": 12}
        answer = llm.generate("x", **options)
        assert answer.finish_reason in ("length", "stop")
    except (UsageError, InputError) as error:
        assert one.kind in str(error)
        assert len(str(error)) < 700
    assert llm.generate("x", regex="good", max_tokens=8).text == "good"


def test_a_grammar_that_becomes_impossible_ends_its_request_alone(llm: Llama) -> None:
    """Bytes that SmolLM2's vocabulary lacks: nothing can spell the second half."""
    missing = sorted(llm.tokenizer.missing_bytes)[0]
    assert missing < 128
    ticket = llm.stream(llm.completion_request("x", grammar=f'start: "ab" /\\x{missing:02x}/'))
    good = llm.stream(llm.completion_request("x", regex="good"))
    with pytest.raises(InputError, match="no text of this vocabulary continues it"):
        ticket.result()
    assert good.result().text == "good"


def test_the_last_event_says_stop(llm: Llama) -> None:
    request = llm.completion_request("x", regex="done")
    compiler = GrammarCompiler(llm.tokenizer, llm.model.config.vocab_size)
    grammar = request.grammar
    assert grammar is not None
    constraint = compiler.begin(grammar, request.prompt[-1])
    asked = Request(request.prompt, request.sampling, constraint=constraint)
    *tokens, last = llm.engine.submit(asked)
    assert isinstance(last, FinishEvent)
    assert (last.reason, last.stop_token) == ("stop", None)
    assert last.usage.completion_tokens == len(tokens) == len(llm.tokenizer.encode("done"))
    compiler.close()


def test_answers_of_one_grammar_do_not_use_up_each_others_states(llm: Llama) -> None:
    """Every text makes new states in the lexer of this pattern, of which there is a limit."""
    tokenizer = llm.tokenizer
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    for seed in range(8):
        constraint, chance = compiler.begin(Grammar.regex(".*a.{500}"), None), random.Random(seed)
        for _ in range(700):
            mask = constraint.allowed()
            ids = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
            constraint.accept(int(chance.choice(ids)))
    compiler.close()

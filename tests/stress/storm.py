"""Random requests from several threads, with a cache far too small for them.

Arrivals, lengths, beginnings in common, samplers, constraints, adapters that come and go, guesses,
deadlines and cancels are random, from a seed; threads decide the rest. What must hold: every
request ends once, answers are those of the request alone, and no page of the cache is lost.
"""

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from tests.parity.models import CONFIG, random_weights
from tests.parity.quantise import quantise
from tests.weights.peft_files import random_adapter

from alpage.core.errors import AlpageError, UsageError
from alpage.core.types import SamplingParams
from alpage.engine.engine import Engine
from alpage.engine.grammar import Grammar, GrammarCompiler
from alpage.engine.native import NativeRunner, sample_row
from alpage.engine.policy import PolicyName, make_policy
from alpage.engine.protocol import EmbedRequest, FinishEvent, Request, TokenEvent
from alpage.engine.scheduler import Limits
from alpage.llama.text import TextSide, load_text_side
from alpage.weights.lora import LoraAdapter
from alpage.weights.source import ModelSource, open_model
from alpage.weights.tensor import Tensor, TensorType

CONTEXT, PAGES, CLIENTS = 256, 30, 8
PAGE = 16
KINDS = [TensorType.Q8_0, TensorType.Q4_K, TensorType.Q4_1, TensorType.BF16, TensorType.Q6_K]
GRAMMARS = [
    Grammar.json_schema({"type": "object", "properties": {"name": {"type": "string"}},
                         "required": ["name"], "additionalProperties": False}),
    Grammar.json_schema({"type": "array", "items": {"type": "integer"}, "minItems": 3}),
    Grammar.regex("(yes|no), because [a-z ]{5,60}\\."),
    Grammar.regex("(?s:.*)"),
]  # fmt: skip
BEGINNINGS = [
    "",
    "You are a guide of the harbour museum. " * 5,
    "You are a guide of the harbour museum. " * 3 + "Answer in verse. ",
    '{"name": "Ada", "city": "London"} {"name": "Ada", "city": "Paris"} ' * 2,
]
WORDS = ["the", "a boat", "rocks", "chart", "wind", "12", "7", "{name}", "write again", "of Ada"]


@dataclass
class Asked:
    """A request without the state of its constraint, which each run makes anew."""

    request: Request | EmbedRequest
    grammar: Grammar | None = None
    cancel_after: int | None = None


@dataclass
class Outcome:
    """How one request ended; `tokens` of its answer."""

    how: str
    tokens: list[int] = field(default_factory=list)


@dataclass
class Storm:
    """What runs, and what came of it."""

    engine: Engine
    compiler: GrammarCompiler
    side: TextSide
    adapters: dict[str, LoraAdapter]
    asked: dict[int, Asked] = field(default_factory=dict)
    ended: dict[int, Outcome] = field(default_factory=dict)

    def make(self, number: int, seed: int) -> Asked:
        """Request `number`."""
        chance = random.Random(f"{seed} {number}")
        words = " ".join(chance.choices(WORDS, k=chance.randint(1, 40)))
        prompt = self.side.encode_prompt(chance.choice(BEGINNINGS) + words)[: CONTEXT - 20]
        who: dict[str, Any] = {"tenant": chance.choice("ab"), "priority": chance.randrange(3)}
        if chance.random() < 0.3:
            who["adapter"] = chance.choice([*self.adapters])
        if chance.random() < 0.05:
            who["timeout"] = chance.choice([0.001, 0.1, 2.0])
        if chance.random() < 0.08:
            return Asked(EmbedRequest(prompt, **who))
        sampling = SamplingParams(
            max_tokens=chance.randint(1, 48),
            temperature=chance.choice([0.0, 0.8]),
            top_k=chance.choice([0, 40]),
            repetition_penalty=chance.choice([1.0, 1.0, 1.2]),
            seed=chance.randrange(1 << 32),
            context_policy=chance.choice(["stop", "shift"]),
            ignore_eos=chance.random() < 0.5,
        )
        made = Request(
            prompt, sampling, self.side.end_ids, prompt_logprobs=chance.random() < 0.1,
            speculate=chance.random() < 0.8, **who,
        )  # fmt: skip
        return Asked(
            made,
            chance.choice(GRAMMARS) if chance.random() < 0.3 else None,
            chance.randint(0, 12) if chance.random() < 0.15 else None,
        )

    def run(self, number: int, asked: Asked) -> Outcome:
        """Submit one and wait for its end."""
        request, grammar = asked.request, asked.grammar
        if isinstance(request, Request) and grammar is not None:
            rule = self.compiler.begin(grammar, request.prompt[-1])
            request = replace(request, constraint=rule)
        found = Outcome("no end")
        try:
            ticket = self.engine.submit(request)
            for place, event in enumerate(ticket):
                assert found.how == "no end", "an event after the last one"
                if isinstance(event, TokenEvent):
                    found.tokens.append(event.token)
                elif isinstance(event, FinishEvent):
                    found.how = event.reason
                if place == asked.cancel_after:
                    ticket.cancel()
        except UsageError as error:
            if "no adapter is called" not in str(error):
                raise
            found.how = "no adapter"
        return found

    def client(self, numbers: Iterator[int], seed: int, rate: float, until: float) -> None:
        """One thread: ask, wait, pause, ask again."""
        for number in numbers:
            chance = random.Random(f"pause {seed} {number}")
            asked = self.asked[number] = self.make(number, seed)
            try:
                self.ended[number] = self.run(number, asked)
            except (AlpageError, AssertionError) as error:
                self.ended[number] = Outcome(f"{type(error).__name__}: {error}")
            time.sleep(min(chance.expovariate(rate), max(0.0, until - time.monotonic())))

    def swap_adapters(self, over: threading.Event, seed: int) -> None:
        """One thread: take adapters away and bring them back, while others use them."""
        chance = random.Random(f"adapters {seed}")
        while not over.wait(chance.uniform(0.05, 0.5)):
            name = chance.choice([*self.adapters])
            if name in self.engine.adapters:
                self.engine.unload_adapter(name)
            else:
                self.engine.load_adapter(name, self.adapters[name])

    def counts(self) -> Counter[str]:
        """How many ended how."""
        return Counter(outcome.how for outcome in self.ended.values())


def smaller(source: ModelSource) -> ModelSource:
    """A model with the text side of `source` and few, random weights, of several types."""
    config = replace(CONFIG, vocab_size=source.config.vocab_size)
    kinds = itertools.cycle(KINDS)
    tensors = {}
    for name, values in random_weights(config).items():
        kind = next(kinds) if values.ndim == 2 else TensorType.F32
        tensors[name] = Tensor(name, values.shape, kind, quantise(kind, values), None)
    return replace(source, config=config, tensors=tensors)


@contextmanager
def opened(
    path: Path, *, threads: int, seed: int, pages: int = PAGES, small: bool = False
) -> Iterator[Storm]:
    """A storm on the model file `path`, or a `small` one, with an engine of `pages` pages."""
    with open_model(path) as source:
        side = load_text_side(source)
        if small:
            source = smaller(source)
        runner = NativeRunner(source, threads=threads, context_tokens=pages * PAGE)
    config = runner.config
    adapters = {f"adapter-{i}": random_adapter(config, seed=i, rank=2 + 3 * i) for i in range(4)}
    policy = random.Random(seed).choice(get_args(PolicyName))
    compiler = GrammarCompiler(side.tokenizer, config.vocab_size)
    engine = Engine(
        runner, context=CONTEXT, limits=Limits(rows=96, scored=32, running=CLIENTS - 1),
        policy=lambda: make_policy(policy), sampler=sample_row,
    )  # fmt: skip
    try:
        for name, adapter in adapters.items():
            engine.load_adapter(name, adapter)
        yield Storm(engine, compiler, side, adapters)
    finally:
        engine.close()
        compiler.close()


def blow(storm: Storm, requests: int, seconds: float, seed: int) -> None:
    """At least so many requests for at least so long; all have ended when this returns."""
    until = time.monotonic() + seconds
    gate, count = threading.Lock(), 0

    def numbers() -> Iterator[int]:
        nonlocal count
        while True:
            with gate:
                if count >= requests and time.monotonic() >= until:
                    return
                count += 1
                number = count - 1
            yield number

    over = threading.Event()
    rate = max(requests / seconds / CLIENTS, 0.5) if seconds else 100.0
    clients = [
        threading.Thread(target=storm.client, args=(numbers(), seed, rate, until))
        for _ in range(CLIENTS)
    ]
    swapper = threading.Thread(target=storm.swap_adapters, args=(over, seed))
    for thread in (*clients, swapper):
        thread.start()
    for thread in clients:
        thread.join()
    over.set()
    swapper.join()


def check(storm: Storm, alone: Storm, most: int, seed: int) -> list[str]:
    """What is wrong: lost pages, requests without an end, answers other than alone.

    At most `most` answers are compared, drawn at random from those that came to their own end.
    """
    wrong = []
    if (free := storm.engine.free_pages) != (pages := storm.engine.runner.page_count):
        wrong.append(f"{pages - free} pages are lost")
    if storm.engine.restarts:
        wrong.append(f"the engine restarted {storm.engine.restarts} times")
    own = {"stop", "length", "context"}
    known = own | {"cancelled", "deadline", "no adapter"}
    for number, asked in storm.asked.items():
        how = storm.ended[number].how if number in storm.ended else "no end"
        if how not in known:
            wrong.append(f"request {number} ({asked.grammar}): {how}")
    done = [n for n, outcome in storm.ended.items() if outcome.how in own and outcome.tokens]
    for number in random.Random(seed).sample(done, min(most, len(done))):
        asked = replace(storm.asked[number], cancel_after=None)
        asked.request = replace(asked.request, timeout=None)
        plain, found = alone.run(number, asked), storm.ended[number]
        if plain != found:
            wrong.append(f"request {number}: {found} in company, {plain} alone")
    return wrong

"""Grammars that answers have to follow: JSON Schema, regex and Lark, compiled by `llguidance`.

The one module that knows the library. A grammar is compiled once and shared; each request moves
through a copy of its own, and the mask of its next token is computed on a worker's thread while
the forward pass runs (the library gives up the interpreter's lock meanwhile).
"""

import contextlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from alpage.core.errors import InputError, UsageError
from alpage.engine.grammar_lark import checked
from alpage.engine.grammar_trial import needs_trial, trial
from alpage.engine.schema_check import Enforceable, SchemaError
from alpage.tokenizer import Tokenizer

Kind = Literal["json_schema", "regex", "grammar", "tools"]
Schema = Mapping[str, Any] | bool | str

MAX_TEXT = 256 << 10
"""Bytes of a grammar's text."""
_CACHED = 64
_WORKERS = 2
_SLOW = 0.5  # seconds
LAYOUT = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    # Without \u a name has one spelling, so that none comes back beside the schema's own.
    "json_allowed_escapes": 'nrbtf\\"',
}
"""How JSON is written: the library's options."""
_OPTIONS = "x-guidance"  # where the library reads options inside of a schema
_STATES = 250_000  # of one lexer; 50,000 were measured to take 17 MB


@dataclass(frozen=True, slots=True)
class Grammar:
    """The text of a grammar and its kind, checked as far as text alone can be.

    Make one with `json_schema`, `regex` or `lark`. `body` is what the library gets for `text`.
    """

    kind: Kind
    text: str
    body: str

    @classmethod
    def json_schema(cls, schema: Schema) -> "Grammar":
        """JSON that a JSON Schema allows, on one line; `schema_check` tells what is enforced.

        A space follows each comma and colon, as `json.dumps` writes them: a layout without choices
        is what makes most of an answer's punctuation and names forced.
        """
        try:
            value = _loaded(schema) if isinstance(schema, str) else schema
            text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"json_schema is not JSON: {error}") from None
        if not isinstance(value, dict | bool):
            raise UsageError(
                f"json_schema must be a JSON object or true, not {type(value).__name__}"
            )
        if _OPTIONS in text and _mentions(value, _OPTIONS):
            raise UsageError(f'json_schema: the keyword "{_OPTIONS}" is not supported')
        _sized("json_schema", text)
        try:
            found = Enforceable(value)
        except SchemaError as error:
            raise UsageError(f"json_schema cannot be enforced: {error}") from None
        body = json.dumps(found.schema | {"$defs": found.definitions}, ensure_ascii=False)
        return cls("json_schema", text, body)

    @classmethod
    def regex(cls, pattern: str) -> "Grammar":
        """Text that a regular expression matches as a whole (Rust's syntax, no look-around)."""
        return cls("regex", _sized("regex", pattern), pattern)

    @classmethod
    def lark(cls, text: str) -> "Grammar":
        """Text that a context-free grammar in Lark's notation produces from `start`."""
        return cls("grammar", _sized("grammar", text), checked(text, "grammar", LAYOUT))

    @classmethod
    def calls(cls, text: str) -> "Grammar":
        """Calls of tools, in Lark's notation; the schemas in it have been checked."""
        return cls("tools", _sized("tools", text), text)

    def source(self, spaced: bool) -> str:
        """What the library compiles; `spaced`: behind one space that no reader sees."""
        body: dict[str, Any]
        if self.kind == "json_schema":
            body = {"json_schema": json.loads(self.body) | {_OPTIONS: LAYOUT}}
        elif self.kind == "regex":
            whole = json.loads(LLMatcher.grammar_from_regex(self.body))
            body = {"lark_grammar": whole["grammars"][0]["lark_grammar"]}
        else:
            body = {"lark_grammar": self.body}
        before = [{"name": "main", "lark_grammar": 'start: " " @body'}] if spaced else []
        return json.dumps({"grammars": [*before, {"name": "body", **body}]})


class GrammarCompiler:
    """Compiles grammars for one vocabulary, and keeps the last ones used. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size`: ids that the model has logits for, at least the tokenizer's."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._gate = threading.Lock()
        self._known: OrderedDict[tuple[Grammar, bool], tuple[LLMatcher | None, bool]]
        self._known = OrderedDict()  # a compiled one that nobody uses yet; whether it was slow
        self._workers = ThreadPoolExecutor(_WORKERS, "alpage-mask")

    def begin(self, grammar: Grammar, after: int | None) -> "GrammarConstraint":
        """The constraint of one answer that follows the token `after`; errors as of `check`.

        Copies of a compiled grammar share the states of its lexer, and the limit on them. So each
        answer has a grammar of its own, except of one that takes long to compile.
        """
        self.check(grammar, after)
        key = (grammar, self._spaced(after))
        with self._gate:
            matcher, slow = self._known.get(key, (None, False))
            if not slow and key in self._known:
                self._known[key] = (None, False)
        if matcher is None:
            matcher = self._compile(*key, self._vocabulary)
        elif slow:
            matcher = matcher.deep_copy()
        return GrammarConstraint(grammar.kind, matcher, self._workers, self._ordinary)

    def check(self, grammar: Grammar, after: int | None) -> None:
        """Compile `grammar`, or a UsageError that says what it asks for that cannot be had."""
        key = (grammar, self._spaced(after))
        with self._gate:
            if key in self._known:
                self._known.move_to_end(key)
                return
        if needs_trial(grammar.kind, grammar.body) and (refused := trial(self._source(*key))):
            raise _refused(grammar.kind, refused)
        vocabulary = self._vocabulary  # made first: its time does not count
        began = time.perf_counter()
        made = self._compile(*key, vocabulary)  # two threads may both do it: equal results
        slow = time.perf_counter() - began > _SLOW
        # What fails at the first token is better said before an answer begins.
        first = GrammarConstraint(grammar.kind, made.deep_copy(), self._workers, self._ordinary)
        try:
            first.forced()
            first.allowed()
        except InputError as error:
            raise UsageError(*error.args) from None
        with self._gate:
            self._known[key] = (made, slow)
            if len(self._known) > _CACHED:
                self._known.popitem(last=False)

    def close(self) -> None:
        """End the workers; no constraint can be used afterwards."""
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _spaced(self, after: int | None) -> bool:
        return self._tokenizer.strips and self._tokenizer.begins_text(after)

    def _source(self, grammar: Grammar, spaced: bool) -> str:
        try:
            return grammar.source(spaced)
        except (ValueError, RecursionError) as error:
            raise _refused(grammar.kind, str(error)) from None

    def _compile(self, grammar: Grammar, spaced: bool, vocabulary: LLTokenizer) -> LLMatcher:
        source = self._source(grammar, spaced)
        limits = LLParserLimits(max_lexer_states=_STATES, verbose_errors=False)
        try:
            made = LLMatcher(vocabulary, source, log_level=0, limits=limits)
        except (ValueError, RecursionError) as error:
            raise _refused(grammar.kind, str(error)) from None
        if made.is_error():
            raise _refused(grammar.kind, made.get_error())
        if warnings := made.get_grammar_warnings():
            raise _refused(grammar.kind, warnings[0])
        return made

    @cached_property
    def _vocabulary(self) -> LLTokenizer:
        return LLTokenizer(_Wrapper(self._tokenizer, self._vocab_size), self._vocab_size + 1)

    @cached_property
    def _ordinary(self) -> NDArray[np.uint32]:
        """The ids that text is made of, packed: no control token, nothing beyond the vocabulary."""
        bits = np.zeros(-(-(self._vocab_size + 1) // 32) * 32, np.bool_)
        bits[: self._tokenizer.vocab_size] = True
        bits[list(self._tokenizer.vocabulary.special)] = False
        return np.packbits(bits, bitorder="little").view(np.uint32)


class GrammarConstraint:
    """A `Constraint`: where one answer is in its grammar."""

    def __init__(
        self,
        kind: Kind,
        matcher: LLMatcher,
        workers: ThreadPoolExecutor,
        ordinary: NDArray[np.uint32],
    ) -> None:
        """Use `GrammarCompiler.begin`."""
        self._kind = kind
        self._matcher = matcher
        self._workers = workers
        self._ordinary = ordinary
        self._pending: Future[NDArray[np.uint32]] | None = None
        self.ended = matcher.is_stopped()
        """Whether the answer is whole and nothing can follow."""

    def prepare(self) -> None:
        """Begin to compute `allowed` on another thread."""
        if self._pending is None and not self.ended:
            with contextlib.suppress(RuntimeError):  # the model is being closed
                self._pending = self._workers.submit(self._mask)

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        self._wait()
        return self._matcher.is_accepting()

    def allows(self, token: int) -> bool:
        """Whether `token` may come next."""
        self._wait()
        return self._is_ordinary(token) and self._matcher.validate_tokens([token]) == 1

    def allowed(self) -> NDArray[np.uint32]:
        """Ids that may come next, packed; InputError where none may, nor the answer end here."""
        pending, self._pending = self._pending, None
        mask = self._mask() if pending is None else pending.result()
        if self._matcher.is_error() or not (mask.any() or self._matcher.is_accepting()):
            raise self._stuck()
        return mask

    def accept(self, token: int) -> None:
        """Take the answer's next token, which was allowed."""
        self._wait()
        self._pending = None
        if not self._matcher.consume_token(token):
            raise self._stuck()
        self.ended = self._matcher.is_stopped()

    def forced(self) -> list[int]:
        """The tokens that the grammar alone decides next; they are not taken yet.

        They are the text's canonical tokens, without those at its end that could still grow
        together with what follows. A mask allows none but them, so that an answer is the same,
        token for token, whether it jumps or not.
        """
        self._wait()
        if self.ended:
            return []
        found = self._matcher.compute_ff_tokens()
        sound = all(map(self._is_ordinary, found))
        return found if sound and self._matcher.validate_tokens(found) == len(found) else []

    def _is_ordinary(self, token: int) -> bool:
        return bool(self._ordinary[token // 32] >> (token % 32) & 1)

    def _wait(self) -> None:
        """The library's objects serve one thread at a time."""
        if self._pending is not None:
            self._pending.result()

    def _mask(self) -> NDArray[np.uint32]:
        mask = np.zeros_like(self._ordinary)
        if not self.ended:
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        mask &= self._ordinary
        return mask

    def _stuck(self) -> InputError:
        reason = _first_line(self._matcher.get_error())
        if not reason or reason.startswith("NoExtension"):
            reason = "no text of this vocabulary continues it"
        return InputError(f"{self._kind} cannot be followed any further: {reason}")


class _Wrapper(TokenizerWrapper):
    """What the library asks of a tokenizer: bytes of every token, and how text is cut.

    Of the base class nothing is left but its type: it wraps a callable in another one.
    Control tokens have no bytes and no names here, so that no grammar can ask for one; the end of
    an answer is one id more than the model has.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        special, spaces = tokenizer.vocabulary.special, tokenizer.vocabulary.raw_bytes
        self.tokens: Sequence[bytes] = [
            b"" if token in special else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ] + [b""] * (vocab_size - tokenizer.vocab_size) + [b"\xff<end of the answer>"]  # fmt: skip
        self.eos_token_id = vocab_size
        self.bos_token_id = None
        self.special_token_ids = [vocab_size]
        self.is_tokenizer_wrapper = True
        if tokenizer.strips:
            # The space in front of a text is left out where it is a piece, not where it is a byte.
            self.tokens = [b"" if spaces.get(i) == b" " else t for i, t in enumerate(self.tokens)]
        self._encode = tokenizer.encode_inside

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


def _sized(kind: Kind, text: str) -> str:
    if not isinstance(text, str):
        raise UsageError(f"{kind} must be a string, not {type(text).__name__}")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError(f"{kind} is not valid UTF-8 text") from None
    if size > MAX_TEXT:
        raise UsageError(f"{kind} has {size:,} bytes; at most {MAX_TEXT:,} are compiled")
    return text


def _loaded(text: str) -> Any:
    """JSON in which no object has a name twice, since readers differ on which one counts."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"an object has the name {max(names, key=names.count)!r:.60} twice")
        return made

    return json.loads(text, parse_constant=_no_number, object_pairs_hook=unique)


def _mentions(value: Any, key: str) -> bool:
    """Whether a dictionary anywhere in `value` has `key`."""
    found = [value]
    while found:
        part = found.pop()
        if isinstance(part, dict):
            if key in part:
                return True
            found += part.values()
        elif isinstance(part, list):
            found += part
    return False


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number in JSON")


def _refused(kind: Kind, reason: str) -> UsageError:
    start = "Unimplemented keys: "
    if reason.startswith(start):
        return UsageError(
            f"{kind} uses keywords that cannot be enforced: {reason.removeprefix(start)}"
        )
    return UsageError(f"{kind} cannot be enforced: {_first_line(reason)}")


def _first_line(text: str) -> str:
    """A message without the dump of the library's state behind it."""
    lines = [
        line.strip()
        for line in re.split("<state>|<non-verbose", text)[0].splitlines()
        if line.strip()
    ]
    return " ".join(lines)[:500]

"""`Llama`: what `from alpage import Llama` gives."""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from alpage.catalogue.entries import CATALOGUE, DEFAULT_MODEL
from alpage.catalogue.hub_name import hub_name
from alpage.catalogue.resolve import pulled, resolve
from alpage.catalogue.usage import record_use
from alpage.core.config import LlamaConfig
from alpage.core.errors import InputError, UsageError
from alpage.core.paths import cache_home
from alpage.core.settings import Settings
from alpage.core.types import KvType, Message
from alpage.engine.engine import Engine
from alpage.engine.load import EngineName, Scheduling, load_engine
from alpage.engine.protocol import EmbeddingEvent, EmbedRequest, Request
from alpage.llama.calls import ToolChoice, Tools, calls_of, check_choice
from alpage.llama.options import AnswerOptions, grammar_of, sampling_params
from alpage.llama.results import Completion, TextScore
from alpage.llama.stream import (
    Assembler,
    EmbeddingHandler,
    ItemHandler,
    TextRequest,
    TextStream,
)
from alpage.llama.text import TextSide, check_same_vocabulary, load_text_side
from alpage.tokenizer import Tokenizer
from alpage.weights.source import Lineage, ModelSource, open_model

if TYPE_CHECKING:
    from alpage.engine.grammar import Grammar, GrammarCompiler


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is running: the model's identity and shape, and the engine that runs it."""

    name: str
    path: Path
    format: str
    quantization: str
    licence: str | None
    lineage: Lineage
    config: LlamaConfig
    weight_bytes: int
    engine: EngineName

    @classmethod
    def of(cls, source: ModelSource, engine: EngineName) -> Self:
        """The facts of an open model, without its weights."""
        return cls(
            source.name, source.path, source.format, source.quantization, source.licence,
            source.lineage, source.config, source.weight_bytes, engine,
        )  # fmt: skip


class Llama:
    """A loaded model: text in, text out. Thread-safe; calls of many threads run in one batch.

    Where sampling options are taken they are the fields of `SamplingParams`; without them
    `temperature` is 0.6 and `top_p` 0.9, as in Meta's own code, and an answer goes on until the
    model ends it or the context is full. Wrong options are a UsageError, prompts that cannot run
    an InputError. One of `json_schema` (a dictionary or JSON), `regex` or `grammar` (Lark) makes
    every answer follow it from end to end, unless `max_tokens`, the context or a stop string cuts
    it; what of it cannot be enforced is a UsageError.
    """

    def __init__(self, engine: Engine, side: TextSide, model: ModelInfo) -> None:
        """Use `Llama.load`."""
        self.model = model
        self.engine = engine
        self._side = side
        self._gate = threading.Lock()
        self._made_compiler: GrammarCompiler | None = None

    @classmethod
    def load(
        cls,
        model: str | Path = DEFAULT_MODEL,
        *,
        engine: EngineName = "native",
        threads: int | None = None,
        context: int | None = None,
        cache_tokens: int | None = None,
        kv_type: KvType = "bf16",
        scheduling: Scheduling | None = None,
        draft: str | Path | None = None,
        memory: int | None = None,
        pull: bool = False,
        settings: Settings | None = None,
    ) -> Self:
        """Load a model by name (catalogue, `org/name` of a hub, `ollama:name`) or by path.

        `engine` "torch" is the slow, plain reference (needs PyTorch). `context` bounds one request
        in tokens (default: the model's, at most 8,192), `cache_tokens` all requests together
        (default: four contexts, as memory allows). `kv_type` "int8" lets the cache hold about twice
        as many tokens, a little less exactly (native only). `scheduling` says how requests
        share the model. `draft` is a smaller model with the same vocabulary (else a UsageError)
        that writes answers ahead, to be checked by this one: no answer changes (native only).
        Weights and cache take at most `memory` bytes (default: nearly all that is available). A
        model of the catalogue or of a hub that is not here is a NotFoundError, or with `pull` a
        download. `settings` default to the environment's.
        """
        settings = settings or Settings.from_environment()
        home = cache_home(settings)
        if pull:
            for name in (model,) if draft is None else (model, draft):
                _pull(name, home)
        path = resolve(model, home)
        with ExitStack() as files:
            source = files.enter_context(open_model(path))
            side = load_text_side(source)
            info = ModelInfo.of(source, engine)
            small = None
            if draft is not None:
                small = files.enter_context(open_model(resolve(draft, home)))
                check_same_vocabulary(side.tokenizer, small)
            running = load_engine(
                source,
                engine=engine,
                threads=threads or settings.threads,
                context=context,
                cache_tokens=cache_tokens,
                isa=settings.isa,
                kv=kv_type,
                scheduling=scheduling,
                draft=small,
                memory=memory,
            )
        record_use(path, home)
        return cls(running, side, info)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self._side.tokenizer

    @property
    def chat_template(self) -> str:
        """The Jinja template that `chat` renders conversations with."""
        return self._side.template_source

    @property
    def context(self) -> int:
        """Tokens that one request can hold, prompt and answer together."""
        return self.engine.context

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[False] = False,
        stop: str | Sequence[str] = (), **options: Unpack[AnswerOptions],
    ) -> Completion: ...  # fmt: skip

    @overload
    def generate(
        self, prompt: str | Sequence[int], *, stream: Literal[True],
        stop: str | Sequence[str] = (), **options: Unpack[AnswerOptions],
    ) -> TextStream: ...  # fmt: skip

    def generate(
        self,
        prompt: str | Sequence[int],
        *,
        stream: bool = False,
        stop: str | Sequence[str] = (),
        **options: Unpack[AnswerOptions],
    ) -> Completion | TextStream:
        """Continue a text (or ids), without any chat template.

        `stop` strings end the answer and are not part of it. With `stream` the pieces can be read
        as they come.
        """
        answer = self.stream(self.completion_request(prompt, stop=stop, **options))
        return answer if stream else answer.result()

    @overload
    def chat(
        self, messages: Sequence[Message], *, tools: Tools | None = None,
        tool_choice: ToolChoice = "auto", parallel_tool_calls: bool = True,
        stream: Literal[False] = False, stop: str | Sequence[str] = (),
        template_variables: Mapping[str, Any] | None = None, **options: Unpack[AnswerOptions],
    ) -> Completion: ...  # fmt: skip

    @overload
    def chat(
        self, messages: Sequence[Message], *, tools: Tools | None = None,
        tool_choice: ToolChoice = "auto", parallel_tool_calls: bool = True, stream: Literal[True],
        stop: str | Sequence[str] = (), template_variables: Mapping[str, Any] | None = None,
        **options: Unpack[AnswerOptions],
    ) -> TextStream: ...  # fmt: skip

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        stream: bool = False,
        stop: str | Sequence[str] = (),
        template_variables: Mapping[str, Any] | None = None,
        **options: Unpack[AnswerOptions],
    ) -> Completion | TextStream:
        """Answer a conversation in OpenAI's form, with the model's own template.

        Calls of `tools` (OpenAI's form) are cut out of the text into `tool_calls`. With the
        `tool_choice` "required" the answer is one call or more, with a `ToolName` one call of that
        tool, with "none" the model is told of no tool; without `parallel_tool_calls` the first
        call ends the answer. Arguments follow the tool's `parameters` where a call is required, or
        the tool is `strict`. Nothing that messages say can become a special token.
        `template_variables` go to the template.
        """
        request = self.chat_request(
            messages, tools=tools, tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls, stop=stop,
            template_variables=template_variables, **options,
        )  # fmt: skip
        answer = self.stream(request)
        return answer if stream else answer.result()

    def completion_request(
        self,
        prompt: str | Sequence[int],
        *,
        stop: str | Sequence[str] = (),
        prompt_logprobs: bool = False,
        answer: bool = True,
        **options: Unpack[AnswerOptions],
    ) -> TextRequest:
        """The request that `generate` makes, for `stream` or `start`."""
        ids = self._side.encode_prompt(prompt) if isinstance(prompt, str) else prompt
        sampling, grammar = sampling_params(options), self._grammar(options, ids)
        return TextRequest(
            ids, sampling, _strings(stop), None, prompt_logprobs, answer, grammar=grammar,
            timeout=options.get("timeout"), adapter=options.get("adapter"),
        )  # fmt: skip

    def chat_request(
        self,
        messages: Sequence[Message],
        *,
        tools: Tools | None = None,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        stop: str | Sequence[str] = (),
        template_variables: Mapping[str, Any] | None = None,
        begun: str = "",
        **options: Unpack[AnswerOptions],
    ) -> TextRequest:
        """The request that `chat` makes, for `stream` or `start`.

        `begun`: how the answer begins; it goes on from there, and does not repeat it.
        """
        check_choice(tool_choice, parallel_tool_calls, tools)
        tools = None if tool_choice == "none" else tools
        ids = self._side.encode_chat(messages, tools, template_variables or {}, begun)
        sampling, grammar = sampling_params(options), self._grammar(options, ids)
        if tools and grammar is not None:
            raise UsageError(f"{grammar.kind} leaves no room for calls of tools: give one of them")
        calls = None
        if tools:
            calls = calls_of(tools, tool_choice, parallel_tool_calls, self._side.notation)
            if calls.grammar is not None:
                grammar = calls.grammar
                self._compiler.check(grammar, _last(ids))
        return TextRequest(
            ids, sampling, _strings(stop), calls, grammar=grammar,
            timeout=options.get("timeout"), adapter=options.get("adapter"),
        )  # fmt: skip

    def stream(self, request: TextRequest) -> TextStream:
        """Start a request and read its pieces as they come."""
        return TextStream(request, self._side, lambda assembler: self._submit(request, assembler))

    def start(self, request: TextRequest, on_item: ItemHandler) -> Callable[[], None]:
        """Start a request whose pieces go to `on_item`; gives back how to cancel it.

        `on_item` runs in the engine's thread and must be quick: hand over to an event loop with
        `loop.call_soon_threadsafe`. Its last call has a piece with a finish reason, or the error.
        """
        return self._submit(request, Assembler(request, self._side, on_item))

    def start_embedding(
        self,
        prompt: Sequence[int],
        on_end: Callable[[NDArray[np.float32] | BaseException], object],
        *,
        tenant: str = "",
        priority: int = 0,
        timeout: float | None = None,
        adapter: str | None = None,
        weight: float = 1.0,
    ) -> Callable[[], None]:
        """Start to embed ids: the vector [dim] of length 1, or the error, goes to `on_end`, once.

        As with `start`, `on_end` runs in the engine's thread, and the way to cancel is given back.
        """
        asked = EmbedRequest(prompt, tenant, priority, timeout, adapter, weight)
        return self.engine.start(asked, EmbeddingHandler(on_end).on_event)

    def _submit(self, request: TextRequest, assembler: Assembler) -> Callable[[], None]:
        constraint = None
        if request.grammar is not None:
            constraint = self._compiler.begin(request.grammar, _last(request.prompt))
        asked = Request(
            request.prompt, request.sampling, self._side.end_ids, request.prompt_logprobs,
            request.answer, request.speculate, request.tenant, request.priority, request.timeout,
            request.adapter, constraint, request.weight,
        )  # fmt: skip
        return self.engine.start(asked, assembler.on_event)

    def _grammar(self, options: AnswerOptions, prompt: Sequence[int]) -> "Grammar | None":
        """The grammar asked for, compiled: what cannot be enforced is told before anything runs."""
        grammar = grammar_of(options)
        if grammar is not None:
            self._compiler.check(grammar, _last(prompt))
        return grammar

    @property
    def _compiler(self) -> "GrammarCompiler":
        """Made at first use: it takes a fifth of a second, and few answers need it."""
        from alpage.engine.grammar import GrammarCompiler

        with self._gate:
            if self._made_compiler is None:
                size = self.model.config.vocab_size
                self._made_compiler = GrammarCompiler(self._side.tokenizer, size)
            return self._made_compiler

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that requests can give as `adapter`."""
        return self.engine.adapters

    def load_adapter(self, path: str | Path, name: str | None = None) -> str:
        """Load a LoRA adapter in PEFT's layout from a folder, while others run; its name.

        The name is the folder's unless given, and takes the place of an earlier one. FormatError
        or UnsupportedError for a folder that is none for this model, CapacityError where the
        memory for adapters is taken.
        """
        from alpage.weights.peft import read_adapter  # few need it

        adapter = read_adapter(Path(path), self.model.config)
        self.engine.load_adapter(name or adapter.name, adapter)
        return name or adapter.name

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; answers that run with it end with it. UsageError if unknown."""
        self.engine.unload_adapter(name)

    def tokenize(self, text: str, *, special: bool = False, add_bos: bool = False) -> list[int]:
        """Token ids of `text`; `special` lets texts like <|im_end|> become special tokens."""
        return self.tokenizer.encode(text, special=special, add_bos=add_bos)

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of a text as a prompt: with the begin-of-text token where the model expects one."""
        return self._side.encode_prompt(text)

    def render_chat(
        self, messages: Sequence[Message], *, tools: Tools | None = None
    ) -> tuple[str, list[int]]:
        """The prompt that `chat` makes of a conversation: its text, for people, and its ids.

        Encoding the text gives other ids where messages spell special tokens.
        """
        return self._side.render_chat(messages, tools, {})

    def detokenize(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        return self.tokenizer.decode(ids, skip_special=skip_special)

    def logprobs(self, text: str, *, top: int = 0) -> TextScore:
        """How likely each token of `text` is after those before it, with the `top` most likely."""
        request = self.completion_request(
            text, prompt_logprobs=True, answer=False, top_logprobs=top
        )
        return TextScore(self.stream(request).result().prompt_logprobs or ())

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector of length 1 for each text, [texts, dim]: the mean of the final states."""
        if isinstance(texts, str):
            raise UsageError('embed takes a list of texts: embed(["a", "b"])')
        prompts = [self._side.encode_prompt(text) for text in texts]
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise InputError(f"text {index} is empty: there is nothing to embed")
        tickets = [self.engine.submit(EmbedRequest(prompt)) for prompt in prompts]
        vectors = [e.vector for t in tickets for e in t if isinstance(e, EmbeddingEvent)]
        return np.stack(vectors) if vectors else np.empty((0, self.model.config.dim), np.float32)

    def close(self) -> None:
        """End every open request and give the memory back. Can be repeated."""
        self.engine.close()
        with self._gate:
            if self._made_compiler is not None:
                self._made_compiler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _pull(model: str | Path, home: Path) -> None:
    """Download what has a name of the catalogue or of a hub and is not here."""
    # Models that are here, nearly all, need none of what downloads.
    from alpage.catalogue.hub_pull import pull_hub
    from alpage.catalogue.pull import pull as pull_model

    if model in CATALOGUE:
        pull_model(str(model), home)
    elif isinstance(model, str) and not Path(model).exists() and pulled(model, home) is None:
        name = hub_name(model)
        if name is not None:
            pull_hub(name, home)


def _strings(stop: str | Sequence[str]) -> Sequence[str]:
    return (stop,) if isinstance(stop, str) else stop


def _last(prompt: Sequence[int]) -> int | None:
    return prompt[-1] if len(prompt) else None

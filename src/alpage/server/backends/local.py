"""A model in this process, or one of its adapters."""

import asyncio
import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage import __version__
from alpage.core.types import Message
from alpage.llama import AnswerOptions, Llama, TextRequest, TokenLogprob, ToolName
from alpage.server.backends.lengths import check_texts, too_long
from alpage.server.backends.protocol import ModelCard, Pieces, ServedModel, Terms
from alpage.server.errors import RequestError
from alpage.server.queries import ChatQuery, EmbedQuery, Query, TextQuery
from alpage.server.running import Activity, Run


class LocalModel:
    """A loaded model under its name; with `adapter`, as that adapter changes it.

    `active` and what runs are those of all names of one `llm`, if they share an `activity`.
    """

    def __init__(
        self,
        name: str,
        llm: Llama,
        *,
        adapter: str | None = None,
        parent: str | None = None,
        activity: Activity | None = None,
        created: int | None = None,
    ) -> None:
        self.name = name
        self.llm = llm
        self._adapter = adapter
        self._parent = parent
        self._created = int(time.time()) if created is None else created
        self._activity = activity or Activity()
        info = llm.model
        made_by = (__version__, info.engine, info.name, info.quantization, adapter)
        self._fingerprint = f"fp_{hashlib.sha256(repr(made_by).encode()).hexdigest()[:12]}"

    @property
    def card(self) -> ModelCard:
        """Its facts."""
        info = self.llm.model
        return ModelCard(
            self.name,
            "local" if self._adapter is None else "adapter",
            self._created,
            loaded=True,
            context=self.llm.context,
            authors=info.lineage.authors,
            licence=info.licence,
            parent=self._parent,
        )

    def adapted(self, adapter: str, created: int) -> "LocalModel":
        """The same engine with an adapter that it has loaded, under the adapter's name."""
        return LocalModel(
            adapter, self.llm, adapter=adapter, parent=self.name, activity=self._activity,
            created=created,
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """A short word."""
        return self._fingerprint

    @property
    def active(self) -> int:
        """Answers that the engine works on or has queued."""
        return self._activity.count

    def end_running(self) -> None:
        """Cancel every answer under way; whoever asked is told."""
        self._activity.end_all()

    def text_of(self, ids: list[int]) -> str:
        """The text of token ids."""
        return self.llm.detokenize(ids)

    def is_text(self, token: TokenLogprob) -> bool:
        """Whether a token adds to an answer's text; control tokens do not."""
        tokenizer = self.llm.tokenizer
        return token.id < tokenizer.vocab_size and not tokenizer.is_special(token.id)

    def ids_of(self, text: str, *, special: bool = False, begin: bool = False) -> list[int]:
        """Token ids of a text; `special` lets texts like <|im_end|> become control tokens.

        `begin` puts the begin-of-text token first, where the model expects one and the text has
        none.
        """
        ids = self.llm.tokenize(text, special=special)
        first = self.llm.prompt_ids("")
        return ids if not begin or ids[: len(first)] == first else [*first, *ids]

    def ids_inside(self, text: str) -> list[int]:
        """Token ids of a text that goes on after another."""
        return self.llm.tokenizer.encode_inside(text)

    def bytes_of(self, token: int) -> bytes:
        """What one token stands for; control tokens are spelled."""
        return self.llm.tokenizer.token_bytes(token)

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[str, list[int]]:
        """The prompt of a conversation, as text and as ids."""
        return self.llm.render_chat(messages, tools=tools)

    def prepare(self, query: ChatQuery | TextQuery) -> "LocalAnswers":
        """Render and encode the prompts."""
        prompts = len(query.prompts) if isinstance(query, TextQuery) else 1
        self._activity.check(prompts * query.choices)  # not encoded in vain
        check_texts(self.llm, query)
        first = self._chat(query) if isinstance(query, ChatQuery) else self._texts(query)
        self._check_lengths([request.prompt for request in first])
        requests = [
            dataclasses.replace(
                request, sampling=dataclasses.replace(request.sampling, seed=query.seed_of(choice))
            )
            for request in first
            for choice in range(query.choices)
        ]
        return LocalAnswers(self.llm, self._activity, tuple(requests), query.choices)

    def _chat(self, query: ChatQuery) -> list[TextRequest]:
        choice = query.tool_choice if query.tool is None else ToolName(query.tool)
        return [
            self.llm.chat_request(
                query.messages,
                tools=query.tools,
                tool_choice=choice,
                parallel_tool_calls=query.parallel_tool_calls,
                stop=query.stop,
                begun=query.begun,
                **self._options(query),
            )
        ]

    def _texts(self, query: TextQuery) -> list[TextRequest]:
        options = self._options(query)
        free = options.get("regex") is None and options.get("grammar") is None
        if query.score_prompts and free and options.get("max_tokens") == 1:
            # Evaluations ask for one token behind the text that they score, and take one score
            # off the end: it has to be there where the model would end the answer at once, too.
            options["ignore_eos"] = True
        return [
            self.llm.completion_request(
                prompt,
                stop=query.stop,
                prompt_logprobs=query.score_prompts,
                answer=query.answer,
                **options,
            )
            for prompt in query.prompts
        ]

    def _options(self, query: Query) -> AnswerOptions:
        options = query.options.copy()
        options.pop("seed", None)  # each choice has its own
        if self._adapter is not None:
            options["adapter"] = self._adapter
        return options

    def prepare_embedding(self, query: EmbedQuery) -> "LocalVectors":
        """Encode the texts."""
        self._activity.check(len(query.inputs))
        prompts = [
            self.llm.prompt_ids(text) if isinstance(text, str) else list(text)
            for text in query.inputs
        ]
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise RequestError(
                    f"text {index} is empty: there is nothing to embed", param="input"
                )
        self._check_lengths(prompts)
        return LocalVectors(self.llm, self._activity, prompts, self._adapter)

    def _check_lengths(self, prompts: Sequence[Sequence[int]]) -> None:
        """Refuse prompts longer than the context, with the code that clients look for."""
        longest = max(map(len, prompts), default=0)
        if longest > self.llm.context:
            raise too_long(longest, self.llm.context)


def require_local(model: ServedModel, what: str) -> LocalModel:
    """The model, if its tokenizer is in this process; else a RequestError about `what`."""
    if isinstance(model, LocalModel):
        return model
    raise RequestError(
        f"the model {model.card.name!r:.80} runs elsewhere, where its tokens are known: {what} "
        "works with models that this server runs",
        param="model",
        code="unsupported_model",
    )


@dataclass(frozen=True, slots=True)
class LocalAnswers:
    """Requests of one query, ready for the engine."""

    llm: Llama
    activity: Activity
    requests: tuple[TextRequest, ...]
    choices: int

    @property
    def answers(self) -> int:
        """How many answers there will be."""
        return len(self.requests)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts, each counted once."""
        return sum(len(request.prompt) for request in self.requests[:: self.choices])

    @property
    def answer_tokens(self) -> int | None:
        """The most tokens that all answers may have together."""
        total = 0
        for request in self.requests:
            if not request.answer:
                continue
            if request.sampling.max_tokens is None:
                return None
            total += request.sampling.max_tokens
        return total

    @property
    def room(self) -> int | None:
        """The most tokens that contexts leave to all answers."""
        if any(request.sampling.context_policy == "shift" for request in self.requests):
            return None
        return sum(max(0, self.llm.context - len(r.prompt)) + 1 for r in self.requests)

    def bounded(self, tokens: int) -> "LocalAnswers":
        """The same with at most `tokens` in all answers together, a share for each."""
        share = max(1, tokens // len(self.requests))
        bounded = []
        for request in self.requests:
            most = min(share, request.sampling.max_tokens or share)
            sampling = dataclasses.replace(request.sampling, max_tokens=most)
            bounded.append(dataclasses.replace(request, sampling=sampling))
        return dataclasses.replace(self, requests=tuple(bounded))

    def run(self, terms: Terms) -> AbstractAsyncContextManager[Pieces]:
        """Start; leaving the context ends what still runs."""
        return Run(self.llm, self.activity, [_on(terms, r) for r in self.requests])


def _on(terms: Terms, request: TextRequest) -> TextRequest:
    limits = [t for t in (terms.timeout, request.timeout) if t is not None]
    return dataclasses.replace(
        request,
        tenant=terms.tenant,
        priority=terms.priority,
        weight=terms.weight,
        timeout=min(limits, default=None),
    )


@dataclass(frozen=True, slots=True)
class LocalVectors:
    """Texts of one query, encoded."""

    llm: Llama
    activity: Activity
    prompts: list[list[int]]
    adapter: str | None

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(map(len, self.prompts))

    async def run(self, terms: Terms) -> NDArray[np.float32]:
        """One vector of length 1 for each text: [texts, dim]."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[NDArray[np.float32]]] = []
        cancels: list[Callable[[], None]] = []
        waiting = self.activity.admit([len(prompt) for prompt in self.prompts])
        try:
            for prompt in self.prompts:
                future: asyncio.Future[NDArray[np.float32]] = loop.create_future()
                futures.append(future)
                cancels.append(self._start(loop, prompt, terms, future))
            return np.stack(await asyncio.gather(*futures))
        finally:
            waiting.end()
            for cancel in cancels:
                cancel()
            for future in futures:
                if future.done() and not future.cancelled():
                    future.exception()  # told already, or nobody is left to hear it

    def _start(
        self,
        loop: asyncio.AbstractEventLoop,
        prompt: list[int],
        terms: Terms,
        future: "asyncio.Future[NDArray[np.float32]]",
    ) -> Callable[[], None]:
        def settle(found: "NDArray[np.float32] | BaseException") -> None:
            if future.done():
                return
            if isinstance(found, BaseException):
                future.set_exception(found)
            else:
                future.set_result(found)

        def hand_over(found: "NDArray[np.float32] | BaseException") -> None:
            loop.call_soon_threadsafe(settle, found)

        return self.llm.start_embedding(
            prompt, hand_over, tenant=terms.tenant, priority=terms.priority,
            weight=terms.weight, timeout=terms.timeout, adapter=self.adapter,
        )  # fmt: skip

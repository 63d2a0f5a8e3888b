"""The slots of llama.cpp's server, on its low-level interface.

llama-cpp-python has the library but not the server, so its loop over slots is written again here,
as `tools/server/server-context.cpp` and `server-task.cpp` of the version that llama-cpp-python
0.3.36 contains do it with `--parallel N`. Reproduced:

- A cache stream for each slot, F16; batches of up to 2,048 rows in physical ones of 512; flash
  attention where llama.cpp chooses it; logits for one row of a slot.
- Continuous batching: the last token of every answering slot first, then the prompts of the others,
  in the order of the slots, until the batch is full. A prompt is cut where the batch ends.
- `cache_prompt`: a slot keeps what it had, and computes its new prompt from the longest common
  prefix on, at least the last token.
- A request takes the free slot whose tokens have the longest common prefix with its prompt, if that
  is more than a tenth of the prompt; else the one unused for longest. Without a free slot it waits,
  first come first served.
- The prompt cache in memory (8 GiB, or a quarter of what is free where that is less): idle slots
  are copied to it when a request starts, and a slot that would lose half of its tokens takes from
  it the prompt that fits better.
- The server's default sampling: top-k 40, top-p 0.95, min-p 0.05, then the temperature.

Left out, in llama.cpp's favour: HTTP, JSON, detokenising, its other samplers (off by default), and
the ban of end tokens that its `ignore_eos` adds. Not used: speculation, context shift, adapters,
several answers to a prompt, images.
"""

import ctypes
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alpage.bench.latency import Answer
from alpage.bench.llamacpp import Context, library, library_facts, load_model
from alpage.bench.serving import SAMPLING, Sampling
from alpage.bench.traffic import TimedRequest
from alpage.core.errors import InternalError
from alpage.engine.memory import available_memory

BATCH = 2048
SIMILAR = 0.1
"""Share of a prompt from which a slot that holds it is preferred."""
_KEPT, _WORTH = 0.5, 0.25
_PROMPT_CACHE_BYTES = 8 << 30


@dataclass(slots=True)
class Slot:
    """One sequence of the cache: the tokens in it, and the request that it works on."""

    number: int
    tokens: list[int] = field(default_factory=list)
    request: TimedRequest | None = None
    answer: Answer = field(default_factory=lambda: Answer(0.0))
    sampler: Any = None
    used: int = -1
    """Count of requests that had ended when this slot's last one did."""
    row: int = -1
    """Of the batch, whose logits become the next token."""
    generating: bool = False

    @property
    def rest(self) -> list[int]:
        """Prompt tokens that are not in the cache."""
        return [] if self.request is None else self.request.prompt[len(self.tokens) :]


class PromptCache:
    """States of sequences, copied out of the context."""

    def __init__(self, low: Any, context: Context, limit: int) -> None:
        self._low = low
        self._context = context
        self._limit = limit
        self._entries: list[tuple[NDArray[np.int32], Any]] = []  # oldest first

    def __len__(self) -> int:
        return len(self._entries)

    def save(self, slot: Slot) -> None:
        """Copy what a slot holds, unless an entry begins with it; entries it contains go."""
        tokens = np.array(slot.tokens, np.int32)
        shared = [common_prefix(tokens, entry) for entry, _ in self._entries]
        if not len(tokens) or len(tokens) in shared:
            return
        size = self._low.llama_state_seq_get_size(self._context.handle, slot.number)
        if size > self._limit:
            return
        self._entries = [
            entry
            for entry, length in zip(self._entries, shared, strict=True)
            if length < len(entry[0])
        ]
        while sum(len(data) for _, data in self._entries) + size > self._limit:
            self._entries.pop(0)
        data = (ctypes.c_uint8 * size)()
        self._low.llama_state_seq_get_data(self._context.handle, data, size, slot.number)
        self._entries.append((tokens, data))

    def load(self, slot: Slot, prompt: list[int]) -> None:
        """Move the entry that suits `prompt` better than the slot's own tokens into the slot."""
        wanted = np.array(prompt, np.int32)
        shared = common_prefix(np.array(slot.tokens, np.int32), wanted)
        kept = shared / len(slot.tokens) if slot.tokens else -1.0
        best = None
        for index, (tokens, _) in enumerate(self._entries):
            length = common_prefix(tokens, wanted)
            share = length / len(tokens)
            if share >= _WORTH and share > kept and length > shared:
                kept, shared, best = share, length, index
        if best is None:
            return
        tokens, data = self._entries.pop(best)
        done = self._low.llama_state_seq_set_data(
            self._context.handle, data, len(data), slot.number
        )
        if done != len(data):
            raise InternalError("llama.cpp did not take a sequence's state back")
        slot.tokens = tokens.tolist()


class Slots:
    """The server's state machine without threads: `launch` and `step` do what its loop does."""

    def __init__(self, low: Any, context: Context, slots: int, sampling: Sampling) -> None:
        self._low = low
        self._context = context
        self._sampling = sampling
        self._slots = [Slot(number) for number in range(slots)]
        self._rows = min(BATCH, low.llama_n_batch(context.handle))
        free = available_memory()
        limit = _PROMPT_CACHE_BYTES if free is None else min(_PROMPT_CACHE_BYTES, free // 4)
        self.prompt_cache = PromptCache(low, context, limit)
        self._ended = count()

    @property
    def busy(self) -> bool:
        """Whether a slot works on a request."""
        return any(slot.request is not None for slot in self._slots)

    def launch(self, request: TimedRequest, answer: Answer) -> bool:
        """Give a request to a slot; False without a free one."""
        slot = self._choose(request.prompt)
        if slot is None:
            return False
        prompt = np.array(request.prompt, np.int32)
        # The last token is computed again: its logits are wanted.
        kept = min(common_prefix(np.array(slot.tokens, np.int32), prompt), len(prompt) - 1)
        del slot.tokens[kept:]
        self._context.forget(slot.number, kept)
        slot.request, slot.answer = request, answer
        slot.sampler = self._sampler(request.seed)
        for other in self._slots:
            if other.request is None:
                self.prompt_cache.save(other)
        return True

    def step(self, start: float) -> int:
        """One batch; how many requests ended. Times of tokens are seconds since `start`."""
        tokens: list[int] = []
        positions: list[int] = []
        sequences: list[int] = []
        outputs: list[bool] = []
        for slot, part in self._plan():
            positions += range(len(slot.tokens), len(slot.tokens) + len(part))
            tokens += part
            sequences += [slot.number] * len(part)
            outputs += [False] * len(part)
            slot.tokens += part
            if not slot.rest:
                slot.row = len(tokens) - 1
                outputs[-1] = slot.generating = True
        self._context.decode(tokens, positions, sequences, outputs)
        return sum(self._sample(slot, start) for slot in self._slots if slot.row >= 0)

    def close(self) -> None:
        """Free the samplers of requests that were left."""
        for slot in self._slots:
            self._release(slot)

    def _plan(self) -> Iterator[tuple[Slot, list[int]]]:
        """Rows of the next batch; a slot's tokens must be extended before the next is asked for."""
        room = self._rows
        for slot in self._slots:
            if slot.generating:
                room -= 1
                yield slot, slot.answer.tokens[-1:]
        for slot in self._slots:
            if slot.request is not None and not slot.generating and room:
                part = slot.rest[:room]
                room -= len(part)
                yield slot, part

    def _sample(self, slot: Slot, start: float) -> bool:
        """The next token of one slot; whether it was the last."""
        assert slot.request is not None
        token = self._low.llama_sampler_sample(slot.sampler, self._context.handle, slot.row)
        slot.row = -1
        slot.answer.tokens.append(int(token))
        slot.answer.times.append(perf_counter() - start)
        if len(slot.answer.tokens) < slot.request.answer_tokens:
            return False
        self._release(slot)
        return True

    def _release(self, slot: Slot) -> None:
        if slot.request is not None:
            self._low.llama_sampler_free(slot.sampler)
            slot.request, slot.generating, slot.used = None, False, next(self._ended)

    def _choose(self, prompt: list[int]) -> Slot | None:
        """The free slot for a prompt, with the better of its own state and the prompt cache's."""
        free = [slot for slot in self._slots if slot.request is None]
        if not free:
            return None
        wanted = np.array(prompt, np.int32)
        shared = {s.number: common_prefix(np.array(s.tokens, np.int32), wanted) for s in free}
        best = max(free, key=lambda slot: shared[slot.number])
        if shared[best.number] > SIMILAR * len(prompt):
            if shared[best.number] >= _KEPT * len(best.tokens):
                return best
        else:
            # Of slots that were never used the server takes the last.
            best = min(reversed(free), key=lambda slot: slot.used)
        self.prompt_cache.save(best)
        self.prompt_cache.load(best, prompt)
        return best

    def _sampler(self, seed: int) -> Any:
        low, sampling = self._low, self._sampling
        chain = low.llama_sampler_chain_init(low.llama_sampler_chain_default_params())
        if sampling.temperature == 0:
            low.llama_sampler_chain_add(chain, low.llama_sampler_init_greedy())
            return chain
        for part in (
            low.llama_sampler_init_top_k(sampling.top_k),
            low.llama_sampler_init_top_p(sampling.top_p, 0),
            low.llama_sampler_init_min_p(sampling.min_p, 0),
            low.llama_sampler_init_temp(sampling.temperature),
            low.llama_sampler_init_dist(seed),
        ):
            low.llama_sampler_chain_add(chain, part)
        return chain


class LlamaCppServer:
    """See `Server`."""

    def __init__(self, path: Path, *, threads: int, sampling: Sampling = SAMPLING) -> None:
        self._path = path
        self._threads = threads
        self._sampling = sampling
        self._low = library()
        self._model: Any = None
        self._context: Context | None = None
        self._slots: Slots | None = None

    def load(self) -> float:
        """Weights, with llama.cpp's own repacking."""
        self.close()
        start = perf_counter()
        self._model = load_model(self._low, self._path)
        return perf_counter() - start

    def prepare(self, slots: int, context: int) -> None:
        """See `Server`."""
        self._drop()
        self._context = Context(
            self._low, self._model, positions=context, sequences=slots, threads=self._threads,
            flash=None, batch=BATCH, outputs=slots,
        )  # fmt: skip
        self._slots = Slots(self._low, self._context, slots, self._sampling)

    def serve(self, requests: Sequence[TimedRequest], together: int | None) -> list[Answer]:
        """See `Server`."""
        if self._slots is None:
            raise InternalError("serve comes after prepare")
        slots = self._slots
        answers = [Answer(request.at) for request in requests]
        coming = deque(range(len(requests)))
        waiting = deque(coming.popleft() for _ in range(min(together or 0, len(coming))))
        start = perf_counter()
        while coming or waiting or slots.busy:
            now = perf_counter() - start
            while together is None and coming and requests[coming[0]].at <= now:
                waiting.append(coming.popleft())
            while waiting and slots.launch(requests[waiting[0]], answers[waiting[0]]):
                waiting.popleft()
            if not slots.busy:
                sleep(max(0.0, requests[coming[0]].at - (perf_counter() - start)))
                continue
            ended = slots.step(start)
            for _ in range(min(ended, len(coming)) if together else 0):
                answers[coming[0]].arrived = perf_counter() - start
                waiting.append(coming.popleft())
        return answers

    def facts(self) -> Mapping[str, Any]:
        """See `Server`."""
        return library_facts(self._low, self._threads)

    def close(self) -> None:
        """Free caches and model."""
        self._drop()
        if self._model:
            self._low.llama_model_free(self._model)
        self._model = None

    def _drop(self) -> None:
        if self._slots is not None:
            self._slots.close()
        if self._context is not None:
            self._context.close()
        self._slots = self._context = None


def common_prefix(one: NDArray[np.int32], other: NDArray[np.int32]) -> int:
    """How many tokens both begin with."""
    length = min(len(one), len(other))
    different = one[:length] != other[:length]
    return int(different.argmax()) if different.any() else length

"""A runner whose answer depends on every earlier token, read back through the sequence's pages.

And a constraint whose choices depend on every token that it took.
"""

import random
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from alpage.core.config import LlamaConfig
from alpage.core.errors import InternalError
from alpage.engine.protocol import StepBatch
from alpage.weights.lora import LoraAdapter

VOCAB = 64
DIM = 8
NAN_TOKEN = 63
"""A sequence that holds this token gets NaN logits and states."""
EMPTY = -7


class NoAdapters:
    """What a runner in a test has that is never asked for adapters."""

    adapter_bytes = 0

    def set_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        raise AssertionError(f"adapter {adapter.name} for slot {slot}")

    def free_adapter(self, slot: int) -> None:
        raise AssertionError(f"slot {slot} was never filled")


class FakeRunner:
    """Logits are noise seeded by the tokens at positions 0 to p, as found in the pages.

    A page that is shared by accident, taken too late, given back too early or filled at the wrong
    place therefore changes the answer, or trips an assertion here. `rows` lists the rows of each
    forward pass; an exception put into `fail` is raised by the next one. An adapter changes what a
    token leaves in its page and so every later answer, by the adapter's name and not by its slot.
    """

    def __init__(self, pages: int = 32, page_size: int = 4, context: int = 64) -> None:
        self.config = LlamaConfig(
            vocab_size=VOCAB, dim=DIM, n_layers=1, n_heads=1, n_kv_heads=1, head_dim=8, ffn_dim=8,
            context_length=context,
        )  # fmt: skip
        self.page_size = page_size
        self.page_count = pages
        self.cells = np.full((pages, page_size), EMPTY, np.int32)
        self.marks = np.zeros((pages, page_size), np.int64)  # of the adapter of each token
        self.adapters: dict[int, LoraAdapter] = {}
        self.rows: list[int] = []
        self.outputs: list[int] = []
        self.fail: BaseException | None = None
        self.closed = False

    def forward(self, batch: StepBatch) -> NDArray[np.float32]:
        return self._run(batch, VOCAB)

    def hidden(self, batch: StepBatch) -> NDArray[np.float32]:
        return self._run(batch, DIM)

    @property
    def cache_fingerprint(self) -> str:
        return f"fake-{self.page_size}"

    def read_page(self, page: int) -> bytes:
        assert 0 <= page < self.page_count
        return bytes(self.cells[page].tobytes() + self.marks[page].tobytes())

    def write_page(self, page: int, data: bytes) -> None:
        assert 0 <= page < self.page_count
        tokens = self.cells[page].nbytes
        assert len(data) == tokens + self.marks[page].nbytes, "not a page of this cache"
        self.cells[page] = np.frombuffer(data[:tokens], np.int32)
        self.marks[page] = np.frombuffer(data[tokens:], np.int64)

    def set_adapter(self, slot: int, adapter: LoraAdapter) -> None:
        assert slot >= 0
        self.adapters[slot] = adapter

    def free_adapter(self, slot: int) -> None:
        if self.adapters.pop(slot, None) is None:
            raise InternalError(f"no adapter in slot {slot}")

    @property
    def adapter_bytes(self) -> int:
        return sum(2 * adapter.size for adapter in self.adapters.values())

    def close(self) -> None:
        assert not self.closed
        self.closed = True

    def _run(self, batch: StepBatch, width: int) -> NDArray[np.float32]:
        assert not self.closed
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self._check(batch)
        self.rows.append(len(batch.tokens))
        self.outputs.append(len(batch.outputs))
        for token, position, sequence in zip(
            batch.tokens, batch.positions, batch.sequences, strict=True
        ):
            page = batch.page_tables[sequence, position // self.page_size]
            self.cells[page, position % self.page_size] = token
            self.marks[page, position % self.page_size] = self._mark(batch, int(sequence))
        results = [
            self._noise(self._tokens(batch, int(row)), width, self._marks(batch, int(row)))
            for row in batch.outputs
        ]
        return np.array(results, np.float32).reshape(-1, width)

    def _check(self, batch: StepBatch) -> None:
        held = batch.page_tables[batch.page_tables >= 0]
        assert held.max() < self.page_count
        written = [
            int(page)
            for index, table in enumerate(batch.page_tables)
            for page in table[batch.positions[batch.sequences == index].min() // self.page_size :]
            if page >= 0
        ]
        for page in written:
            assert np.count_nonzero(held == page) == 1, "a page that is written has two holders"
        for sequence in range(len(batch.page_tables)):
            places = np.flatnonzero(batch.sequences == sequence)
            assert len(places), "a sequence without rows"
            assert (np.diff(places) == 1).all(), "rows of one sequence are apart"
            positions = batch.positions[places]
            assert (np.diff(positions) == 1).all(), "positions do not ascend one by one"
            assert positions[-1] < self.config.context_length

    def _mark(self, batch: StepBatch, sequence: int) -> int:
        slot = -1 if batch.adapters is None else int(batch.adapters[sequence])
        if slot == -1:
            return 0
        assert slot in self.adapters, f"a sequence runs with the empty slot {slot}"
        return mark_of(self.adapters[slot].name)

    def _marks(self, batch: StepBatch, row: int) -> list[int]:
        last = int(batch.positions[row])
        pages = batch.page_tables[batch.sequences[row]][: last // self.page_size + 1]
        return [int(mark) for mark in self.marks[pages].reshape(-1)[: last + 1]]

    def _tokens(self, batch: StepBatch, row: int) -> list[int]:
        table = batch.page_tables[batch.sequences[row]]
        last = int(batch.positions[row])
        pages = table[: last // self.page_size + 1]
        assert (pages >= 0).all(), "a position without a page"
        return [int(token) for token in self.cells[pages].reshape(-1)[: last + 1]]

    def _noise(
        self, tokens: list[int], width: int, marks: Sequence[int] = ()
    ) -> NDArray[np.float32]:
        if NAN_TOKEN in tokens:
            return np.full(width, np.nan, np.float32)
        seed = zlib.crc32(np.array(tokens, np.int32).tobytes())
        if any(marks):
            seed = zlib.crc32(np.array(marks, np.int64).tobytes(), seed)
        noise = np.random.default_rng([seed, width]).standard_normal(width) * 3
        if width == VOCAB:
            noise[NAN_TOKEN] = -1e9  # never sampled
        return noise.astype(np.float32)


class Stateless:
    """The cache of a runner whose answers do not depend on one: pages of no bytes."""

    cache_fingerprint = "stateless"

    def read_page(self, page: int) -> bytes:
        assert page >= 0
        return b""

    def write_page(self, page: int, data: bytes) -> None:
        assert page >= 0
        assert data == b""


def mark_of(adapter: str) -> int:
    """What a token leaves in its page that ran with the adapter of that name."""
    return zlib.crc32(adapter.encode())


def expected_logits(tokens: list[int], adapter: str = "") -> NDArray[np.float32]:
    """What the fake says after `tokens`, without any cache, all of them with `adapter`."""
    return FakeRunner()._noise(tokens, VOCAB, [mark_of(adapter)] * len(tokens) if adapter else [])


def expected_states(tokens: list[int]) -> NDArray[np.float32]:
    """The fake's state at each place of `tokens`: [n, DIM]."""
    return np.array([FakeRunner()._noise(tokens[: i + 1], DIM) for i in range(len(tokens))])


def packed(ids: Iterable[int]) -> NDArray[np.uint32]:
    """A mask that allows `ids`."""
    bits = np.zeros(VOCAB, np.bool_)
    bits[list(ids)] = True
    return np.packbits(bits, bitorder="little").view(np.uint32)


class FakeConstraint:
    """Of `length` tokens; what may come next is drawn from the seed and all that came before.

    Every third place or so leaves no choice, every fifth may end the answer. A token that was not
    allowed, such as one that is taken twice, trips an assertion.
    """

    def __init__(self, seed: int, length: int) -> None:
        self.seed, self.length = seed, length
        self.taken: list[int] = []

    def again(self) -> "FakeConstraint":
        return FakeConstraint(self.seed, self.length)

    @property
    def ended(self) -> bool:
        return len(self.taken) == self.length

    @property
    def complete(self) -> bool:
        return self._after(self.taken)[1]

    def allows(self, token: int) -> bool:
        return token in self._after(self.taken)[0]

    def prepare(self) -> None:
        return

    def allowed(self) -> NDArray[np.uint32]:
        return packed(self._after(self.taken)[0])

    def accept(self, token: int) -> None:
        assert token in self._after(self.taken)[0], f"{token} after {self.taken}"
        self.taken.append(token)

    def forced(self) -> list[int]:
        taken = list(self.taken)
        while True:
            ids, complete = self._after(taken)
            if complete or len(ids) != 1:
                return taken[len(self.taken) :]
            taken += ids

    def _after(self, taken: list[int]) -> tuple[list[int], bool]:
        if len(taken) == self.length:
            return [], True
        chance = random.Random(f"{self.seed} {taken}")
        if chance.random() < 0.3:
            return [chance.randrange(60)], False
        return chance.sample(range(60), chance.randint(2, 20)), chance.random() < 0.2

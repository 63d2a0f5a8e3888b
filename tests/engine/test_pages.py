"""The page pool against a plain model of it."""

from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alpage.core.errors import CapacityError, InternalError
from alpage.engine.pages import PageAllocator, PageTable, first_key, next_key

POOL = 12
PAGE = 4
ROOTS = [first_key("a"), first_key("b")]


class Text(NamedTuple):
    """A sequence of the model: whose it is, what it holds, and how much of that has run."""

    tenant: int
    window: list[int]
    table: PageTable
    ran: int


class Pool(RuleBasedStateMachine):
    """Sequences come, take over beginnings, run, grow and go; a plain model knows every page.

    `content[page]` is what was last written there: tenant and all tokens up to the page's end.
    Nobody may take over anything else, and no page that somebody reads may change.
    """

    def __init__(self) -> None:
        super().__init__()
        self.allocator = PageAllocator(POOL)
        self.texts: list[Text] = []
        self.content: dict[int, tuple[int, tuple[int, ...]]] = {}

    @rule(tenant=st.integers(0, 1), window=st.lists(st.integers(0, 1), min_size=1, max_size=24))
    def start(self, tenant: int, window: list[int]) -> None:
        """As the scheduler admits: what is here is shared, the rest is taken."""
        table = PageTable(self.allocator, PAGE, ROOTS[tenant])
        pages = self.allocator.find(table.keys(window, len(window) - 1))
        missing = table.missing(len(window)) - len(pages)
        free = self.allocator.free
        if missing + self.allocator.unheld(pages) > free:
            return
        unheld = self.allocator.unheld(pages)
        ran = table.adopt(pages)
        for index, page in enumerate(pages):
            assert self.content[page] == (tenant, tuple(window[: (index + 1) * PAGE]))
        table.grow(len(window))
        assert self.allocator.free == free - missing - unheld
        assert table.missing(len(window)) == 0
        self.texts.append(Text(tenant, window, table, ran))

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 1000), rows=st.integers(1, 24))
    def run(self, which: int, rows: int) -> None:
        """Some positions run: full pages are filled and published, others may hold anything."""
        which %= len(self.texts)
        tenant, window, table, ran = self.texts[which]
        end = min(ran + rows, len(window))
        for index in range(ran // PAGE, -(-end // PAGE)):
            page = int(table.row[index])
            holders = [t for t in self.texts if page in t.table.row.tolist()]
            assert ran == end or len(holders) == 1, "a page that is written has two holders"
            self.content[page] = (tenant, tuple(window[: min(end, (index + 1) * PAGE)]))
        table.publish(window, end)
        self.texts[which] = Text(tenant, window, table, end)

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 1000), token=st.integers(0, 1))
    def answer(self, which: int, token: int) -> None:
        _, window, table, ran = self.texts[which % len(self.texts)]
        if ran < len(window):
            return
        if table.missing(len(window) + 1) > self.allocator.free:
            with pytest.raises(CapacityError, match="1 cache pages wanted, 0 of 12"):
                table.grow(len(window) + 1)
            return
        window.append(token)
        table.grow(len(window))

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 1000))
    def end(self, which: int) -> None:
        self.texts.pop(which % len(self.texts)).table.shrink(0)

    @precondition(lambda self: self.texts)
    @rule(which=st.integers(0, 1000), keep=st.integers(1, 24))
    def slide(self, which: int, keep: int) -> None:
        """Another window in the same sequence: nothing of the old keys may stick."""
        which %= len(self.texts)
        tenant, window, table, _ = self.texts[which]
        shorter = window[-keep:]
        table.restart()
        if table.missing(len(shorter)) > self.allocator.free:  # others hold its pages, too
            with pytest.raises(CapacityError, match="cache pages wanted"):
                table.grow(len(shorter))
            self.texts.pop(which)
            return
        table.grow(len(shorter))
        self.texts[which] = Text(tenant, shorter, table, 0)

    @invariant()
    def every_page_is_counted(self) -> None:
        held = {page for text in self.texts for page in text.table.row.tolist()}
        assert len(held) + self.allocator.free == self.allocator.page_count == POOL
        assert self.allocator.kept <= self.allocator.free

    @invariant()
    def what_has_run_is_still_there(self) -> None:
        for tenant, window, table, ran in self.texts:
            for index in range(ran // PAGE):
                wanted = (tenant, tuple(window[: (index + 1) * PAGE]))
                assert self.content[int(table.row[index])] == wanted


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_names_of_tenants_and_of_adapters_cannot_be_mixed_up() -> None:
    assert len({first_key(), first_key(""), first_key("a", "bc"), first_key("ab", "c")}) == 4
    assert next_key(ROOTS[0], [1, 2]) != next_key(ROOTS[1], [1, 2])
    assert next_key(next_key(ROOTS[0], [1]), [2]) != next_key(ROOTS[0], [1, 2])


def test_a_page_cannot_be_released_twice() -> None:
    allocator = PageAllocator(3)
    pages = allocator.take(2)
    allocator.release(pages)
    with pytest.raises(InternalError, match=f"page {pages[1]} was released twice"):
        allocator.release(pages)
    assert allocator.free == 3


def test_the_page_given_back_last_is_handed_out_first() -> None:
    allocator = PageAllocator(100)
    first = allocator.take(3)
    assert first == [0, 1, 2]
    allocator.release(first)
    assert allocator.take(2) == [0, 1]


def test_pages_are_only_published_held_and_only_shared_known() -> None:
    allocator = PageAllocator(2)
    key = first_key("content")
    with pytest.raises(InternalError, match="page 1 is published, but nobody holds it"):
        allocator.publish(1, key)
    with pytest.raises(InternalError, match="page 0 has no known content"):
        allocator.share([0])
    table = PageTable(allocator, PAGE, key)
    table.grow(1)
    with pytest.raises(InternalError, match="only an empty page table"):
        table.adopt([])

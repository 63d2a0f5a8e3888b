"""The page pool against a plain model of it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alpage.core.errors import CapacityError, InternalError
from alpage.engine.pages import PageAllocator, PageTable

POOL = 12
PAGE = 4


class Pool(RuleBasedStateMachine):
    """Tables grow and shrink at will; every page is free or in exactly one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = PageAllocator(POOL)
        self.tables: list[PageTable] = []
        self.positions: list[int] = []

    @rule()
    def open_table(self) -> None:
        self.tables.append(PageTable(self.allocator, PAGE))
        self.positions.append(0)

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 1000), positions=st.integers(0, POOL * PAGE + 8))
    def grow(self, which: int, positions: int) -> None:
        which %= len(self.tables)
        table, before = self.tables[which], self.tables[which].row.tolist()
        needed = -(-positions // PAGE) - len(before)
        assert table.missing(positions) == max(0, needed)
        if needed > self.allocator.free:
            with pytest.raises(CapacityError, match=f"{needed} cache pages wanted"):
                table.grow(positions)
            assert table.row.tolist() == before
        else:
            table.grow(positions)
            assert table.row.tolist()[: len(before)] == before
            assert table.missing(positions) == 0

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 1000), positions=st.integers(0, POOL * PAGE))
    def shrink(self, which: int, positions: int) -> None:
        table = self.tables[which % len(self.tables)]
        before = table.row.tolist()
        table.shrink(positions)
        assert table.row.tolist() == before[: -(-positions // PAGE)]

    @invariant()
    def every_page_is_somewhere_once(self) -> None:
        held = [page for table in self.tables for page in table.row.tolist()]
        assert len(set(held)) == len(held)
        assert len(held) + self.allocator.free == self.allocator.page_count == POOL


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


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

"""The pool of cache pages: who has which, counted so that none is ever lost or given twice."""

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import CapacityError, InternalError


class PageAllocator:
    """Numbers from 0 to `page_count - 1`, each held by as many users as its reference count.

    The page given back last is handed out first: memory that was never touched stays untouched
    for as long as the load allows.
    """

    def __init__(self, page_count: int) -> None:
        self._references = [0] * page_count
        self._free = list(range(page_count - 1, -1, -1))

    @property
    def page_count(self) -> int:
        """Pages in the pool."""
        return len(self._references)

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """Hand out `count` pages, each with one reference, or raise and hand out none."""
        if count > len(self._free):
            raise CapacityError(
                f"{count} cache pages wanted, {len(self._free)} of {self.page_count} are free"
            )
        pages = [self._free.pop() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        return pages

    def release(self, pages: list[int]) -> None:
        """Drop one reference of each page; a page without references is free again."""
        for page in reversed(pages):
            if self._references[page] == 0:
                raise InternalError(f"cache page {page} was released twice")
            self._references[page] -= 1
            if self._references[page] == 0:
                self._free.append(page)


class PageTable:
    """The pages of one sequence in order of position; `row` is what a runner reads."""

    def __init__(self, allocator: PageAllocator, page_size: int) -> None:
        self._allocator = allocator
        self._page_size = page_size
        self._pages: list[int] = []
        self.row: NDArray[np.int32] = np.empty(0, np.int32)  # [pages]

    def missing(self, positions: int) -> int:
        """Pages to take before positions 0 to `positions - 1` have their place."""
        return max(0, -(-positions // self._page_size) - len(self._pages))

    def grow(self, positions: int) -> None:
        """Take the missing pages for `positions`; CapacityError leaves the table as it was."""
        self._pages += self._allocator.take(self.missing(positions))
        self.row = np.array(self._pages, np.int32)

    def shrink(self, positions: int) -> None:
        """Give back every page that `positions` positions do not need."""
        keep = -(-positions // self._page_size)
        self._allocator.release(self._pages[keep:])
        self._pages = self._pages[:keep]
        self.row = np.array(self._pages, np.int32)

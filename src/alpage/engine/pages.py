"""The pool of cache pages: who holds which, what is in them, and which are given away next.

A full page whose rows have run is known by the key of all tokens up to its end, so a later request
that begins with the same tokens takes it over instead of running them again. Nobody writes into
such a page: a sequence writes only behind what it has taken over.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from alpage.core.errors import CapacityError, InternalError

Key = bytes
"""Names a page's content: namespace and every token from the first to the page's last."""


def first_key(*namespace: str) -> Key:
    """What a chain of keys begins with. Different namespaces never share a page."""
    digest = blake2b(digest_size=32)
    for part in namespace:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def next_key(before: Key, tokens: Sequence[int]) -> Key:
    """The key of the page that holds `tokens`, after the page of `before`.

    256 bits of BLAKE2b (RFC 7693): nobody can make two contents that share a key.
    """
    return blake2b(before + np.array(tokens, np.int32).tobytes(), digest_size=32).digest()


class PageAllocator:
    """Numbers from 0 to `page_count - 1`, each held by as many users as its reference count.

    A page without users is free; one with a key keeps its content until it is given away, the
    least recently used last of all. Of pages without a key the one given back last is handed out
    first: memory that was never touched stays untouched for as long as the load allows.
    """

    def __init__(self, page_count: int) -> None:
        self._references = [0] * page_count
        self._keys: list[Key | None] = [None] * page_count
        self._pages: dict[Key, int] = {}
        self._empty = list(range(page_count - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # free, with a key; oldest use first

    @property
    def page_count(self) -> int:
        """Pages in the pool."""
        return len(self._references)

    @property
    def free(self) -> int:
        """Pages that nobody holds, those with content included."""
        return len(self._empty) + len(self._kept)

    @property
    def kept(self) -> int:
        """Free pages whose content can still be taken over."""
        return len(self._kept)

    def take(self, count: int) -> list[int]:
        """Hand out `count` pages, each with one reference, or raise and hand out none."""
        if count > self.free:
            raise CapacityError(
                f"{count} cache pages wanted, {self.free} of {self.page_count} are free"
            )
        pages = [self._empty.pop() if self._empty else self._forget() for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        return pages

    def _forget(self) -> int:
        page, _ = self._kept.popitem(last=False)
        key = self._keys[page]
        assert key is not None
        del self._pages[key]
        self._keys[page] = None
        return page

    def release(self, pages: list[int]) -> None:
        """Drop one reference of each page, the last first: the ends of texts are forgotten first.

        A page without references is free again.
        """
        for page in reversed(pages):
            if self._references[page] == 0:
                raise InternalError(f"cache page {page} was released twice")
            self._references[page] -= 1
            if self._references[page]:
                continue
            if self._keys[page] is None:
                self._empty.append(page)
            else:
                self._kept[page] = None

    def publish(self, page: int, key: Key) -> None:
        """Say what a held page contains. A second page of the same content stays without a key."""
        if self._references[page] == 0:
            raise InternalError(f"cache page {page} is published, but nobody holds it")
        if key not in self._pages and self._keys[page] is None:
            self._pages[key] = page
            self._keys[page] = key

    def find(self, keys: Iterable[Key]) -> list[int]:
        """The pages of the longest beginning of `keys` that is here; no reference is taken."""
        found = []
        for key in keys:
            page = self._pages.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def contents(self) -> list[tuple[Key, int]]:
        """Every key with its page: those that are held, then those kept, the latest use first."""
        held = [page for page, count in enumerate(self._references) if count]
        pages = [*held, *reversed(self._kept)]
        return [(key, page) for page in pages if (key := self._keys[page]) is not None]

    def unheld(self, pages: list[int]) -> int:
        """How many of `pages` are free now and would not be once they are shared."""
        return sum(self._references[page] == 0 for page in pages)

    def share(self, pages: list[int]) -> None:
        """One more reference to each of `pages`, as `find` gave them."""
        for page in pages:
            if self._keys[page] is None:
                raise InternalError(f"cache page {page} has no known content to share")
            self._references[page] += 1
            self._kept.pop(page, None)


class PageTable:
    """The pages of one sequence in order of position; `row` is what a runner reads."""

    def __init__(self, allocator: PageAllocator, page_size: int, root: Key) -> None:
        self._allocator = allocator
        self._page_size = page_size
        self._pages: list[int] = []
        self._keys = [root]  # [1 + full pages of the window], as far as they were needed
        self._published = 0
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
        self._published = min(self._published, keep)
        self.row = np.array(self._pages, np.int32)

    def restart(self) -> None:
        """Give back every page; the window that comes next may be another one."""
        self.shrink(0)
        del self._keys[1:]

    def keys(self, window: Sequence[int], positions: int) -> list[Key]:
        """Keys of the pages that the first `positions` of `window` fill."""
        full = positions // self._page_size
        while len(self._keys) <= full:
            start = (len(self._keys) - 1) * self._page_size
            self._keys.append(next_key(self._keys[-1], window[start : start + self._page_size]))
        return self._keys[1 : full + 1]

    def will_publish(self, key: Key) -> bool:
        """Whether a page whose rows have still to run is going to be this one."""
        return key in self._keys[1 + self._published :]

    def adopt(self, pages: list[int]) -> int:
        """Begin with `pages`, which others filled; how many positions they hold."""
        if self._pages:
            raise InternalError("only an empty page table can take over pages")
        self._allocator.share(pages)
        self._pages = list(pages)
        self._published = len(pages)
        self.row = np.array(self._pages, np.int32)
        return len(pages) * self._page_size

    def publish(self, window: Sequence[int], positions: int) -> None:
        """The first `positions` of `window` have run: others may take over the full pages."""
        full = positions // self._page_size
        if full <= self._published:
            return
        keys = self.keys(window, positions)
        for index in range(self._published, full):
            self._allocator.publish(self._pages[index], keys[index])
        self._published = full

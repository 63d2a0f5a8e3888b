"""Merges out of the order of the pieces, and the greedy merging that scores define."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from alpage.core.errors import FormatError

MAX_MERGES = 1 << 21
"""Most merges that a vocabulary may have; the largest of the family has some 600,000."""


def recover_merges(pieces: Iterable[str], alphabet: Iterable[str] = ()) -> list[tuple[str, str]]:
    """Merges, in order of priority, that build the best piece first on every text.

    `pieces` come best first; those in `alphabet` are known, but are never built. tiktoken and
    SentencePiece merge the adjacent pair whose concatenation is the best piece, the leftmost
    first. Here every way to split a piece into two others becomes a merge, at the piece's rank.
    That is the same, although a piece's splits get different priorities: while a piece's span is
    being built, no merge crosses its borders (else the piece could not appear), so the merges
    inside run as they would on the piece alone, and end in one and the same last pair. No other
    split of that piece is ever met. `FormatError` for more than `MAX_MERGES`.
    """
    pieces = list(pieces)
    known = {piece: piece for piece in (*alphabet, *pieces)}
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        for cut in range(1, len(piece)):
            left = known.get(piece[:cut])
            if left is not None and (right := known.get(piece[cut:])) is not None:
                merges.append((left, right))  # `known` gives the one copy of each text
        if len(merges) > MAX_MERGES:
            raise FormatError(f"the vocabulary has more than {MAX_MERGES} merges")
    return merges


def merges_of(ordinary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]] | None:
    """Ranked merges that equal merging by score on every text, or None where there are none.

    `ordinary`: the pieces and their ids, `scores` by id. Pieces with one score in common are
    merged leftmost first, which ranks cannot say, but for one case that real vocabularies have
    (Llama 2, for indentation): runs of one character. There the leftmost run grows while it can,
    and so it does when the longest piece has the best rank.
    """
    ranked = [piece for piece in ordinary if len(piece) > 1]
    # A character without a piece of its own is a symbol all the same, but not for ranked merges.
    missing = {char for piece in ranked for char in piece} - ordinary.keys()
    ranked.sort(key=lambda piece: (-scores[ordinary[piece]], -len(piece)))
    merges = recover_merges(ranked, [*(p for p in ordinary if len(p) == 1), *missing])
    built: set[str] = set()
    met = []
    for left, right in sorted(merges, key=lambda pair: len(pair[0]) + len(pair[1])):
        # Pieces whose parts are never built either do not count.
        if all(len(part) == 1 or part in built for part in (left, right)):
            built.add(left + right)
            met.append((left, right))
    if missing and any(not missing.isdisjoint(piece) for piece in built):
        return None
    shared = Counter(scores[ordinary[piece]] for piece in built)
    tied = {piece for piece in built if shared[scores[ordinary[piece]]] > 1}
    if any(piece != piece[0] * len(piece) for piece in tied):
        return None
    for left, right in met:
        whole = left + right
        for part in (left, right):
            if part in tied or (whole in tied and len(part) > 1):
                # A run grows out of single characters alone, and into nothing but longer runs.
                same = {part, whole} <= tied
                if not same or scores[ordinary[part]] != scores[ordinary[whole]]:
                    return None
    return merges


def merge_by_score(symbols: Sequence[str], scores: Mapping[str, float]) -> list[str]:
    """Merge adjacent symbols while their concatenation is in `scores`, the highest score first.

    Among equal scores the leftmost pair goes first. This is SentencePiece's BPE.
    """

    def priority(left: str, right: str) -> float | None:
        score = scores.get(left + right)
        return None if score is None else -score

    return merge(symbols, priority)


def merge_by_rank(symbols: Sequence[str], ranks: Mapping[str, int]) -> list[str]:
    """Merge adjacent symbols while `ranks` has them with a space between, the lowest rank first."""
    return merge(symbols, lambda left, right: ranks.get(f"{left} {right}"))


def merge(symbols: Sequence[str], priority: Callable[[str, str], float | None]) -> list[str]:
    """Merge adjacent symbols that have a priority, the lowest first, in n log n steps.

    Among equal ones the leftmost pair goes first.
    """
    parts: list[str] = list(symbols)
    size = len(parts)
    following = [*range(1, size), -1] if size else []
    before = list(range(-1, size - 1))
    queue: list[tuple[float, int, str, str]] = []

    def consider(left: int, right: int) -> None:
        if left >= 0 and right >= 0:
            order = priority(parts[left], parts[right])
            if order is not None:
                heapq.heappush(queue, (order, left, parts[left], parts[right]))

    for left in range(size - 1):
        consider(left, left + 1)
    while queue:
        _, left, first, second = heapq.heappop(queue)
        right = following[left]
        # Entries of pairs that have changed since are void; a merged symbol is empty.
        if right < 0 or parts[left] != first or parts[right] != second:
            continue
        parts[left], parts[right] = first + second, ""
        following[left] = beyond = following[right]
        if beyond >= 0:
            before[beyond] = left
        consider(before[left], left)
        consider(left, beyond)
    return [part for part in parts if part]

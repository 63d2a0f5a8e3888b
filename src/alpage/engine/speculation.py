"""Drafts of what comes next, and when running them along pays.

A draft is verified, never trusted: its tokens run as further rows of the same step, each row is
sampled as it would be alone, and the answer goes on from the first token that differs. So the
answer is the same token for token, sampled or greedy, with the same seed. That is rejection
sampling (Leviathan et al. 2023, arXiv:2211.17192) for drafts without probabilities: a drafted
token is accepted exactly as often as the model would have sampled it.
"""

from collections.abc import Sequence

_GRAM = 3
_LONGEST_MATCH = 16
_MOST = 15
_FADING = 0.9
_FIRST_GUESS = {3: 0.4, 4: 0.6, 8: 0.8, _LONGEST_MATCH: 0.9}


class NgramLookup:
    """What followed when the newest tokens stood in the text before ("prompt lookup").

    LLMA (Yang et al. 2023, arXiv:2304.04487). How often the guess was right is counted by the
    length of the match, whether or not a draft was made of it.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._match: int | None = None  # where the text goes on that looked like the newest tokens
        self._hits = dict(_FIRST_GUESS)
        for token in tokens:
            self._add(token)

    def _add(self, token: int) -> None:
        self._tokens.append(token)
        end = len(self._tokens)
        gram = tuple(self._tokens[-_GRAM:])
        self._match = self._after.get(gram) if end >= _GRAM else None
        self._after[gram] = end

    def append(self, token: int) -> None:
        """Take the next token of the text, and count whether it was the guess."""
        if self._match is not None:
            kind = self._kind_of_match()
            hit = self._tokens[self._match] == token
            self._hits[kind] = _FADING * self._hits[kind] + (1 - _FADING) * hit
        self._add(token)

    def _kind_of_match(self) -> int:
        """The length of the match, as one of the lengths that are told apart."""
        assert self._match is not None
        length = _GRAM
        here, there = len(self._tokens) - _GRAM, self._match - _GRAM
        while (
            length < _LONGEST_MATCH
            and there > 0
            and self._tokens[there - 1] == self._tokens[here - 1]
        ):
            length, here, there = length + 1, here - 1, there - 1
        return max(kind for kind in self._hits if kind <= length)

    @property
    def chance(self) -> float:
        """How likely the guess is right; 0 without one."""
        return 0.0 if self._match is None else self._hits[self._kind_of_match()]

    def draft(self, count: int) -> list[int]:
        """The next `count` tokens if the text repeats itself; none where nothing matches."""
        if self._match is None:
            return []
        found = self._tokens[self._match : self._match + count]
        period = len(self._tokens) - self._match  # a loop goes on beyond the end
        while len(found) < count:
            found.append(found[len(found) - period])
        return found


class StepCost:
    """Seconds of a step by its rows, learnt from the steps: a straight line that forgets.

    Until steps of different sizes have been seen a further row is taken to cost 0.2 of a step of
    one row.
    """

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """A step of `rows` took `seconds`."""
        fading = 0.98
        self._weight = fading * self._weight + 1
        self._rows = fading * self._rows + rows
        self._seconds = fading * self._seconds + seconds
        self._squares = fading * self._squares + rows * rows
        self._products = fading * self._products + rows * seconds

    def seconds(self, rows: int) -> float | None:
        """What a step of `rows` takes; None before the first one."""
        if not self._weight:
            return None
        mean_rows = self._rows / self._weight
        relative = 1 + self.marginal(round(mean_rows)) * (rows - mean_rows)
        return self._seconds / self._weight * max(relative, 0.1)

    def marginal(self, rows: int) -> float:
        """What one row more than `rows` costs, as a share of the step of `rows`."""
        share = 0.2 / (0.8 + 0.2 * rows)
        if not self._weight:
            return share
        mean_rows, mean = self._rows / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - mean_rows**2
        if variance < 0.05 or mean <= 0:
            return share
        slope = (self._products / self._weight - mean_rows * mean) / variance
        step = mean + slope * (rows - mean_rows)
        # Noise can make a step look free, or dearer by the row than a step of one row.
        return min(max(slope / step, 0.01), 1.0) if step > 0 else share


class Trust:
    """How often a draft model is right about one answer, as far as that was seen.

    Without drafts it drifts back to where a draft is tried again.
    """

    def __init__(self) -> None:
        self.chance = 0.7

    def observe(self, right: bool) -> None:
        """The next guess was checked."""
        self.chance = _FADING * self.chance + (1 - _FADING) * right

    def rest(self) -> None:
        """A token was sampled without any guess."""
        self.chance += 0.005 * (0.7 - self.chance)


def draft_length(
    chance: float, rows: int, tokens: float, cost: StepCost, most: int, writing: float = 0.0
) -> int:
    """How many tokens to draft: as long as one more raises the expected tokens per second.

    With each token right with probability `chance`, n of them give c + c^2 + ... + c^n tokens more
    (Leviathan et al., equation 1); one more pays if its share in the step's tokens is above its
    share in the step's time. `rows` and `tokens` (expected) are those of the step without this
    draft, of all who run. `writing` is what it takes to write one token of the draft, as a share of
    the step.
    """
    next_one = chance
    for length in range(min(most, _MOST)):
        if next_one / tokens <= cost.marginal(rows + length) + writing:
            return length
        tokens += next_one
        next_one *= chance
    return max(0, min(most, _MOST))

"""How many rows of prompts run beside answers, so that answers keep coming in time."""

_URGE = 4
"""Rows of prompts for each answer, more than one, by how many wait for each that is written."""
_MOST_SHARE = 4
"""The most of them."""


class Pace:
    """The chunk of prompt rows in a step that also holds answers, from how long steps took.

    `target` is the time between two tokens of an answer, in seconds, that 95 % of the steps
    should keep; `most` bounds the rows. A step that took too long makes the next chunk smaller, by
    a tenth at least; one that kept the target makes it larger by 0.3 %, or more where much time
    was left. So about one step in thirty is too long. Attention over long prompts, other
    programs and slower machines are all in what a step took. At least `least` rows run, so a
    prompt ends even where the answers alone take longer than the target. Where they take more than
    half of it, prompts get as much time as they do, and a row at least for each of theirs, up to
    four where many wait: else those who wait for a first token would queue up behind those who
    have one.
    """

    def __init__(self, target: float, *, most: int, least: int = 16) -> None:
        self._target = target
        self._most = most
        self._least = min(least, most)
        self._rows: float = min(64, most)
        self._crowded = False

    def rows(self, answers: int, waiting: int) -> int:
        """Rows of prompts for the next step with `answers` rows; `waiting` for a first token."""
        if not self._crowded:
            return int(self._rows)
        # By rows, as the time that answers take alone is not seen while prompts run all the time.
        share = min(1 + _URGE * waiting / max(1, answers), _MOST_SHARE)
        return min(max(int(self._rows), int(share * answers)), self._most)

    def observe(self, answers: int, prompts: int, seconds: float, alone: float = 0.0) -> None:
        """A step of `answers` and `prompts` rows took `seconds`; the answers `alone` would take."""
        if prompts < self._least or seconds <= 0:
            return
        self._crowded = 2 * alone > self._target
        left = max(self._target, 2 * alone) / seconds
        if not answers:  # the first prompt tells what a row costs
            self._set(min(self._rows, 0.6 * prompts * left))
        elif left < 1:
            self._set(min(self._rows, prompts) * max(0.5, min(0.9, left)))
        elif prompts >= int(self._rows):
            self._set(self._rows * min(1.25, max(1.003, 0.6 * left)))

    def _set(self, rows: float) -> None:
        self._rows = min(max(rows, float(self._least)), float(self._most))

"""Stop strings over streamed text."""

from collections.abc import Iterable

from alpage.core.errors import UsageError

_MAX_STOPS = 16
_MAX_LENGTH = 512


class StopStrings:
    """Cuts streamed text before the stop string that is complete first.

    Of stop strings that become complete with the same character the longest counts. The result is
    the same however the text is divided into pushes, and no character is given out while it may
    still be the beginning of a stop string.
    """

    def __init__(self, stops: str | Iterable[str] | None = ()) -> None:
        strings = [stops] if isinstance(stops, str) else list(stops or ())
        for stop in strings:
            if not isinstance(stop, str):
                raise UsageError(f"a stop string must be text, not {type(stop).__name__}")
            if not stop:
                raise UsageError("a stop string must not be empty")
            if len(stop) > _MAX_LENGTH:
                raise UsageError(
                    f"a stop string has {len(stop)} characters; at most {_MAX_LENGTH} are allowed"
                )
        self._stops = list(dict.fromkeys(strings))
        if len(self._stops) > _MAX_STOPS:
            raise UsageError(
                f"{len(self._stops)} stop strings were given; at most {_MAX_STOPS} are allowed"
            )
        self._held = ""
        self.stopped: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Take more text; give what is safe to show, and whether a stop string was found.

        After a stop nothing more comes out; `stopped` holds the stop string that was found.
        """
        if self.stopped is not None:
            return "", True
        text = self._held + text
        found = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        if found:
            _, start, self.stopped = min(found)
            self._held = ""
            return text[:start], True
        keep = min((self._possible_start(text, stop) for stop in self._stops), default=len(text))
        self._held = text[keep:]
        return text[:keep], False

    def flush(self) -> str:
        """Give what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _possible_start(text: str, stop: str) -> int:
        """Where the longest end of `text` that begins `stop` starts; len(text) if none."""
        start = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while start >= 0:
            if stop.startswith(text[start:]):
                return start
            start = text.find(stop[0], start + 1)
        return len(text)

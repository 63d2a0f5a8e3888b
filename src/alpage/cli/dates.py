"""Days and times as people write and read them, all in UTC."""

import datetime
import re
import time

from alpage.core.errors import UsageError

_DAYS = 36_500


def day(option: str, text: str | None) -> datetime.date | None:
    """A day like 2027-01-31; UsageError for anything else."""
    if text is None:
        return None
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError:
        raise UsageError(f"{option} takes a day like 2027-01-31, not {text!r}") from None


def expiry(text: str | None) -> float | None:
    """The time, in seconds since 1970, of "30d" (from now) or "2027-01-31" (at its end)."""
    if text is None:
        return None
    days = re.fullmatch(r"([0-9]{1,9})d", text)
    if days is None:
        last = day("--expires", text)
        assert last is not None
        end = datetime.datetime.combine(last, datetime.time(), datetime.UTC).timestamp() + 86_400
        if end <= time.time():
            raise UsageError(f"--expires {text} has passed")
        return end
    if not 1 <= int(days[1]) <= _DAYS:
        raise UsageError(f"--expires takes 1d to {_DAYS}d, or a day like 2027-01-31, not {text}")
    return time.time() + int(days[1]) * 86_400


def moment(seconds: float | None) -> str | None:
    """A time as ISO 8601, to the second."""
    if seconds is None:
        return None
    when = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return when.isoformat().replace("+00:00", "Z")

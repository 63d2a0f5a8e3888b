"""The view of `alpage top` as lines of text that fit a width."""

from collections.abc import Sequence

from alpage.cli.output import megabytes
from alpage.cli.top_numbers import ModelNumbers, Numbers

HEAD = (
    "MODEL", "RUN", "WAIT", "IN/S", "OUT/S", "TTFT", "p95", "ITL", "p95", "CACHE", "HIT", "SPEC",
    "ERR/S",
)  # fmt: skip
LEGEND = (
    "IN/S, OUT/S: tokens of prompts and answers. TTFT: time to first token; ITL: from",
    "one to the next; p50 and p95. CACHE: pages in use. HIT: prompt tokens cached.",
    "SPEC: guessed tokens that were right. ERR/S: answers with status 400 and above.",
)
_NARROWEST = 8


def server_lines(url: str, clock: str, numbers: Numbers) -> list[str]:
    """Which server, and its totals."""
    up = "" if numbers.up_seconds is None else f"  up {_span(numbers.up_seconds)}"
    return [
        f"{clock}  {url}",
        f"version {_plain(numbers.version)[:20]}{up}  memory {megabytes(numbers.memory_bytes)}"
        f"  processors {numbers.processors:.1f}",
        f"requests/s {_count(numbers.requests)}  errors/s {_count(numbers.errors)}"
        f"  refused/s {_count(numbers.refused)}  in flight {numbers.in_flight}",
    ]


def model_lines(numbers: Numbers, width: int) -> list[str]:
    """A line for each model under a head, and their totals where there are several."""
    rows = [(_plain(name), *_cells(one)) for name, one in numbers.models.items()]
    if len(rows) > 1:
        rows.append(("all", *_totals(list(numbers.models.values()))))
    return align([HEAD, *rows], width)


def align(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Columns of their widest cell, numbers to the right; the first is cut to fit `width`."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    others = sum(widths[1:]) + len(widths) - 1
    widths[0] = min(widths[0], max(_NARROWEST, width - others))
    lines = []
    for first, *rest in rows:
        name = first if len(first) <= widths[0] else first[: widths[0] - 1] + "~"
        cells = [cell.rjust(size) for cell, size in zip(rest, widths[1:], strict=True)]
        lines.append(" ".join([name.ljust(widths[0]), *cells]))
    return lines


def _plain(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)


def _cells(one: ModelNumbers) -> tuple[str, ...]:
    return (
        str(one.running),
        str(one.waiting),
        _count(one.prompt_tokens),
        _count(one.completion_tokens),
        _seconds(one.first_token.p50),
        _seconds(one.first_token.p95),
        _seconds(one.inter_token.p50),
        _seconds(one.inter_token.p95),
        _percent(one.cache_use),
        _percent(one.cache_hits),
        _percent(one.accepted),
        _count(one.errors),
    )


def _totals(models: Sequence[ModelNumbers]) -> tuple[str, ...]:
    """Sums; there is no time and no share of several models together."""
    return (
        str(sum(one.running for one in models)),
        str(sum(one.waiting for one in models)),
        _count(sum(one.prompt_tokens for one in models)),
        _count(sum(one.completion_tokens for one in models)),
        *[""] * 7,
        _count(sum(one.errors for one in models)),
    )


def _count(number: float) -> str:
    """In at most five characters: 0, 0.12, 4.5, 123, 4.5k, 123k, 1.2M."""
    if number == 0:
        return "0"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:
            value = number / size
            return f"{value:.1f}{unit}" if value < 99.95 else f"{value:.0f}{unit}"
    if number < 0.995:
        return f"{number:.2f}"
    return f"{number:.1f}" if number < 99.95 else f"{number:.0f}"


def _seconds(seconds: float | None) -> str:
    """In at most five characters: 8ms, 210ms, 1.2s, 160s."""
    if seconds is None:
        return "-"
    if seconds < 0.9995:
        milliseconds = 1000 * seconds
        return f"{milliseconds:.1f}ms" if milliseconds < 9.95 else f"{milliseconds:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 99.95 else f"{seconds:.0f}s"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"


def _span(seconds: float) -> str:
    """Days, hours and minutes, as far as there are any."""
    minutes = int(max(0.0, seconds)) // 60
    hours, days = minutes // 60, minutes // (60 * 24)
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"

"""What an engine has done so far, and how much it has to do."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Sums since the engine began. The engine's thread alone adds to them; anyone may read one."""

    steps: int = 0
    rows: int = 0
    step_seconds: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    preemptions: int = 0
    constrained: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """An engine at one moment; the sums are those since it began, restarts included.

    Read while the engine works, so two numbers may be a step apart.
    """

    alive: bool
    """Whether its thread takes requests; not after `close`, nor after a failure that ended it."""
    waiting: int
    """Requests that do not run: not begun, or put back because the cache was full."""
    running: int
    """Requests that have their pages and take part in steps."""
    pages_total: int
    pages_free: int
    """Pages that no request holds, those with reusable content included."""
    page_size: int
    """Tokens of a page."""
    requests: int
    """Requests that were submitted; one for each choice of an answer."""
    steps: int
    """Forward passes, of answers and of texts to embed."""
    rows: int
    """Tokens that ran in them, drafts included."""
    step_seconds: float
    """Seconds in them, with sampling."""
    prompt_tokens: int
    """Tokens of the prompts that have begun to run."""
    cached_tokens: int
    """Those of them that were taken over from the cache."""
    completion_tokens: int
    """Tokens of answers."""
    drafted: int
    """Tokens that were guessed and checked."""
    accepted: int
    """Those of them that were right."""
    preemptions: int
    """How often a request gave its pages back and had to wait again."""
    constrained: int
    """Requests whose answer had to follow a grammar."""
    restarts: int
    """How often an error that nobody expected ended all that ran."""
    adapters: int
    adapter_bytes: int
    """Memory of the adapters, those included that are on their way out."""

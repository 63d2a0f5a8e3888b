"""Who goes first: the order in which requests start, prompts run, and requests give way."""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, Protocol

from alpage.core.errors import UsageError

PolicyName = Literal["first-come", "priority", "fair"]


class Job(Protocol):
    """What a policy knows about a request."""

    arrival: int  # the scheduler's own count
    tenant: str
    priority: int
    weight: float


class Policy:
    """First come, first served; other policies say what they do otherwise.

    Policies may have state: each scheduler needs one of its own.
    """

    yielding = False
    """Whether `yields` can ever be true."""

    def rank(self, job: Job) -> tuple[float, ...]:
        """The smaller goes first; who ranks last gives way first. Arrivals break ties."""
        return (0, job.arrival)

    def yields(self, running: Job, waiting: Job) -> bool:
        """Whether `running` gives its place to `waiting` where there is not room for both."""
        return False

    def joined(self, job: Job) -> None:
        """Hear of a request that has been added."""
        return

    def left(self, job: Job) -> None:
        """Hear of a request that has ended."""
        return

    def served(self, job: Job, rows: int) -> None:
        """Hear that `rows` tokens of a request have run."""
        return


class ByPriority(Policy):
    """The largest `priority` first, in order of arrival among equals.

    Smaller ones give way, and wait for as long as larger ones keep coming.
    """

    yielding = True

    def rank(self, job: Job) -> tuple[float, ...]:
        """Priority, then arrival."""
        return (-job.priority, job.arrival)

    def yields(self, running: Job, waiting: Job) -> bool:
        """To a larger priority."""
        return running.priority < waiting.priority


class FairShare(Policy):
    """Tenants share the machine by weight; within one, the larger priority, then arrival.

    Virtual token counters (Sheng et al. 2024, "Fairness in Serving Large Language Models",
    arXiv:2401.00588): a tenant's counter is the rows that it was served, divided by its weight; the
    smallest goes first. Who comes back after a pause starts at the smallest counter of those
    who are here, so nobody saves up a right to flood. Beyond the paper, a running request whose
    tenant is more than `patience` ahead gives its place to a waiting one. So while a request
    waits, each other tenant is served at most `patience` times its weight, and one step, more
    than the request's own.

    A request's own weight counts, unless its tenant is in `weights`. `patience` in rows at
    weight 1.
    """

    yielding = True

    def __init__(self, weights: Mapping[str, float] | None = None, patience: int = 2048) -> None:
        self._weights = dict(weights or {})
        for tenant, weight in self._weights.items():
            if not 0 < weight < float("inf"):
                raise UsageError(f"the weight of {tenant!r} must be above 0, not {weight}")
        if patience < 0:
            raise UsageError(f"patience must be at least 0, not {patience}")
        self._patience = patience
        self._counters: dict[str, float] = {}
        self._here: Counter[str] = Counter()

    def rank(self, job: Job) -> tuple[float, ...]:
        """The tenant's counter, then priority, then arrival."""
        return (self._counters[job.tenant], -job.priority, job.arrival)

    def yields(self, running: Job, waiting: Job) -> bool:
        """When its tenant is far ahead."""
        ahead = self._counters[running.tenant] - self._counters[waiting.tenant]
        return ahead > self._patience

    def joined(self, job: Job) -> None:
        """Start, or start again, at the smallest counter of those who are here."""
        if not self._here[job.tenant]:
            least = min((self._counters[tenant] for tenant in self._here), default=0.0)
            # Counters below the smallest say nothing any more; with nobody here none does.
            past = self._counters if self._here else {}
            self._counters = {t: c for t, c in past.items() if t in self._here or c > least}
            self._counters[job.tenant] = max(self._counters.get(job.tenant, 0.0), least)
        self._here[job.tenant] += 1

    def left(self, job: Job) -> None:
        """The counter stays while others are ahead of it or behind it."""
        self._here[job.tenant] -= 1
        if not self._here[job.tenant]:
            del self._here[job.tenant]

    def served(self, job: Job, rows: int) -> None:
        """Count them, by weight."""
        self._counters[job.tenant] += rows / self._weights.get(job.tenant, job.weight)


def make_policy(name: PolicyName, weights: Mapping[str, float] | None = None) -> Policy:
    """A policy by its name; `weights` of tenants are for "fair" alone. UsageError if unknown."""
    if weights and name != "fair":
        raise UsageError(f"weights of tenants need the policy 'fair', not {name!r}")
    if name == "fair":
        return FairShare(weights)
    if name == "priority":
        return ByPriority()
    if name == "first-come":
        return Policy()
    raise UsageError(f"policy is 'first-come', 'priority' or 'fair', not {name!r}")

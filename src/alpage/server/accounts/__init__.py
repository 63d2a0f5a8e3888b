"""Keys, what each of them may use, and records of what was used."""

from typing import TYPE_CHECKING

from alpage.core.later import later
from alpage.server.accounts.caller import ANYONE, SCOPES, Caller, Limits, Scope

if TYPE_CHECKING:
    from alpage.server.accounts.access import AccessError
    from alpage.server.accounts.accounts import Accounts
    from alpage.server.accounts.keys import Key
    from alpage.server.accounts.quotas import Admission, QuotaError, Quotas
    from alpage.server.accounts.usage import Usage, UsageRecord

__all__ = [
    "ANYONE",
    "SCOPES",
    "AccessError",
    "Accounts",
    "Admission",
    "Caller",
    "Key",
    "Limits",
    "QuotaError",
    "Quotas",
    "Scope",
    "Usage",
    "UsageRecord",
]

# SQLAlchemy and Alembic take a quarter of a second to load, which help pages can do without.
__getattr__ = later(
    __name__,
    {
        "AccessError": "access",
        "Accounts": "accounts",
        "Key": "keys",
        "Admission": "quotas",
        "QuotaError": "quotas",
        "Quotas": "quotas",
        "Usage": "usage",
        "UsageRecord": "usage",
    },
)

"""The tables of keys and usage, the same in SQLite and PostgreSQL.

Times are seconds since 1970, days those of UTC. What is here is what the newest migration leaves.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

METADATA = MetaData()
VERSION_TABLE = "alpage_version"

KEYS = Table(
    "alpage_keys",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("secret_sha256", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("scopes", Text, nullable=False),  # a JSON list, as models are
    Column("models", Text),
    Column("requests_per_minute", BigInteger),
    Column("tokens_per_minute", BigInteger),
    Column("tokens_per_day", BigInteger),
    Column("concurrent", BigInteger),
    Column("weight", Double, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
)

USAGE = Table(
    "alpage_usage",
    METADATA,
    Column("id", String(32), primary_key=True),  # in order of time
    Column("day", Date, nullable=False),
    Column("time", Double, nullable=False),
    Column("call", String(100), nullable=False),
    Column("key", String(32)),
    Column("key_name", String(64), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("model", String(200)),
    Column("endpoint", String(100), nullable=False),
    Column("status", Integer, nullable=False),
    Column("finish_reason", String(100)),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("first_token_seconds", Double),
    Column("seconds", Double, nullable=False),
    Index("alpage_usage_by_day", "day", "key", "model"),
)

"""What Alembic runs: the steps, in the transaction that `open_database` holds."""

from alembic import context

from alpage.server.accounts.tables import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()

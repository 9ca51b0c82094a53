"""Alembic's entry point: runs the migrations over the connection that `bring_up_to_date` holds."""

from alembic import context

from gapray.serve.migrations import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()

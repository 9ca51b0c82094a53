"""Deleted jobs keep their row until their files are gone, and the database gets an id that its artifact store records."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column that marks deleted jobs, and the table with the database's id."""
    op.add_column("gapray_jobs", sa.Column("deleted_at", sa.Float(53)))
    database = op.create_table("gapray_database", sa.Column("id", sa.String(32), primary_key=True))
    op.bulk_insert(database, [{"id": uuid.uuid4().hex}])

"""Deleted jobs keep their row until their files are gone, and the database has a name that its artifact store knows."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the mark of deletion, and the database's own name."""
    op.add_column("gapray_jobs", sa.Column("deleted_at", sa.Float(53)))
    name = op.create_table("gapray_database", sa.Column("id", sa.String(32), primary_key=True))
    op.bulk_insert(name, [{"id": uuid.uuid4().hex}])

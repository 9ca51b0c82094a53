"""Jobs, webhooks and API keys: the schema from before there were migrations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables in an empty database."""
    op.create_table(
        "gapray_jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("api", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("endpoint", sa.String(128), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("stage", sa.String(16), nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("making", sa.JSON, nullable=False),
        sa.Column("input", sa.JSON, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("webhook", sa.Text),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("started_at", sa.Float(53)),
        sa.Column("finished_at", sa.Float(53)),
        sa.Column("expires_at", sa.Float(53), nullable=False),
        sa.Column("wait_until", sa.Float(53)),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("tried_before", sa.Integer, nullable=False),
        sa.Column("timeout_s", sa.Float(53)),
        sa.Column("lease_owner", sa.String(64)),
        sa.Column("lease_until", sa.Float(53)),
        sa.Column("error_code", sa.String(64)),
        sa.Column("error_message", sa.Text),
        sa.Column("result", sa.JSON),
        sa.UniqueConstraint("owner", "idempotency_key"),
    )
    op.create_index("gapray_jobs_queue", "gapray_jobs", ["status", "created_at"])
    op.create_index("gapray_jobs_owner", "gapray_jobs", ["owner", "created_at", "id"])
    op.create_table(
        "gapray_webhooks",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job_id", sa.String(64), sa.ForeignKey("gapray_jobs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("next_at", sa.Float(53)),
        sa.Column("delivered_at", sa.Float(53)),
        sa.Column("last_error", sa.Text),
    )
    op.create_index("gapray_webhooks_due", "gapray_webhooks", ["next_at"])
    op.create_table(
        "gapray_api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("per_minute", sa.Integer),
        sa.Column("concurrent", sa.Integer),
        sa.Column("created_at", sa.Float(53), nullable=False),
        sa.Column("revoked_at", sa.Float(53)),
    )

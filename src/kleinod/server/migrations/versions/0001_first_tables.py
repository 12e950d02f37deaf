"""The first tables: jobs, the workers that paint them, keys, webhooks, shared secrets."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _moment(name: str, *, nullable: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """To this version."""
    _create_jobs()
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False),
        sa.Column("max_concurrent", sa.Integer()),
        sa.Column("requests_per_minute", sa.Integer()),
        _moment("created_at"),
        _moment("revoked_at", nullable=True),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("machine", sa.String(200), nullable=False),
        sa.Column("process", sa.String(64), nullable=False),
        _moment("lease_until"),
    )
    op.create_table(
        "webhooks",
        sa.Column("job_id", sa.String(32), primary_key=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _moment("due_at"),
        sa.Column("last_error", sa.Text()),
    )
    op.create_index("ix_webhooks_due_at", "webhooks", ["due_at"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("value", sa.LargeBinary(), nullable=False),
    )


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("key_id", sa.String(16), nullable=False),
        sa.Column("api", sa.String(16), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("request", sa.JSON(), nullable=False),
        sa.Column("num_references", sa.Integer(), nullable=False),
        sa.Column("output_format", sa.String(8), nullable=False),
        sa.Column("output_quality", sa.Integer()),
        sa.Column("safety_tolerance", sa.Integer(), nullable=False),
        sa.Column("with_previews", sa.Boolean(), nullable=False),
        sa.Column("webhook_url", sa.Text()),
        sa.Column("webhook_secret", sa.Text()),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("worker_id", sa.String(32)),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("deaths_alone", sa.Integer(), nullable=False),
        sa.Column("is_cancelling", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("is_users_fault", sa.Boolean(), nullable=False),
        sa.Column("moderation", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        *(_moment("created_at"), _moment("queued_at")),
        *(_moment(f"{name}_at", nullable=True) for name in ("started", "finished", "expires")),
    )
    op.create_index("jobs_waiting", "jobs", ["status", "queued_at"])
    op.create_index("jobs_of_key", "jobs", ["key_id", "created_at"])
    op.create_index("jobs_of_worker", "jobs", ["worker_id"])
    op.create_index("jobs_expiring", "jobs", ["expires_at"])


def downgrade() -> None:
    """Back to nothing."""
    for name in ("jobs", "api_keys", "workers", "webhooks", "secrets"):
        op.drop_table(name)

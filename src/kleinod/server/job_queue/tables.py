"""The tables. A change here needs a migration beside it: `tests/test_server_store.py` compares."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Index, LargeBinary, String, Text, TypeDecorator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Moment(TypeDecorator[datetime]):
    """A point in time with its zone, which SQLite does not keep."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Always UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Always UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """All tables."""

    type_annotation_map = {datetime: Moment, dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012


class KeyRow(Base):
    """An API key: of the secret only its hash."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    max_concurrent: Mapped[int | None]
    requests_per_minute: Mapped[int | None]
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class WorkerRow(Base):
    """A server process that paints; its jobs are others' to take once it is dead."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    machine: Mapped[str] = mapped_column(String(200))
    process: Mapped[str] = mapped_column(String(64))
    lease_until: Mapped[datetime]


class JobRow(Base):
    """An accepted job. `deaths`: processes that died with it; alone: with nothing else running."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    key_id: Mapped[str] = mapped_column(String(16))
    api: Mapped[str] = mapped_column(String(16))
    model: Mapped[str] = mapped_column(String(200))
    request: Mapped[dict[str, Any]]
    num_references: Mapped[int]
    output_format: Mapped[str] = mapped_column(String(8))
    output_quality: Mapped[int | None]
    safety_tolerance: Mapped[int]
    with_previews: Mapped[bool]
    webhook_url: Mapped[str | None] = mapped_column(Text)
    webhook_secret: Mapped[str | None] = mapped_column(Text)

    status: Mapped[str] = mapped_column(String(24))
    worker_id: Mapped[str | None] = mapped_column(String(32))
    attempts: Mapped[int]
    deaths: Mapped[int]
    deaths_alone: Mapped[int]
    is_cancelling: Mapped[bool]
    progress: Mapped[float]
    error: Mapped[str | None] = mapped_column(Text)
    is_users_fault: Mapped[bool]
    moderation: Mapped[list[Any]]
    results: Mapped[list[Any]]
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]

    __table_args__ = (
        Index("jobs_waiting", "status", "queued_at"),
        Index("jobs_of_key", "key_id", "created_at"),
        Index("jobs_of_worker", "worker_id"),
        Index("jobs_expiring", "expires_at"),
    )


class WebhookRow(Base):
    """A message that is owed to a job's webhook."""

    __tablename__ = "webhooks"

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    attempts: Mapped[int]
    due_at: Mapped[datetime] = mapped_column(index=True)
    last_error: Mapped[str | None] = mapped_column(Text)


class SecretRow(Base):
    """Secrets that all servers on this database share, such as the one that signs URLs."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    value: Mapped[bytes] = mapped_column(LargeBinary)

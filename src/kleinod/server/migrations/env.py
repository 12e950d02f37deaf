"""Alembic's entry: runs the migrations on the connection that `database.py` hands over."""

from alembic import context

from kleinod.server.job_queue.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()

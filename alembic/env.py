"""Runs migrations: on the connection that service.database.upgrade gives, or on the configured database."""

from alembic import context
from sqlalchemy import Connection

from service.database import Database
from service.settings import Settings
from service.tables import Base


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        transactional_ddl=True,
        render_as_batch=True,  # SQLite alters a table by copying it
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("offline migrations are not supported: the database itself is the lock")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    database = Database(Settings.load().database)
    with database.engine.begin() as own:
        run(own)

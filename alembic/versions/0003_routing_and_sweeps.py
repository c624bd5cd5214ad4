"""From which IP address a series came, for routing rules; and of each sweep one run at a time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

OPEN_SWEEP = sa.text("kind = 'sweep' AND state IN ('asked', 'running')")


def upgrade() -> None:
    op.add_column("series", sa.Column("address", sa.String(length=45), nullable=True))
    # Whatever runs now, its process is of the earlier version and has been stopped.
    op.execute("UPDATE retrievals SET state = 'lost' WHERE state = 'running'")
    op.create_index("ix_retrievals_name", "retrievals", ["name"])
    op.create_index(
        "uq_retrievals_open_sweep",
        "retrievals",
        ["name"],
        unique=True,
        sqlite_where=OPEN_SWEEP,
        postgresql_where=OPEN_SWEEP,
    )


def downgrade() -> None:
    op.drop_index("uq_retrievals_open_sweep", table_name="retrievals")
    op.drop_index("ix_retrievals_name", table_name="retrievals")
    op.drop_column("series", "address")

"""Which reconstruction of an acquisition is scored, and what was retrieved from archives."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows only in INTEGER columns


def upgrade() -> None:
    # No foreign key among them: SQLite would need to copy the table, and dropping the old one would take along
    # the rows that hang on it.
    op.add_column("jobs", sa.Column("acquisition", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("suitability", sa.JSON(), nullable=True))
    op.add_column("jobs", sa.Column("chosen_series_uid", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("forced", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_index(op.f("ix_jobs_acquisition"), "jobs", ["acquisition"])
    op.create_index("ix_jobs_ended_at", "jobs", ["ended_at"])
    op.create_table(
        "retrievals",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("archive", sa.String(length=255), nullable=False),
        sa.Column("actor", sa.String(length=128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=128), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("known", sa.Integer(), nullable=False),
        sa.Column("passed_over", sa.Integer(), nullable=False),
        sa.Column("fetched", sa.Integer(), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("faults", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_retrievals")),
    )
    op.create_index("ix_retrievals_started_at", "retrievals", ["started_at"])
    op.create_index("ix_retrievals_state", "retrievals", ["state"])


def downgrade() -> None:
    op.drop_index("ix_retrievals_state", table_name="retrievals")
    op.drop_index("ix_retrievals_started_at", table_name="retrievals")
    op.drop_table("retrievals")
    op.drop_index("ix_jobs_ended_at", table_name="jobs")
    op.drop_index(op.f("ix_jobs_acquisition"), table_name="jobs")
    for name in ("forced", "chosen_series_uid", "suitability", "acquisition"):
        op.drop_column("jobs", name)

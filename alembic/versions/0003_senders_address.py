"""From which IP address a series came: routing rules may ask for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("series", sa.Column("address", sa.String(length=45), nullable=True))


def downgrade() -> None:
    op.drop_column("series", "address")

"""Add pictures

Revision ID: 2c1e5d7a9b40
Revises: f47e856b86de
Create Date: 2026-11-21 15:20:11.402113

"""

import sqlalchemy as sa
from alembic import op

# revision identifiers, used by Alembic.
revision = "2c1e5d7a9b40"
down_revision = "f47e856b86de"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("entry", sa.Column("picture", sa.String(length=40), nullable=True))


def downgrade():
    op.drop_column("entry", "picture")

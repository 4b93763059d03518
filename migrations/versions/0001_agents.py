"""
Agents and what the collector keeps about them.

Revision 0001, the first.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None

# SQLite has no type for moments, and makes identities of nothing but what it calls INTEGER (64 bits wide).
TIMESTAMP = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Go from nothing to 0001."""
    op.create_table(
        "agents",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("probe", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("interval_s", sa.Double(), nullable=False),
        sa.Column("timeout_s", sa.Double(), nullable=False),
        sa.Column("rise", sa.Integer(), nullable=False),
        sa.Column("fall", sa.Integer(), nullable=False),
        sa.Column("credential", sa.Text(), nullable=False),
        sa.Column("options", JSON, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("source_paused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("status", sa.Text(), server_default="unknown", nullable=False),
        sa.Column("status_due", TIMESTAMP, nullable=True),
        sa.Column("status_spool", sa.Uuid(), nullable=True),
        sa.Column("status_seq", sa.BigInteger(), nullable=True),
        sa.Column("status_reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("retired_at", TIMESTAMP, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("agents_pkey")),
        sa.CheckConstraint("source IN ('file', 'api')", name=op.f("agents_source_check")),
        sa.CheckConstraint("state IN ('active', 'paused', 'retired')", name=op.f("agents_state_check")),
        sa.CheckConstraint(
            "status IN ('unknown', 'healthy', 'degraded', 'unhealthy', 'stalled', 'timeout', 'refused', 'error', 'paused')",
            name=op.f("agents_status_check"),
        ),
        sa.CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name=op.f("agents_retired_at_check")),
        sa.UniqueConstraint("name", name=op.f("agents_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "hosts",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("hosts_pkey")),
        sa.UniqueConstraint("name", name=op.f("hosts_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "metrics",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("labels", JSON, nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("labels_digest", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("metrics_pkey")),
        sa.CheckConstraint("kind IN ('gauge', 'counter')", name=op.f("metrics_kind_check")),
        sa.UniqueConstraint("name", "kind", "labels_digest", name=op.f("metrics_name_kind_labels_digest_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "reasons",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("reasons_pkey")),
        sa.UniqueConstraint("reason", name=op.f("reasons_reason_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "status_events",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("ts", TIMESTAMP, nullable=False),
        sa.Column("from_status", sa.Text(), nullable=False),
        sa.Column("to_status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("spool_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("status_events_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("status_events_agent_id_ts_idx"), "status_events", ["agent_id", "ts"])
    op.create_table(
        "agent_schedules",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("from_ts", TIMESTAMP, nullable=False),
        sa.Column("to_ts", TIMESTAMP, nullable=True),
        sa.Column("interval_s", sa.Double(), nullable=False),
        sa.Column("offset_s", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("agent_schedules_pkey")),
        sa.CheckConstraint("state IN ('active', 'paused')", name=op.f("agent_schedules_state_check")),
        sa.CheckConstraint(
            "interval_s > 0 AND offset_s >= 0 AND offset_s < interval_s", name=op.f("agent_schedules_grid_check")
        ),
        sa.CheckConstraint("to_ts >= from_ts", name=op.f("agent_schedules_order_check")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("agent_schedules_agent_id_fkey")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("agent_schedules_agent_id_from_ts_idx"), "agent_schedules", ["agent_id", "from_ts"])
    op.create_index(
        op.f("agent_schedules_open_key"),
        "agent_schedules",
        ["agent_id"],
        unique=True,
        postgresql_where=sa.text("to_ts IS NULL"),
        sqlite_where=sa.text("to_ts IS NULL"),
    )
    op.create_table(
        "collector_sessions",
        sa.Column("id", sa.Integer(), sa.Identity(), nullable=False),
        sa.Column("uuid", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=False),
        sa.Column("last_seen_at", TIMESTAMP, nullable=False),
        sa.Column("ended_at", TIMESTAMP, nullable=True),
        sa.Column("observed_to", TIMESTAMP, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("collector_sessions_pkey")),
        sa.UniqueConstraint("uuid", name=op.f("collector_sessions_uuid_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "losses",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("from_due", TIMESTAMP, nullable=False),
        sa.Column("to_due", TIMESTAMP, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("spool_id", sa.Uuid(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("recorded_at", TIMESTAMP, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("losses_pkey")),
        sa.CheckConstraint("to_due >= from_due", name=op.f("losses_order_check")),
        sa.CheckConstraint("n >= 0", name=op.f("losses_n_check")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("losses_agent_id_from_due_idx"), "losses", ["agent_id", "from_due"])


def downgrade() -> None:
    """Go from 0001 to nothing."""
    op.drop_table("losses")
    op.drop_table("collector_sessions")
    op.drop_table("agent_schedules")
    op.drop_table("status_events")
    op.drop_table("reasons")
    op.drop_table("metrics")
    op.drop_table("hosts")
    op.drop_table("agents")

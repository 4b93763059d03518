"""
Workflows, their tasks and the messages of agents.

Revision 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

# SQLite has no type for moments, and makes identities of nothing but what it calls INTEGER (64 bits wide).
TIMESTAMP = sa.DateTime(timezone=True).with_variant(sa.Integer(), "sqlite")
BIG_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Go from 0001 to 0002."""
    op.create_table(
        "workflows",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("payload", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=True),
        sa.Column("finished_at", TIMESTAMP, nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name=op.f("workflows_state_check")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("workflows_pkey")),
        sa.UniqueConstraint("name", name=op.f("workflows_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("workflows_state_created_at_idx"), "workflows", ["state", "created_at"], unique=False)
    op.create_index(op.f("workflows_type_created_at_idx"), "workflows", ["type", "created_at"], unique=False)
    op.create_table(
        "agent_capabilities",
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("details", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("added_at", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("agent_capabilities_agent_id_fkey")),
        sa.PrimaryKeyConstraint("agent_id", "name", name=op.f("agent_capabilities_pkey")),
    )
    op.create_index(op.f("agent_capabilities_name_idx"), "agent_capabilities", ["name"], unique=False)
    op.create_table(
        "agent_heartbeats",
        sa.Column("agent_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", TIMESTAMP, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("agent_heartbeats_agent_id_fkey")),
        sa.PrimaryKeyConstraint("agent_id", name=op.f("agent_heartbeats_pkey")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("priority", sa.Integer(), server_default=sa.text("100"), nullable=False),
        sa.Column("payload", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("blocked_by", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), server_default=sa.text("3"), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=True),
        sa.Column("lease_until", TIMESTAMP, nullable=True),
        sa.Column("lease", sa.Uuid(), nullable=True),
        sa.Column("due_at", TIMESTAMP, nullable=True),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=True),
        sa.Column("finished_at", TIMESTAMP, nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("lease_until IS NULL OR state = 'running'", name=op.f("tasks_lease_until_check")),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name=op.f("tasks_state_check")
        ),
        sa.CheckConstraint("(lease IS NULL) = (lease_until IS NULL)", name=op.f("tasks_lease_check")),
        sa.CheckConstraint("attempts >= 0 AND max_attempts >= 1", name=op.f("tasks_attempts_check")),
        sa.CheckConstraint("blocked_by >= 0", name=op.f("tasks_blocked_by_check")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("tasks_agent_id_fkey")),
        sa.ForeignKeyConstraint(["workflow_id"], ["workflows.id"], name=op.f("tasks_workflow_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("tasks_pkey")),
        sa.UniqueConstraint("workflow_id", "name", name=op.f("tasks_workflow_id_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "tasks_claimable_idx",
        "tasks",
        ["priority", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND blocked_by = 0"),
        sqlite_where=sa.text("state = 'pending' AND blocked_by = 0"),
    )
    op.create_index(
        "tasks_claimable_type_idx",
        "tasks",
        ["type", "priority", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending' AND blocked_by = 0"),
        sqlite_where=sa.text("state = 'pending' AND blocked_by = 0"),
    )
    op.create_index(
        "tasks_leased_idx",
        "tasks",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(op.f("tasks_agent_id_id_idx"), "tasks", ["agent_id", "id"], unique=False)
    op.create_index(op.f("tasks_state_finished_at_idx"), "tasks", ["state", "finished_at"], unique=False)
    op.create_index(op.f("tasks_state_id_idx"), "tasks", ["state", "id"], unique=False)
    op.create_index(op.f("tasks_type_created_at_idx"), "tasks", ["type", "created_at"], unique=False)
    op.create_index(op.f("tasks_workflow_id_id_idx"), "tasks", ["workflow_id", "id"], unique=False)
    op.create_table(
        "workflow_events",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("workflow_id", sa.BigInteger(), nullable=False),
        sa.Column("ts", TIMESTAMP, nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["workflow_id"], ["workflows.id"], name=op.f("workflow_events_workflow_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("workflow_events_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("workflow_events_workflow_id_id_idx"), "workflow_events", ["workflow_id", "id"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("sender_id", sa.Integer(), nullable=False),
        sa.Column("recipient_id", sa.Integer(), nullable=True),
        sa.Column("workflow_id", sa.BigInteger(), nullable=True),
        sa.Column("task_id", sa.BigInteger(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("payload", JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("delivered_at", TIMESTAMP, nullable=True),
        sa.Column("read_at", TIMESTAMP, nullable=True),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'read', 'failed')", name=op.f("messages_state_check")),
        sa.ForeignKeyConstraint(["recipient_id"], ["agents.id"], name=op.f("messages_recipient_id_fkey")),
        sa.ForeignKeyConstraint(["sender_id"], ["agents.id"], name=op.f("messages_sender_id_fkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("messages_task_id_fkey")),
        sa.ForeignKeyConstraint(["workflow_id"], ["workflows.id"], name=op.f("messages_workflow_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("messages_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("messages_created_at_idx"), "messages", ["created_at"], unique=False)
    op.create_index(
        "messages_pending_idx",
        "messages",
        ["recipient_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(op.f("messages_recipient_id_id_idx"), "messages", ["recipient_id", "id"], unique=False)
    op.create_index(op.f("messages_sender_id_id_idx"), "messages", ["sender_id", "id"], unique=False)
    op.create_index(op.f("messages_task_id_idx"), "messages", ["task_id"], unique=False)
    op.create_index(op.f("messages_workflow_id_id_idx"), "messages", ["workflow_id", "id"], unique=False)
    op.create_table(
        "subtasks",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("created_at", TIMESTAMP, nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=True),
        sa.Column("finished_at", TIMESTAMP, nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'completed', 'failed', 'cancelled')", name=op.f("subtasks_state_check")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("subtasks_task_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("subtasks_pkey")),
        sa.UniqueConstraint("task_id", "position", name=op.f("subtasks_task_id_position_key")),
        sa.UniqueConstraint("task_id", "name", name=op.f("subtasks_task_id_name_key")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "task_assignments",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", TIMESTAMP, nullable=False),
        sa.Column("ended_at", TIMESTAMP, nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('completed', 'failed', 'cancelled', 'lease_expired')",
            name=op.f("task_assignments_outcome_check"),
        ),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("task_assignments_ended_at_check")),
        sa.CheckConstraint("ended_at >= started_at", name=op.f("task_assignments_order_check")),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("task_assignments_agent_id_fkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("task_assignments_task_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("task_assignments_pkey")),
        sa.UniqueConstraint("task_id", "attempt", name=op.f("task_assignments_task_id_attempt_key")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("task_assignments_agent_id_started_at_idx"), "task_assignments", ["agent_id", "started_at"], unique=False
    )
    op.create_index(
        "task_assignments_open_key",
        "task_assignments",
        ["task_id"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(op.f("task_assignments_started_at_idx"), "task_assignments", ["started_at"], unique=False)
    op.create_table(
        "task_dependencies",
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("depends_on", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("task_id <> depends_on", name=op.f("task_dependencies_itself_check")),
        sa.ForeignKeyConstraint(["depends_on"], ["tasks.id"], name=op.f("task_dependencies_depends_on_fkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("task_dependencies_task_id_fkey")),
        sa.PrimaryKeyConstraint("task_id", "depends_on", name=op.f("task_dependencies_pkey")),
    )
    op.create_index(op.f("task_dependencies_depends_on_idx"), "task_dependencies", ["depends_on"], unique=False)
    op.create_table(
        "task_events",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("task_id", sa.BigInteger(), nullable=False),
        sa.Column("ts", TIMESTAMP, nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("agent_id", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["agents.id"], name=op.f("task_events_agent_id_fkey")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("task_events_task_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("task_events_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("task_events_task_id_id_idx"), "task_events", ["task_id", "id"], unique=False)
    op.create_table(
        "message_events",
        sa.Column("id", BIG_ID, sa.Identity(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("ts", TIMESTAMP, nullable=False),
        sa.Column("from_state", sa.Text(), nullable=True),
        sa.Column("to_state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["messages.id"], name=op.f("message_events_message_id_fkey")),
        sa.PrimaryKeyConstraint("id", name=op.f("message_events_pkey")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("message_events_message_id_id_idx"), "message_events", ["message_id", "id"], unique=False)
    op.add_column(
        "collector_sessions", sa.Column("is_collector", sa.Boolean(), server_default=sa.true(), nullable=False)
    )


def downgrade() -> None:
    """Go from 0002 to 0001."""
    op.drop_table("message_events")
    op.drop_table("task_events")
    op.drop_table("task_dependencies")
    op.drop_table("task_assignments")
    op.drop_table("subtasks")
    op.drop_table("messages")
    op.drop_table("workflow_events")
    op.drop_table("tasks")
    op.drop_table("agent_heartbeats")
    op.drop_table("agent_capabilities")
    op.drop_table("workflows")
    with op.batch_alter_table("collector_sessions", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_column("is_collector")

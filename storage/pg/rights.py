"""
Who may do what: the rights of the three roles, as a table.

The owner has what it owns. The reader may read everything that is ours, and no more. The writer may read too, and add:
what it wrote it cannot take back, because history is worth most where somebody would like it changed. It changes rows
of the registry and of the work alone: agents, their schedules, its own session, tasks, workflows and messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from storage.layout import parent, slice_from_name
from storage.model import ROLLUPS, Table, Tier
from storage.pg import provision
from storage.pg.record import RECORD_BATCH
from storage.schema import VERSION_TABLE

_ADD = frozenset({"INSERT"})
_CHANGE = frozenset({"INSERT", "UPDATE"})
_NOTHING: frozenset[str] = frozenset()

#: What the writer may do beside SELECT, by table; a new table has to be entered here.
WRITER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "agents": _CHANGE,
        # A schedule that was replaced in the moment in which it began leaves no row.
        "agent_schedules": _CHANGE | {"DELETE"},
        "agent_capabilities": _CHANGE | {"DELETE"},
        "agent_heartbeats": _CHANGE,
        "collector_sessions": _CHANGE,
        "hosts": _ADD,
        "losses": _ADD,
        "metrics": _ADD,
        "reasons": _ADD,
        "status_events": _ADD,
        "workflows": _CHANGE,
        "tasks": _CHANGE,
        "subtasks": _CHANGE,
        "task_dependencies": _ADD,
        "task_assignments": _CHANGE,
        "messages": _CHANGE,
        # What became of them, and when, is history.
        **{f"{each}_events": _ADD for each in ("workflow", "task", "message")},
        "ingest_batches": _ADD,
        "ingest_batch_days": _ADD,
        "ingest_rejections": _ADD,
        "marks": _ADD,
        "quarantine": _ADD,
        **{table.value: _ADD for table in Table},
        # Refreshes are the owner's: where raw rows have gone, a rollup is all that is left.
        **{parent(table, tier): _NOTHING for table in Table for tier in ROLLUPS},
        "horizons": _NOTHING,
        "provision_version": _NOTHING,
        VERSION_TABLE: _NOTHING,
    }
)

#: Public views.
VIEWS = provision.VIEWS | {table.relation(tier) for table in Table for tier in ROLLUPS}

#: What does with the owner's rights what a role may not, makes partitions, writes a batch: not everybody may call it.
WRITER_ROUTINES = frozenset({"make_partition", RECORD_BATCH})
ROUTINES = provision.ROUTINES | WRITER_ROUTINES

#: What sessions of the reader start with: a question that was forgotten ends, and none changes anything by mistake.
READER_SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "default_transaction_read_only": "on",
        "statement_timeout": "60s",
        # An open snapshot holds up vacuum and the drop of partitions.
        "idle_in_transaction_session_timeout": "5min",
        # The views' plans look costlier than they are: compiling one took 5 s for a query of 75 ms.
        "jit": "off",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What the roles are called."""

    owner: str
    writer: str
    reader: str

    def all(self) -> tuple[str, str, str]:
        """Return the names, the owner's first."""
        return (self.owner, self.writer, self.reader)


def is_ours(relation: str) -> bool:
    """Tell whether the table or view *relation* is part of fleetpulse, partitions included."""
    return relation in WRITER or relation in VIEWS or _table_of(relation) is not None


def may(names: Names, relation: str) -> dict[str, frozenset[str]]:
    """Return what writer and reader may do with *relation*, by role; a partition is as the table that it is a part of."""
    added = WRITER.get(_table_of(relation) or relation, _NOTHING)
    return {names.reader: frozenset({"SELECT"}), names.writer: added | {"SELECT"}}


def _table_of(name: str) -> str | None:
    """Return the table that the partition *name* is a part of, ``None`` when it is none."""
    for table in Table:
        for tier in Tier:
            if slice_from_name(table, tier, name) is not None:
                return parent(table, tier)
    return None

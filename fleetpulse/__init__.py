"""
fleetpulse: a health and metrics pipeline for fleets of agents.

What notebooks need stands here; the parts live in ``collector``, ``reports``, ``rollups`` and ``storage``.
"""

from __future__ import annotations

from fleetpulse.sample import sample_fleet
from fleetpulse.settings import Settings, load_settings
from reports.catalogue import CATALOGUE
from reports.definition import UnknownReport, UnknownValue
from reports.run import Report
from reports.run import run as report
from storage.client_rows import HealthCheck, Sample
from storage.database import DatabaseManager
from storage.embedded import EmbeddedServer
from storage.errors import (
    CapabilityMissing,
    DependencyCycle,
    DuplicateName,
    FleetpulseError,
    IllegalTransition,
    InputError,
    InvalidWindow,
    LeaseLost,
    NotRolledUp,
    OutcomeUnknown,
    PermanentStorageError,
    SchemaMismatch,
    SettingsError,
    StaleVersion,
    StorageError,
    TransientStorageError,
    UnknownName,
)
from storage.model import AgentSpec, Outcome, Table, Tier, Window
from storage.open import open_store
from storage.repositories import MessageSpec, TaskSpec, WorkflowSpec
from storage.service import PersistenceService
from storage.store import Rows, Store

__all__ = [
    # reports
    "CATALOGUE",
    # agents and their work
    "AgentSpec",
    "CapabilityMissing",
    "DatabaseManager",
    # errors
    "DependencyCycle",
    "DuplicateName",
    # storage
    "EmbeddedServer",
    "FleetpulseError",
    "HealthCheck",
    "IllegalTransition",
    "InputError",
    "InvalidWindow",
    "LeaseLost",
    "MessageSpec",
    "NotRolledUp",
    "Outcome",
    "OutcomeUnknown",
    "PermanentStorageError",
    "PersistenceService",
    "Report",
    "Rows",
    "Sample",
    "SchemaMismatch",
    # settings
    "Settings",
    "SettingsError",
    "StaleVersion",
    "StorageError",
    "Store",
    "Table",
    "TaskSpec",
    "Tier",
    "TransientStorageError",
    "UnknownName",
    "UnknownReport",
    "UnknownValue",
    "Window",
    "WorkflowSpec",
    "load_settings",
    "open_store",
    "report",
    # a history to try it on
    "sample_fleet",
]

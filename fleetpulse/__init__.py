"""
fleetpulse: a health and metrics pipeline for fleets of agents.

What notebooks need stands here; the parts live in ``collector``, ``reports``, ``rollups`` and ``storage``.
"""

from __future__ import annotations

from fleetpulse.sample import sample_fleet
from fleetpulse.settings import Settings, load_settings
from reports.catalogue import CATALOGUE
from reports.run import Report
from reports.run import run as report
from storage.client_rows import HealthCheck, Sample
from storage.database import DatabaseManager
from storage.embedded import EmbeddedServer
from storage.errors import (
    DependencyCycle,
    DuplicateName,
    FleetpulseError,
    IllegalTransition,
    InputError,
    LeaseLost,
    NotRolledUp,
    StaleVersion,
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
    "LeaseLost",
    "MessageSpec",
    "NotRolledUp",
    "Outcome",
    "PersistenceService",
    "Report",
    "Rows",
    "Sample",
    # settings
    "Settings",
    "StaleVersion",
    "Store",
    "Table",
    "TaskSpec",
    "Tier",
    "TransientStorageError",
    "UnknownName",
    "Window",
    "WorkflowSpec",
    "load_settings",
    "open_store",
    "report",
    # a history to try it on
    "sample_fleet",
]

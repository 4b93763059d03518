"""
fleetpulse: a health and metrics pipeline for fleets of agents.

What notebooks need stands here; the parts live in ``collector``, ``reports``, ``rollups`` and ``storage``.
"""

from __future__ import annotations

from fleetpulse.settings import Settings, load_settings
from reports.catalogue import CATALOGUE
from reports.run import Report
from reports.run import run as report
from storage.embedded import EmbeddedServer
from storage.errors import FleetpulseError
from storage.model import Outcome, Table, Tier, Window
from storage.open import open_store
from storage.store import Rows, Store

__all__ = [
    # reports
    "CATALOGUE",
    # storage
    "EmbeddedServer",
    "FleetpulseError",
    "Outcome",
    "Report",
    "Rows",
    # settings
    "Settings",
    "Store",
    "Table",
    "Tier",
    "Window",
    "load_settings",
    "open_store",
    "report",
]

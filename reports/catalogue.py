"""
The reports that there are: what each answers, what it may be asked for, and what its columns mean.

``docs/reports.md`` defines every column; the statement of a report is the file of its name in ``reports/sql``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from reports.cost_reports import COST
from reports.definition import Definition, UnknownReport, suggestion
from reports.health_reports import HEALTH
from reports.work_reports import WORK
from storage.errors import shown
from storage.names import is_name

#: Every report by its name, in alphabetical order.
CATALOGUE: Mapping[str, Definition] = MappingProxyType(
    {each.name: each for each in sorted((*HEALTH, *COST, *WORK), key=lambda each: each.name)}
)


def definition(name: object) -> Definition:
    """
    Return the report called *name*.

    Raises:
        UnknownReport: There is none; the message names the nearest.
    """
    found = CATALOGUE.get(name) if isinstance(name, str) else None
    if found is None:
        asked = f'"{name}"' if is_name(name) else shown(name)
        raise UnknownReport(f"report {asked} does not exist: {suggestion(asked, list(CATALOGUE))}")
    return found

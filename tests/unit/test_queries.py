"""
Files of named statements: read right, and nothing in them that nobody uses.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.catalogue import CATALOGUE
from storage.queries import load

ENGINE_NAMES = ("postgresql", "timescaledb", "sqlite")
ROOT = Path(__file__).parents[2]
FILES = sorted(
    (package, path) for package in ("storage", "reports") for path in (ROOT / package / "sql").rglob("*.sql")
)
#: Files of which every statement is executed.
WHOLE = {"series_views", "work_views"}
#: Names that are put together: ``health_from_raw`` and its kin, and the name of a report.
COMPUTED = {f"{family}_from_{below}" for family in ("health", "samples") for below in ("raw", "tier")}
#: What a report's file may name: the report, and one engine's own form of it.
REPORTS = {name: {name, *(f"{name}_{engine}" for engine in ENGINE_NAMES)} for name in CATALOGUE}


@pytest.mark.parametrize(("package", "path"), FILES, ids=lambda part: part if isinstance(part, str) else part.stem)
def test_every_statement_is_used(package: str, path: Path) -> None:
    """Each statement is named in the code of its package, or is a report of that name."""
    sources = "\n".join(source.read_text(encoding="utf-8") for source in (ROOT / package).rglob("*.py"))
    names = load(package, str(path.relative_to(ROOT / package)))

    assert names
    for name in names:
        used = f'"{name}"' in sources or name in COMPUTED or path.stem in WHOLE
        used = used or (package == "reports" and name in REPORTS[path.stem])
        assert used, f"{path.name} names {name}, which nobody uses"


def test_statements_come_without_comments() -> None:
    """What is executed holds neither headings nor the comment lines below them."""
    statements = load("storage", "sql/postgresql/ledger.sql")

    assert set(statements) == {"days", "purge"}
    assert all("-- " not in statement for statement in statements.values())

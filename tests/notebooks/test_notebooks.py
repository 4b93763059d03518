"""
The notebooks run from top to bottom without a word on stderr, find what is there, and are kept without outputs.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from notebooks.pictures import IMAGES, NOTEBOOKS, ROOT, execute, figures, stripped

#: What each notebook finds, as patterns: whatever the sample is like, these hold.
FINDINGS = {
    "01_quick_start": (
        r"sqlite: 2026-06-03 12:00 to 2026-06-05 12:00 UTC",
        r"agents of type researcher spent \d\d% of [\d,]+",
        r"nothing lost, nothing doubled: True",
        r"480 rows, \d+ kB, the same again: True",
    ),
    "02_fleet_health_review": (
        r"sqlite: 2026-06-02 00:00 to 2026-06-05 00:00 UTC",
        r"the least coverage was 100.00%",
        r"host-b will be full on 2026-06-\d\d \(r2 1.00\)",
    ),
    "03_workflow_cost_analysis": (
        r"sqlite: 2026-06-03 12:00 to 2026-06-05 12:00 UTC",
        r"attributed \+ unattributed = measured: True",
        r"research took \d\d% of [\d,]+",
        r"sample by sample against the report: [+-][0-5]\.\d%",
    ),
}
#: Of a picture, in the repository and on a reader's line.
MAX_BYTES = 150_000
PAGE = ROOT / "docs" / "notebooks.md"


def test_there_are_three_notebooks() -> None:
    """None is run without being looked at."""
    assert [path.stem for path in NOTEBOOKS] == list(FINDINGS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_kept_stripped(path: Path) -> None:
    """No outputs, no counts, nothing that an editor or a machine left, a description in front, cells with names."""
    text = path.read_text(encoding="utf-8")
    cells = json.loads(text)["cells"]

    assert text == stripped(text), f"{path.name} has more than its text: run make notebooks"
    assert cells[0]["cell_type"] == "markdown"
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", cell["id"]) for cell in cells)
    assert not any(cell["metadata"] or cell.get("outputs") or cell.get("execution_count") for cell in cells)


def test_stripping_leaves_the_text_alone() -> None:
    """What Jupyter adds goes, what a person wrote stays."""
    path = NOTEBOOKS[0]
    kept = path.read_text(encoding="utf-8")
    notebook = json.loads(kept)
    notebook["metadata"]["kernelspec"]["name"] = "mine"
    notebook["metadata"]["widgets"] = {}
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["metadata"] = {"scrolled": True}
    code["execution_count"] = 7
    code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["seen\n"]}]

    assert stripped(json.dumps(notebook)) == kept


@pytest.mark.takes_long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_clean(path: Path, tmp_path: Path) -> None:
    """On its generated fleet: no error or warning, the findings that must be, those of the page, every picture."""
    notebook = execute(path, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = [line for output in outputs if output.get("name") == "stdout" for line in output.text.splitlines()]
    drawn = dict(figures(path, notebook))
    told = _findings(path)

    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    for pattern in FINDINGS[path.stem]:
        assert any(re.fullmatch(pattern, line) for line in printed), f"{pattern} is not among {printed}"
    assert sorted(drawn) == sorted(each.name for each in IMAGES.glob(f"{path.stem[3:]}-*.png"))
    for name, png in drawn.items():
        kept = (IMAGES / name).read_bytes()
        assert len(kept) <= MAX_BYTES
        assert _size(kept) == pytest.approx(_size(png), abs=3), f"{name} is another picture: run make notebooks"
        assert f"](images/{name})" in PAGE.read_text(encoding="utf-8")
    assert told
    assert [line for line in told if line not in printed] == [], f"{PAGE.name} says what {path.name} does not"
    assert list(tmp_path.iterdir()) == []


def _findings(path: Path) -> list[str]:
    """Return what the page quotes of the notebook at *path*."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"(../notebooks/{path.name})")
    blocks = re.findall(r"^```text\n(.*?)^```$", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def _size(png: bytes) -> tuple[int, int]:
    """Return width and height of a PNG in pixels."""
    width, height = struct.unpack(">II", png[16:24])
    return width, height

"""
The story of the documentation, on every engine: the same numbers each time.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.each_kind

ROOT = Path(__file__).parents[2]

#: What a reader can work out: three agents, fifty-one minutes, four tasks, one of which was tried three times.
TOLD = (
    # A circle, a final state, and a lease that another one has by now.
    "refused: dependencies would go round in a circle, expected none: task 1 (outline) waits for task 4 (draft)",
    "refused: task 1 (outline) cannot go from completed to failed, expected nothing, completed is final",
    "refused: task 2 (sources) ",
    "outline: 1 attempts, pending > running > completed\n",
    "sources: 2 attempts, pending > running > pending > running > completed\n",
    "figures: 2 attempts, pending > running > failed > pending > running > completed\n",
    "draft: 1 attempts, pending > running > completed\n",
    # 46 of 51 minutes.
    "writer-2 llm 120 46 5 69 0 0 0 0.9019607843137255 0.425\n",
    # Three tries of writer-1 at two tasks of research, one of them failed; the one of writer-2 was lost.
    "research writer-1 3 2 1 0 0.3333333333333333 0.6666666666666666 no figures for December\n",
    # 120 tokens a minute: of 51 minutes the first 9 are before writer-1's first task.
    "annual-report report workflow tokens 1 5040.0 0.8235294117647058 6120.0\n",
    "None None unattributed tokens 1 1080.0 0.17647058823529413 6120.0\n",
    # 6 + 10 + 20 + 12 minutes of work, 6 and 30 and 12 on the way that takes longest.
    " 3060.0 4080.0 6 2 1.3333333333333333 2880.0 outline > sources > draft\n",
    "\n6120 tokens in 51 minutes, 6 runs of 4 tasks\n",
    "\ndraft      1440.0\nfigures    2400.0\nsources    1200.0\n",
)


def test_story_is_the_same_on_every_engine(empty_database_url: str, tmp_path: Path) -> None:
    """Agents, workflow, tasks, messages, health, every report and frames, as the documentation tells it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "docs/story.py"), empty_database_url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert (done.returncode, done.stderr[-3000:]) == (0, "")
    assert [line for line in TOLD if line not in done.stdout] == []

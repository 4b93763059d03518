"""
README.md and docs/*.md as people follow them: what is marked to be run is run, in order, and nothing escapes by a typo.

Blocks of one file share a folder, an environment and a ``FLEETPULSE_HOME``:

- ``bash run`` runs under ``bash -euo pipefail`` with the virtual environment first on PATH;
- ``python run`` runs in the interpreter of the virtual environment;
- ``sql run`` runs on the embedded database of that home, as the reader would paste it into psql.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from storage.embedded import EmbeddedServer

ROOT = Path(__file__).parents[2]
#: The longest example runs the daemon for some seconds.
TIMEOUT_S = 300

KNOWN = frozenset(
    {"bash", "bash run", "python", "python run", "sql", "sql run", "toml", "text", "ini", "promql", "json", "yaml"}
)
DOCUMENTS = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")] if path.exists())

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block of code."""

    path: Path
    #: Line of its fence, from 1.
    line: int
    #: What follows the fence.
    info: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)} line {self.line}"


def blocks(path: Path) -> Iterator[Block]:
    """Yield the fenced blocks of *path*, in order."""
    fence, info, start, indent = "", "", 0, 0
    body: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = _FENCE.match(line)
        if not fence and found:
            fence, info, start, indent = found["fence"], found["info"].strip(), number, len(found["indent"])
            body = []
        elif fence and line.strip() == fence:
            yield Block(path=path, line=start, info=info, text="\n".join(body) + "\n")
            fence = ""
        elif fence:
            body.append(line[indent:] if line[:indent].isspace() else line)
    assert not fence, f"{path} line {start}: block has no end"


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_readme_names_the_two_commands() -> None:
    """A reader of the README finds how to run it and how to test it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    assert "make run" in text
    assert "make test" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_blocks_are_of_a_known_kind(path: Path) -> None:
    """A block whose kind is misspelt would never be run; a block without a kind is shown without colours."""
    assert [f"{block}: {block.info!r}" for block in blocks(path) if block.info not in KNOWN] == []


@pytest.mark.takes_long
@pytest.mark.parametrize("path", DOCUMENTS, ids=_name)
def test_examples_run(path: Path) -> None:
    """What is marked to be run does, one block after the other."""
    marked = [block for block in blocks(path) if block.info.endswith(" run")]
    if not marked:
        return
    # Not below pytest's own folder, which it closes to other users: root's database server runs as one.
    with tempfile.TemporaryDirectory(prefix="fp-docs-") as folder:
        home = Path(folder).resolve() / "home"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETPULSE_")}
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "FLEETPULSE_HOME": str(home),
            "NO_COLOR": "1",
            # Port 0 is free on every machine.
            "FLEETPULSE_COLLECTOR_LISTEN_PORT": "0",
        }
        server = EmbeddedServer(home)
        try:
            for block in marked:
                _run(block, Path(folder), environment)
                # The first block has seen the server come and go; the others need not wait for that.
                if home.exists():
                    server.start()
        finally:
            server.stop()
            if home.exists():
                server.unpin()


def _run(block: Block, folder: Path, environment: dict[str, str]) -> None:
    if block.info == "sql run":
        _run_sql(block, Path(environment["FLEETPULSE_HOME"]))
        return
    command = ["bash", "-euo", "pipefail", "-c"] if block.info == "bash run" else [sys.executable, "-c"]
    # Whatever an example starts in the background goes to the file as well, and keeps no pipe open.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [*command, block.text],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        output.seek(0)
        said = output.read().decode(errors="replace")

    assert done.returncode == 0, f"{block} ended with exit code {done.returncode}:\n{said}"


def _run_sql(block: Block, home: Path) -> None:
    with EmbeddedServer(home) as server, psycopg.connect(server.url) as connection:
        try:
            connection.execute(block.text.encode())
        except psycopg.Error as exc:
            pytest.fail(f"{block}: {exc}")


def test_blocks_are_found(tmp_path: Path) -> None:
    """Fences of either kind, indented ones and longer ones around shorter ones are told apart."""
    path = tmp_path / "x.md"
    path.write_text(
        "a\n```bash run\nx\n```\n- b\n\n  ~~~sql\n  SELECT 1\n    AS a\n  ~~~\n````text\n```\n````\n```\ny\n```\n"
    )

    assert [(block.line, block.info, block.text) for block in blocks(path)] == [
        (2, "bash run", "x\n"),
        (7, "sql", "SELECT 1\n  AS a\n"),
        (11, "text", "```\n"),
        (14, "", "y\n"),
    ]


def test_block_without_an_end_is_refused(tmp_path: Path) -> None:
    """A fence that is never closed would swallow the rest of the document."""
    path = tmp_path / "x.md"
    path.write_text("```bash\nx\n")

    with pytest.raises(AssertionError, match="block has no end"):
        list(blocks(path))

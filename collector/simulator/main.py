"""
The process of a simulated fleet: from options to a server that listens, and to its orderly end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collector.simulator.agent import SimulatedAgent
from collector.simulator.documents import MAX_SAMPLES, MIN_SAMPLES, Writer
from collector.simulator.faults import parse_faults
from collector.simulator.log import LogError, LogWriter
from collector.simulator.manifest import Manifest, ManifestAgent
from collector.simulator.server import FleetError, FleetServer
from storage.errors import FleetpulseError, SettingsError

logger = logging.getLogger(__name__)

#: More agents than ports or descriptors would ever allow a collector to hold.
MAX_AGENTS = 50_000
#: Descriptors beside one for each agent's connection: log, loop, standard streams, reconnecting clients.
_SPARE_FILES = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOptions:
    """What ``fleetpulse fleet`` is told."""

    #: Number of agents.
    agents: int = 20
    #: Script of faults, see ``collector.simulator.faults``; empty for none.
    faults: str = ""
    #: File to which the log of what was served is appended; ``None`` for no log.
    log: Path | None = None
    #: Port that agents share; agents with a port of their own get those that follow. 0 for free ones.
    port_base: int = 0
    #: File to which the manifest is written besides standard output.
    ports_file: Path | None = None
    #: Address to listen on.
    host: str = "127.0.0.1"
    #: Samples of each answer.
    samples: int = 10
    #: Add a histogram (six samples more) to expositions.
    histogram: bool = False
    #: All values follow from it.
    seed: int = 0
    #: First part of the agents' names.
    name_prefix: str = "demo"
    #: End when standard input, a pipe, is closed: that is, when its writer ends in whatever way.
    die_with_parent: bool = False


def run(options: FleetOptions) -> None:
    """
    Serve a fleet until SIGINT or SIGTERM, or until the parent ends where *options* say so.

    Prints the manifest as one line on standard output once everything listens. Call from the main thread.

    Raises:
        SettingsError: An option is out of range, or the script of faults is malformed.
        FleetError: A port cannot be had, or the system allows too few open files.
        LogError: The log cannot be written.
    """
    agents = build_agents(options)
    if not 0 <= options.port_base <= 65_535 - sum(agent.private for agent in agents):
        raise SettingsError(f"port base is out of range: found {options.port_base}, expected 0 or a port up to 65535")
    if options.die_with_parent and not _is_pipe(sys.stdin.fileno()):
        raise SettingsError(
            "standard input is not a pipe, which --die-with-parent needs: start the fleet from a program"
        )
    _allow_files(len(agents) * 2 + _SPARE_FILES)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(options, agents))


def build_agents(options: FleetOptions) -> list[SimulatedAgent]:
    """
    Return the agents that *options* describe, in order of their numbers.

    Raises:
        SettingsError: An option is out of range, or the script of faults is malformed.
    """
    if not 1 <= options.agents <= MAX_AGENTS:
        raise SettingsError(f"number of agents is out of range: found {options.agents}, expected 1 to {MAX_AGENTS}")
    if not MIN_SAMPLES <= options.samples <= MAX_SAMPLES:
        raise SettingsError(
            f"number of samples is out of range: found {options.samples}, expected {MIN_SAMPLES} to {MAX_SAMPLES}"
        )
    if not 0 <= options.seed < 2**31:
        raise SettingsError(f"seed is out of range: found {options.seed}, expected 0 to {2**31 - 1}")
    script = parse_faults(options.faults, options.agents)
    writer = Writer(samples=options.samples, histogram=options.histogram)
    return [
        SimulatedAgent(
            number=number,
            prefix=options.name_prefix,
            width=max(4, len(str(options.agents))),
            seed=options.seed,
            faults=script.get(number, ()),
            writer=writer,
        )
        for number in range(1, options.agents + 1)
    ]


async def _serve(options: FleetOptions, agents: list[SimulatedAgent]) -> None:
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()

    def stop(error: FleetpulseError | None = None) -> None:
        if not end.done():
            if error is None:
                end.set_result(None)
            else:
                end.set_exception(error)
        elif error is not None:
            # Too late to fail, not too late to say so.
            logger.error("%s", error)

    def fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # A fleet that goes on after a bug would be judged by, and wrong.
        loop.default_exception_handler(context)
        stop(FleetError(f"BUG: {context.get('exception') or context['message']}"))

    loop.set_exception_handler(fail)
    with contextlib.ExitStack() as stack:
        log = None
        if options.log is not None:
            log = LogWriter(options.log, on_error=stop)
            stack.callback(log.close)
        about = {
            "pid": os.getpid(),
            "agents": options.agents,
            "samples": options.samples,
            "seed": options.seed,
            "faults": options.faults,
        }
        server = FleetServer(agents, host=options.host, port_base=options.port_base, log=log, about=about)
        stack.callback(server.close)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        if options.die_with_parent:
            stack.enter_context(_watch_parent(loop, stop))
        await server.open()
        _publish(options, _manifest(options, server, agents))
        # What exists now stays until the end: the collector of garbage need not look at it ever again.
        gc.freeze()
        await end


def _manifest(options: FleetOptions, server: FleetServer, agents: list[SimulatedAgent]) -> Manifest:
    return Manifest(
        base_url=server.base_url,
        pid=os.getpid(),
        started_us=server.started_us,
        seed=options.seed,
        samples=options.samples,
        agents=tuple(
            ManifestAgent(
                name=agent.name,
                endpoint=server.endpoint(agent),
                format=agent.format,
                faults=tuple(str(fault) for fault in agent.faults),
            )
            for agent in agents
        ),
    )


def _publish(options: FleetOptions, manifest: Manifest) -> None:
    text = manifest.to_json() + "\n"
    if options.ports_file is not None:
        # Renamed into place, so that whoever waits for the file never reads half of it.
        part = options.ports_file.with_name(f".{options.ports_file.name}.{os.getpid()}")
        try:
            part.write_text(text)
            part.replace(options.ports_file)
        except OSError as exc:
            raise FleetError(f"ports file {options.ports_file} cannot be written: {exc.strerror}") from exc
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as exc:
        # The interpreter would try again to write it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise FleetError("manifest cannot be written: standard output is closed") from exc


@contextlib.contextmanager
def _watch_parent(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    descriptor = sys.stdin.fileno()

    def read() -> None:
        # Nothing is said on this pipe but that its last writer is gone.
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop()

    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)


def _is_pipe(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _allow_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # Twice the agents leaves room for clients that reconnect; half of it is what a collector really holds.
    least = needed // 2 + _SPARE_FILES // 2
    if most < least:
        raise FleetError(f"fleet needs {least} open files, found a limit of {most}: raise it with ulimit -n")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        # Not made for every platform; the fleet is the same, at about half the rate.
        return None
    return uvloop.new_event_loop


__all__ = ["FleetError", "FleetOptions", "LogError", "build_agents", "run"]

"""
The HTTP side of a simulated fleet: one listening port for all agents, and one more for each whose port comes and goes.

Everything runs in the thread of one event loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from collector.simulator.agent import Answer, SimulatedAgent
from collector.simulator.connection import Connection, Request
from collector.simulator.log import LogWriter
from storage.errors import FleetpulseError

logger = logging.getLogger(__name__)

#: Connections that the kernel may hold for us: the first sweep of a large fleet arrives at once.
BACKLOG = 4_096
#: Seconds for which no connection is accepted after that failed for want of descriptors or memory.
ACCEPT_PAUSE_S = 1.0


class FleetError(FleetpulseError):
    """A simulated fleet cannot be started, or ended when it should not."""


class FleetServer:
    """
    Serves agents until it is closed.

    Attributes:
        started_us: The fleet's start, microseconds since the Unix epoch; scripts count from here.
    """

    def __init__(
        self,
        agents: Sequence[SimulatedAgent],
        *,
        host: str = "127.0.0.1",
        port_base: int = 0,
        log: LogWriter | None = None,
        about: Mapping[str, object] = MappingProxyType({}),
        wall_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        """
        Make a server that does not listen yet.

        Args:
            agents: Whom to serve.
            host: Address to listen on.
            port_base: Port of the fleet; agents with a port of their own get those that follow. 0 for free ones.
            log: Where to write what was served.
            about: What the log's ``start`` line says besides the time.
            wall_us: Clock of the log.
        """
        self._agents = agents
        self._host = host
        self._port_base = port_base
        self._ports: dict[str, int] = {}
        self._doors: list[_Door] = []
        self._log = log
        self._about = about
        self._wall_us = wall_us
        self._started_s = 0.0
        self._origin_s = 0.0
        self.started_us = 0

    async def open(self) -> None:
        """
        Listen, and let the script begin.

        Raises:
            FleetError: A port cannot be had.
        """
        shared = _Door(self, self._host, self._port_base, [agent for agent in self._agents if not agent.private])
        self._doors.append(shared)
        for place, agent in enumerate((agent for agent in self._agents if agent.private), start=1):
            port = self._port_base + place if self._port_base else 0
            self._doors.append(_Door(self, self._host, port, [agent]))
        for door in self._doors:
            for agent in door.agents:
                self._ports[agent.name] = door.port
        self._origin_s = time.monotonic()
        self.started_us = self._wall_us()
        self._started_s = self.started_us / 1e6
        if self._log is not None:
            self._log.event("start", at_us=self.started_us, **self._about)
        for door in self._doors:
            door.start()

    @property
    def base_url(self) -> str:
        """Return the URL of the port that agents share."""
        return f"http://{self._host}:{self._doors[0].port}"

    def endpoint(self, agent: SimulatedAgent) -> str:
        """Return the URL at which *agent* is meant to be polled."""
        return f"http://{self._host}:{self._ports[agent.name]}{agent.path}"

    def elapsed_s(self) -> float:
        """Return the seconds since the fleet's start, as scripts count them."""
        return time.monotonic() - self._origin_s

    def close(self) -> None:
        """Close all ports and connections; what is not answered yet is logged as such."""
        for door in self._doors:
            door.close()
        if self._log is not None and self.started_us:
            self._log.event("stop", at_us=self._wall_us())

    def answer(self, agent: SimulatedAgent, path: str) -> Answer:
        """Return what a request for *path* of *agent* is answered with now."""
        return agent.answer(path, self.elapsed_s(), self._started_s)

    def wall_us(self) -> int:
        """Return the time of the log's clock."""
        return self._wall_us()

    def served(
        self, agent: SimulatedAgent, request: Request, answer: Answer, *, size_bytes: int, done_us: int | None
    ) -> None:
        """Log one request."""
        if self._log is not None:
            self._log.request(
                agent=agent.name,
                path=request.path,
                due_us=request.due_us,
                arrived_us=request.arrived_us,
                done_us=done_us,
                fault=answer.fault,
                outcome=answer.outcome,
                status=answer.status,
                size_bytes=size_bytes,
                hop=answer.hop,
                scrape=answer.scrape,
            )

    def phase(self, agent: SimulatedAgent, from_us: int, to_us: int | None) -> None:
        """Log the beginning of a time in which the port of *agent* is closed, or its end."""
        if self._log is not None:
            self._log.event("phase", agent=agent.name, fault="refused", from_us=from_us, to_us=to_us)


class _Door:
    """One listening port and the connections that came in by it."""

    def __init__(self, server: FleetServer, host: str, port: int, agents: Sequence[SimulatedAgent]) -> None:
        self.agents = agents
        self.routes = {path: agent for agent in agents for path in agent.paths}
        self.connections: set[Connection] = set()
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._listening: socket.socket | None = None
        self._closed_us = 0
        # Held for as long as the fleet runs and never listened on: while the door is closed nobody else can be
        # given the port, and no connection to it can be given the same port at its other end (on Linux that would
        # connect it to itself).
        self._reservation = _bind(host, port)
        self._address: tuple[str, int] = self._reservation.getsockname()
        if sys.platform != "linux":
            # Elsewhere two sockets cannot share an address before one of them listens.
            self._reservation.close()

    @property
    def port(self) -> int:
        return self._address[1]

    def start(self) -> None:
        """Listen unless the script says otherwise, and wind the clock for when it does."""
        phases = [fault for agent in self.agents for fault in agent.phases()]
        if not any(phase.active(0.0) for phase in phases):
            self._listen()
        now_s = self._loop.time() - self._server.elapsed_s()
        for phase in phases:
            if phase.from_s > 0:
                self._timers.append(self._loop.call_at(now_s + phase.from_s, self._begin_phase))
            else:
                self._begin_phase()
            if math.isfinite(phase.to_s):
                self._timers.append(self._loop.call_at(now_s + phase.to_s, self._end_phase))

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._stop_listening()
        self._reservation.close()
        for connection in list(self.connections):
            connection.abandon()

    def _begin_phase(self) -> None:
        self._stop_listening()
        for connection in list(self.connections):
            connection.close_when_idle()
        self._closed_us = self._server.wall_us()
        self._server.phase(self.agents[0], self._closed_us, None)

    def _end_phase(self) -> None:
        self._server.phase(self.agents[0], self._closed_us, self._server.wall_us())
        self._listen()

    def _listen(self) -> None:
        self._listening = _bind(*self._address)
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self._loop.add_reader(self._listening, self._accept)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self) -> None:
        # Own acceptance, instead of the loop's server: its socket is closed for certain when ``close`` returns.
        for _ in range(BACKLOG):
            if self._listening is None:
                return
            try:
                accepted, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as exc:
                # Out of descriptors or memory. The connection stays with the kernel and the socket readable: asking
                # again at once would take a whole core.
                logger.warning("port %d accepts nothing for %g s: %s", self.port, ACCEPT_PAUSE_S, exc.strerror)
                self._loop.remove_reader(self._listening)
                self._timers.append(self._loop.call_later(ACCEPT_PAUSE_S, self._resume_accepting))
                return
            task = self._loop.create_task(self._connect(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _resume_accepting(self) -> None:
        if self._listening is not None:
            self._loop.add_reader(self._listening, self._accept)

    async def _connect(self, accepted: socket.socket) -> None:
        if self._listening is None:
            # The door was closed between acceptance and now.
            accepted.close()
            return
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self._loop.connect_accepted_socket(
            lambda: Connection(self._server, self.routes, self.connections), accepted
        )


def _bind(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise FleetError(f"cannot listen on {host} port {port}: {exc.strerror}: choose another port base") from exc
    return sock

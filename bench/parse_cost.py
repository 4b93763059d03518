"""
CPU per poll of the collector's front half: fetch over loopback, parse, increases.

The agents are answered by a second process, so that the figure is the collector's alone. Run it as
``python bench/parse_cost.py``; the last line is what a poll of ten samples costs.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import cast

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from collector.config import Limits
from collector.counters import Counters
from collector.exposition import Exposition
from collector.probes import build_probe
from storage.model import AgentSpec

AGENTS = 200
SAMPLES = 10
ROUNDS = 50


def body(samples: int) -> bytes:
    """Return an exposition of *samples* counters with two labels each."""
    return b"".join(
        b"# HELP work_%d_total What was done.\n# TYPE work_%d_total counter\n"
        b'work_%d_total{agent="a",queue="q %d"} %d.5\n' % (i, i, i, i, i)
        for i in range(samples)
    )


class _Agent(asyncio.Protocol):
    """Answers every request with the same bytes."""

    def __init__(self, content_type: bytes, content: bytes) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s" % (
            content_type,
            len(content),
            content,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)


def serve(pipe: Connection, content_type: bytes, content: bytes) -> None:
    """Serve until the pipe is closed; send the port first."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Agent(content_type, content), "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        closed = asyncio.Event()
        loop.add_reader(pipe.fileno(), closed.set)
        await closed.wait()
        loop.remove_reader(pipe.fileno())
        server.close()

    uvloop.run(main())


async def measure(port: int, *, counters: bool) -> float:
    """Return the CPU microseconds of this process per poll."""
    probes = [
        build_probe(AgentSpec(name=f"a{i}", endpoint=f"http://127.0.0.1:{port}/"), credentials={}, limits=Limits())
        for i in range(AGENTS)
    ]
    kept = [Counters() for _ in probes]
    await asyncio.gather(*(probe.poll(10.0) for probe in probes))
    start = time.process_time()
    for _ in range(ROUNDS):
        readings = await asyncio.gather(*(probe.poll(10.0) for probe in probes))
        if counters:
            for counter, reading in zip(kept, readings, strict=True):
                counter.deltas(reading)
    spent = time.process_time() - start
    failed = [reading.reason for reading in readings if reading.reason]
    if failed:
        raise SystemExit(f"error: {len(failed)} polls failed: {failed[0]}")
    await asyncio.gather(*(probe.aclose() for probe in probes))
    return spent / (ROUNDS * AGENTS) * 1e6


def run(content_type: bytes, content: bytes, *, counters: bool) -> float:
    """Measure against a server in a process of its own."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(there, content_type, content))
    server.start()
    try:
        return uvloop.run(measure(here.recv(), counters=counters))
    finally:
        here.send(None)
        server.join(10)


def main() -> None:
    """Print the figures."""
    text = body(SAMPLES)
    exposition = Exposition(Limits())
    exposition.read(text, b"text/plain; version=0.0.4", good=True)
    n = 5000
    start = time.process_time()
    for _ in range(n):
        exposition.read(text, b"text/plain; version=0.0.4", good=True)
    print(f"parse {SAMPLES} samples, known      {(time.process_time() - start) / n * 1e6:7.1f} µs")
    large = body(2000)
    start = time.process_time()
    Exposition(Limits()).read(large, b"text/plain; version=0.0.4", good=True)
    print(f"parse 2000 samples, never seen {(time.process_time() - start) * 1e3:7.1f} ms ({len(large)} bytes)")
    print(f"fetch alone                    {run(b'text/html', b'ok', counters=False):7.1f} µs")
    print(f"fetch, parse, increases        {run(b'text/plain; version=0.0.4', text, counters=True):7.1f} µs")


if __name__ == "__main__":
    main()

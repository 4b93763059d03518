"""
``fleetpulse fleet``: a simulated fleet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collector.simulator.main import FleetOptions, run


def fleet(
    agents: Annotated[int, typer.Option("--agents", "-n", metavar="N", help="Number of agents.")] = 20,
    faults: Annotated[
        str,
        typer.Option(
            "--faults", metavar="SPEC", help='What goes wrong when, such as "3:500s@20s-40s;5:hang", or demo.'
        ),
    ] = "",
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", show_default=False, help="Append what was served, one JSON per line."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="N", help="Samples of each answer.")] = 10,
    histogram: Annotated[bool, typer.Option("--histogram", help="Add a histogram to expositions.")] = False,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="All values follow from it.")] = 0,
    name_prefix: Annotated[
        str, typer.Option("--name-prefix", metavar="TEXT", help="First part of the agents' names.")
    ] = "demo",
    port_base: Annotated[int, typer.Option("--port-base", metavar="PORT", help="First port; 0 for free ones.")] = 0,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST", help="Address to listen on.")] = "127.0.0.1",
    ports_file: Annotated[
        Path | None,
        typer.Option("--ports-file", metavar="FILE", show_default=False, help="Write the manifest to this file, too."),
    ] = None,
) -> None:
    """
    Serve a simulated fleet on loopback until interrupted; prints its manifest, one line of JSON.
    """
    run(
        FleetOptions(
            agents=agents,
            faults=faults,
            log=log,
            port_base=port_base,
            ports_file=ports_file,
            host=listen,
            samples=samples,
            histogram=histogram,
            seed=seed,
            name_prefix=name_prefix,
        )
    )

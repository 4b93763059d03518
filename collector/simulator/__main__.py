"""
``python -m collector.simulator``: a simulated fleet without the rest of the command line.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from collector.simulator.main import FleetOptions, run
from storage.errors import FleetpulseError, SettingsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a fleet; return 0 after an orderly end, 1 after a failure, 2 when the arguments are wrong."""
    default = FleetOptions()
    parser = argparse.ArgumentParser(
        prog="python -m collector.simulator", description="Serve a simulated fleet on loopback until interrupted."
    )
    parser.add_argument("--agents", type=int, default=default.agents, help="number of agents (%(default)s)")
    parser.add_argument(
        "--faults", default=default.faults, help='script of faults, like "3:500s@20s-40s;5:hang", or "demo"'
    )
    parser.add_argument("--log", type=Path, help="append what was served to this file")
    parser.add_argument(
        "--port-base", type=int, default=default.port_base, help="first port; 0 for free ones (%(default)s)"
    )
    parser.add_argument("--ports-file", type=Path, help="write the manifest to this file, too")
    parser.add_argument("--host", default=default.host, help="address to listen on (%(default)s)")
    parser.add_argument("--samples", type=int, default=default.samples, help="samples of each answer (%(default)s)")
    parser.add_argument("--histogram", action="store_true", help="add a histogram to expositions")
    parser.add_argument("--seed", type=int, default=default.seed, help="all values follow from it (%(default)s)")
    parser.add_argument("--name-prefix", default=default.name_prefix, help="first part of names (%(default)s)")
    parser.add_argument("--die-with-parent", action="store_true", help="end when standard input, a pipe, is closed")
    options = FleetOptions(**vars(parser.parse_args(arguments)))
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        run(options)
    except FleetpulseError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2 if isinstance(exc, SettingsError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

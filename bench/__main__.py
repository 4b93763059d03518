"""
``make bench``: every figure beside its bar, one line each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from bench import columnstore, cost, export, ingest, reports, rollup, scale, work

#: Each takes the address of a server, and measures on an embedded one without.
BENCHMARKS: Mapping[str, Callable[[str | None], bool]] = {
    "ingest": ingest.run,
    "columnstore": columnstore.run,
    "reports": reports.run,
    "export": export.run,
    "cost": cost.run,
    "work": work.run,
    # These two are about the engine `postgresql`, and about the collector.
    "rollup": lambda _server_url: rollup.run(),
    "scale": lambda _server_url: scale.run(),
}


def main() -> int:
    """Run the benchmarks that were named, all without names; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}")
    parser.add_argument("--database-url", help="server to measure on, whose user may make databases")
    arguments = parser.parse_args()
    names = arguments.names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}, expected any of {', '.join(BENCHMARKS)}")
    met = [BENCHMARKS[name](arguments.database_url) for name in names]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())

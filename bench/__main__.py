"""
``make bench``: every figure beside its bar, one line each.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from bench import rollup, scale

BENCHMARKS: Mapping[str, Callable[[], bool]] = {"rollup": rollup.run, "scale": scale.run}


def main() -> int:
    """Run the benchmarks that were named, all without names; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHMARKS)}")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = sorted(set(names) - set(BENCHMARKS))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}, expected any of {', '.join(BENCHMARKS)}")
    met = [BENCHMARKS[name]() for name in names]
    return 0 if all(met) else 1


if __name__ == "__main__":
    raise SystemExit(main())

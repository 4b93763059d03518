"""
``python -m fleetpulse``: the command line.
"""

from __future__ import annotations

from fleetpulse.cli import main

if __name__ == "__main__":
    main()

"""
Probes: one file per way to look at an agent, all of them giving a ``Reading`` per poll.

``http`` (health and metrics over HTTP), ``tcp`` (a port), ``process`` (processes of this machine), ``command`` (a program
of this machine), ``heartbeat`` (agents that say themselves that they are at work), ``host`` (this machine).
``build_probe`` makes the one that an agent's description asks for.
"""

from collector.probes.build import PROBES, build_probe
from collector.probes.reading import Probe, Reading

__all__ = [
    "PROBES",
    "Probe",
    "Reading",
    "build_probe",
]

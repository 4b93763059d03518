"""
What a fleet says of itself once it listens: one line of JSON.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from collector.simulator.documents import Format


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestAgent:
    """One simulated agent."""

    name: str
    #: URL at which it is meant to be polled.
    endpoint: str
    #: What it answers with there.
    format: Format
    #: Its script, one string per fault.
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A running fleet."""

    #: URL of the port that agents share.
    base_url: str
    pid: int
    #: The fleet's start, microseconds since the Unix epoch: scripts count from here.
    started_us: int
    seed: int
    #: Samples of each healthy answer, those of the histogram apart.
    samples: int
    agents: tuple[ManifestAgent, ...]

    def to_json(self) -> str:
        """Return the manifest as one line."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """
        Return the manifest that *text* holds.

        Raises:
            ValueError: *text* holds something else.
        """
        try:
            fields = json.loads(text)
            agents = tuple(
                ManifestAgent(
                    name=agent["name"],
                    endpoint=agent["endpoint"],
                    format=Format(agent["format"]),
                    faults=tuple(agent["faults"]),
                )
                for agent in fields["agents"]
            )
            return cls(**{**fields, "agents": agents})
        except (KeyError, TypeError, ValueError) as exc:
            raise ValueError(f"not the manifest of a fleet: {exc}") from exc

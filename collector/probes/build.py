"""
From an agent's description to the probe that looks at it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from collector.config import Credential, Limits
from collector.credentials import Secret
from collector.probes.command import CommandProbe
from collector.probes.heartbeat import HeartbeatProbe
from collector.probes.host import HostProbe
from collector.probes.http import HttpProbe
from collector.probes.process import ProcessProbe
from collector.probes.reading import Probe
from collector.probes.tcp import TcpProbe
from collector.progress import Progress
from storage.errors import SettingsError
from storage.model import AgentSpec

_BUILDERS: Mapping[str, Callable[[AgentSpec, Secret | None, Limits, Progress], Probe]] = {
    "http": lambda spec, secret, limits, progress: HttpProbe(spec, secret, limits),
    "tcp": lambda spec, secret, limits, progress: TcpProbe(spec, secret),
    "process": lambda spec, secret, limits, progress: ProcessProbe(spec),
    "command": lambda spec, secret, limits, progress: CommandProbe(spec, limits),
    "heartbeat": lambda spec, secret, limits, progress: HeartbeatProbe(spec, progress),
    "host": lambda spec, secret, limits, progress: HostProbe(limits, spec),
}
#: Kinds of probes that can do something with a credential.
_WITH_CREDENTIAL = frozenset({"http", "tcp"})

#: What ``AgentSpec.probe`` may be.
PROBES = tuple(_BUILDERS)


def build_probe(
    spec: AgentSpec,
    *,
    credentials: Mapping[str, Credential],
    limits: Limits,
    progress: Progress | None = None,
) -> Probe:
    """
    Build the probe of *spec*.

    Args:
        credentials: By name, those of the local settings.
        progress: Where heartbeats are found; without it there are none.

    Raises:
        SettingsError: Probe, endpoint, option or credential is unknown or wrong; the text names the agent.
    """
    builder = _BUILDERS.get(spec.probe)
    if builder is None:
        near = difflib.get_close_matches(spec.probe, PROBES, n=1)
        hint = f'did you mean "{near[0]}"' if near else f"expected one of {', '.join(PROBES)}"
        raise SettingsError(f'agent "{spec.name}" has unknown probe "{spec.probe}": {hint}')
    if spec.credential and spec.probe not in _WITH_CREDENTIAL:
        raise SettingsError(f'agent "{spec.name}" has a credential, which probe {spec.probe} cannot use: remove it')
    return builder(spec, Secret.of(spec.name, spec.credential, credentials), limits, progress or Progress())

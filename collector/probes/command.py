"""
Probe ``command``: run a program on this machine and believe its exit code, as Nagios plug-ins have it.

==========  ===========================================================================================================
option      meaning
==========  ===========================================================================================================
``argv``    program and arguments as a list; instead of the endpoint, which is split like a shell would, without a shell
``output``  what its standard output holds: ``none`` (default), ``perfdata``, ``prometheus``, ``openmetrics``
``env``     table of environment variables; the program gets these and ``PATH``, ``HOME``, ``LANG``, ``TZ``, no others
``cwd``     working directory
==========  ===========================================================================================================

Exit code 0 is ``healthy``, 1 ``degraded``, everything else ``unhealthy``. At the deadline the program is killed with its
process group (``timeout``). Output over the limit on bodies ends the same way (``error``).

Commands come from the settings file of this machine alone: read from the database, they would make write access to
a table into remote execution.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import time

from collector.config import Limits
from collector.exposition import Exposition, Format
from collector.perfdata import Perfdata
from collector.probes import child
from collector.probes.options import Options
from collector.probes.reading import Reading, bounded, timed_out
from collector.series import Parsed
from collector.sizes import in_words
from collector.threads import OneAtATime
from storage.errors import SettingsError
from storage.model import AgentSpec, Outcome

OPTIONS = ("argv", "output", "env", "cwd")

#: What a program inherits: enough to find programs and to speak a language, and none of the collector's secrets.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTCOMES = {0: Outcome.HEALTHY, 1: Outcome.DEGRADED}
#: Longer outputs are read in a thread: a thousand new series take some 20 ms.
_THREAD_BYTES = 32 * 1024


class CommandProbe:
    """
    Runs one program per poll.

    Raises:
        SettingsError: The agent is not of the settings file, or endpoint or options are wrong.
    """

    def __init__(self, spec: AgentSpec, limits: Limits) -> None:
        if spec.source != "file":
            raise SettingsError(
                f'agent "{spec.name}" has probe command but comes from the database: '
                "commands are taken from the settings file of the collector alone"
            )
        options = Options(spec, OPTIONS)
        self._timeout_s = spec.timeout_s
        self._limits = limits
        self._argv = _argv(spec, options)
        output = options.choice("output", ("none", "perfdata", "prometheus", "openmetrics"), "none")
        self._exposition = Exposition(limits, Format(output)) if output in ("prometheus", "openmetrics") else None
        self._perfdata = Perfdata(limits) if output == "perfdata" else None
        self._reader: OneAtATime[Reading] = OneAtATime()
        self._cwd = options.text("cwd") or None
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._env = {"PATH": _DEFAULT_PATH} | environment | options.table("env")
        if any(
            "\0" in text or (part == 0 and "=" in text) for pair in self._env.items() for part, text in enumerate(pair)
        ):
            raise options.error("env", "names without = and texts without NUL")

    async def poll(self, deadline_s: float) -> Reading:
        """Run the program and judge how it ended."""
        loop = asyncio.get_running_loop()
        began = time.perf_counter()
        deadline = loop.time() + deadline_s
        limit_bytes = self._limits.body_bytes
        try:
            end = await child.run(self._argv, env=self._env, cwd=self._cwd, limit_bytes=limit_bytes, deadline=deadline)
        except OSError as exc:
            return Reading(outcome=Outcome.ERROR, reason=f"command cannot be run: {(exc.strerror or 'failed').lower()}")
        if end.exceeded:
            reason = f"output over the limit of {in_words(limit_bytes)}"
            return Reading(outcome=Outcome.ERROR, reason=reason, rejected={"body_limit": 1})
        code = end.code
        if code is None:
            return timed_out(self._timeout_s)
        latency_ms = (time.perf_counter() - began) * 1000.0
        if len(end.output) <= _THREAD_BYTES and not self._reader.busy:
            return self._judge(code, end.output, latency_ms)
        try:
            return await self._reader.run(lambda: self._judge(code, end.output, latency_ms), deadline)
        except TimeoutError:
            return timed_out(self._timeout_s)

    def _judge(self, code: int, output: bytes, latency_ms: float) -> Reading:
        outcome, reason = _OUTCOMES.get(code, Outcome.UNHEALTHY), ""
        if code < 0:
            reason = f"killed by signal {-code}"
        elif code:
            reason = f"exit {code}"
        parsed = Parsed()
        if self._exposition is not None:
            answer = self._exposition.read(output, b"", good=True)
            parsed = answer.parsed
            if answer.reason and outcome is Outcome.HEALTHY:
                outcome, reason = Outcome.UNHEALTHY, answer.reason
        elif self._perfdata is not None:
            parsed = self._perfdata.parse(output)
        return Reading(
            outcome=outcome,
            latency_ms=latency_ms,
            reason=bounded(reason),
            metrics=parsed.metrics,
            values=parsed.values,
            created=parsed.created,
            process_start=parsed.process_start,
            at_s=time.time(),
            rejected=parsed.rejected,
        )

    def close(self) -> None:
        """Do nothing: no program outlives its poll."""

    async def aclose(self) -> None:
        """Do nothing: no program outlives its poll."""


def _argv(spec: AgentSpec, options: Options) -> list[str]:
    argv = options.texts("argv")
    if argv and spec.endpoint:
        raise options.error("argv", "no value beside an endpoint: one of the two is the command")
    if not argv:
        try:
            argv = shlex.split(spec.endpoint)
        except ValueError as exc:
            raise SettingsError(f'agent "{spec.name}" endpoint is no command line: {str(exc).lower()}') from exc
    if not argv or not argv[0]:
        raise SettingsError(f'agent "{spec.name}" has no command: give an endpoint or the option "argv"')
    if any("\0" in part for part in argv):
        raise SettingsError(f'agent "{spec.name}" command holds a NUL character')
    return argv

"""
What a writer knows of one database's ids: caches by name, and which session is going on.
"""

from __future__ import annotations

from storage.model import MetricKey, Session


class KnownIds:
    """The ids of one database, by name, as far as they are known; used by the writer's thread alone."""

    def __init__(self) -> None:
        self._agents: dict[str, int] = {}
        self._hosts: dict[str, int] = {}
        self._metrics: dict[MetricKey, int] = {}
        self._reasons: dict[str, int] = {}
        self._sessions: dict[str, int] = {}
        #: UUID of the session that was opened here.
        self.opened: str | None = None

    def is_live(self, session: Session) -> bool:
        """Tell whether *session* is going on, as far as this store knows; a replay may be of one that has ended."""
        return self.opened in (None, session.uuid)

    def forget(self) -> None:
        """Empty the caches: what they hold may be of another database, or may never have been committed."""
        for cache in (self._agents, self._hosts, self._metrics, self._reasons, self._sessions):
            cache.clear()

    def agent(self, name: str) -> int:
        """Return the id of an agent that is known."""
        return self._agents[name]

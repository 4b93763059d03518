"""
From the buffer to the spool, several times a second.

What the spool refuses (a full disk) stays here and goes first in the next flush, up to a bound; above it the oldest
batches become losses. So a disk that is full for a while costs memory, and one that stays full costs data that is
counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future

from collector.buffer import Buffer, PendingBatch
from collector.poll import Poller
from collector.spool import Spool
from collector.spool_content import Baseline, losses_of
from collector.spool_database import SpoolError
from collector.tally import Tally
from storage.batch import Batch
from storage.model import Session

log = logging.getLogger(__name__)

#: Rows that wait for a disk: 1,000 agents with 10 samples at 5 s fill this in a quarter of an hour, in 60 MB.
MAX_WAITING_ROWS = 2_000_000


class Flusher:
    """
    Hands the buffer over to the spool.

    Args:
        observed_to_us: Returns the moment before which every slot is in the buffer, or was.
    """

    def __init__(
        self,
        buffer: Buffer,
        poller: Poller,
        spool: Spool,
        session: Session,
        tally: Tally,
        observed_to_us: Callable[[], int],
        *,
        max_waiting_rows: int = MAX_WAITING_ROWS,
    ) -> None:
        self._buffer = buffer
        self._poller = poller
        self._spool = spool
        self._session = session
        self._tally = tally
        self._observed_to_us = observed_to_us
        self._max_waiting_rows = max_waiting_rows
        self._waiting: list[PendingBatch] = []
        self._baselines: dict[str, Baseline] = {}
        self._turn = asyncio.Lock()
        #: What the spool is writing: ``_waiting`` and ``_baselines``, whole.
        self._handed: Future[list[Batch]] | None = None
        #: The spool refuses at the moment.
        self.refused = False
        #: Rows that were given up because the spool refused for too long.
        self.dropped_rows = 0

    @property
    def waiting_rows(self) -> int:
        """Return the rows that the spool does not have yet."""
        return len(self._buffer) + sum(map(len, self._waiting))

    async def run(self, interval_s: float) -> None:
        """Flush every *interval_s* seconds until cancelled."""
        while True:
            await asyncio.sleep(interval_s)
            await self.flush()

    async def flush(self) -> bool:
        """Hand over what there is; tell whether the spool has all of it on its disk now."""
        async with self._turn:
            if self._handed is not None:
                # An earlier call was cut off while it waited.
                await self._settle(self._handed)
            self._collect()
            if not self._waiting:
                return True
            self._handed = self._spool.append(self._waiting, self._session, list(self._baselines.values()))
            return await self._settle(self._handed)

    async def _settle(self, handed: Future[list[Batch]]) -> bool:
        """
        Wait for what was handed over, and tell whether it is on the disk.

        Whoever is cut off here, as the end of the daemon does, leaves the answer to the next call: the spool writes on,
        and what it was handed a second time would be stored twice.
        """
        try:
            await asyncio.shield(asyncio.wrap_future(handed))
        except SpoolError as exc:
            self._handed = None
            self._keep(exc)
            return False
        self._handed = None
        self._waiting, self._baselines = [], {}
        if self.refused:
            self.refused = False
            log.info("spool takes batches again", extra={"event": "spool_recovered"})
        return True

    def _collect(self) -> None:
        """Take the buffer, and the baselines of the very same moment: no await comes between the two."""
        running_us = self._poller.oldest_us()
        observed_us = self._observed_to_us()
        self._waiting += self._buffer.take(observed_us if running_us is None else min(observed_us, running_us))
        spool = self._spool.spool_id
        for agent in self._poller.moved():
            state = agent.baseline(spool)
            if state is None:
                continue
            before = self._baselines.get(state.agent)
            if before is not None and before.keys is not None and state.keys is None:
                state = Baseline(agent=state.agent, keys=before.keys, values=state.values)
            self._baselines[state.agent] = state

    def _keep(self, exc: SpoolError) -> None:
        if not self.refused:
            self.refused = True
            log.error(
                "%s; %d rows wait in memory",
                exc,
                self.waiting_rows,
                extra={"event": "spool_refused", "error": str(exc)},
            )
        # Transitions and losses of what is given up stay, in a batch without rows.
        while len(self._waiting) > 1 and sum(map(len, self._waiting)) > self._max_waiting_rows:
            oldest = next((batch for batch in self._waiting if len(batch)), None)
            if oldest is None:
                break
            self._waiting.remove(oldest)
            self.dropped_rows += len(oldest)
            self._tally.lost_slots += len(oldest.checks)
            for loss in losses_of(oldest, "spool_full"):
                self._buffer.add_loss(loss)
            for change in oldest.transitions:
                self._buffer.add_transition(change)
            if self.dropped_rows == len(oldest):
                log.error(
                    "spool refuses for too long: the oldest batches in memory are given up and recorded as losses",
                    extra={"event": "buffer_dropped"},
                )

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
from dataclasses import replace

from collector.buffer import Buffer, PendingBatch
from collector.poll import Poller
from collector.spool import Spool
from collector.spool_content import OVERHEAD_BYTES, Baseline, losses_of, merge_losses, size_estimate
from collector.spool_database import SpoolError
from collector.tally import Tally
from storage.batch import Batch
from storage.model import Session

log = logging.getLogger(__name__)

#: Rows that wait for a disk: 1,000 agents with 10 samples at 5 s fill this in a quarter of an hour, in 60 MB.
MAX_WAITING_ROWS = 2_000_000
#: What waits must go into the spool in one transaction, which takes twice its bytes (file and log), baselines beside it.
SPOOL_PART = 4


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
        # Of each of them, an upper bound of its bytes in the spool.
        self._waiting_bytes: list[int] = []
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
            # Whoever only asks later meets it again, so both look at it in the same place.
            log.debug("spool refused a flush: %s", exc)
        return self._take_answer(handed)

    def finish(self) -> bool:
        """Tell, without waiting, whether everything is on the spool's disk: for the end, when the spool is closed."""
        if self._handed is not None and self._handed.done():
            self._take_answer(self._handed)
        return self._handed is None and not self._waiting and not len(self._buffer)

    def _take_answer(self, handed: Future[list[Batch]]) -> bool:
        self._handed = None
        error = handed.exception()
        if isinstance(error, SpoolError):
            self._keep(error)
            return False
        if error is not None:
            raise error
        self._waiting, self._waiting_bytes, self._baselines = [], [], {}
        if self.refused:
            self.refused = False
            log.info("spool takes batches again", extra={"event": "spool_recovered"})
        return True

    def _collect(self) -> None:
        """Take the buffer, and the baselines of the very same moment: no await comes between the two."""
        running_us = self._poller.oldest_us()
        observed_us = self._observed_to_us()
        taken = self._buffer.take(observed_us if running_us is None else min(observed_us, running_us))
        self._waiting += taken
        self._waiting_bytes += [size_estimate([batch], ()) - OVERHEAD_BYTES for batch in taken]
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
        most_bytes = self._spool.max_bytes // SPOOL_PART
        while len(self._waiting) > 1 and (
            sum(map(len, self._waiting)) > self._max_waiting_rows or sum(self._waiting_bytes) > most_bytes
        ):
            self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        """Leave nothing of the oldest batch but its losses and transitions; the next one carries them, before its own."""
        oldest, following = self._waiting[0], self._waiting[1]
        carrier = replace(
            following,
            losses=merge_losses((*losses_of(oldest, "spool_full"), *following.losses)),
            transitions=oldest.transitions + following.transitions,
        )
        self._waiting[:2] = [carrier]
        self._waiting_bytes[:2] = [size_estimate([carrier], ()) - OVERHEAD_BYTES]
        if not len(oldest):
            return
        self._tally.lost_slots += len(oldest.checks)
        if not self.dropped_rows:
            log.error(
                "spool refuses for too long: the oldest batches in memory are given up and recorded as losses",
                extra={"event": "buffer_dropped"},
            )
        self.dropped_rows += len(oldest)

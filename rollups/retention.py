"""
Keeping the disk bounded without losing what was rolled up: close, settle, prove, drop.

For each table and tier the horizon is moved first (*close*: from then on no writer reaches below it), what is still
marked below it is computed (*settle*), the tiers above are compared with what is about to go (*prove*), and only then
partitions are dropped. A step that does not get its lock, or whose proof fails, leaves everything as it is and is
tried again by the next run.

Finished work of agents (workflows, tasks, messages) goes by its age, where the policy says so.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from rollups.policy import RetentionPolicy
from storage.errors import NotSettled, TransientStorageError
from storage.model import MAX_DATED_AHEAD, ROLLUPS, Table, Tier, Window
from storage.repositories.past import PastWork, PastWorkRepository
from storage.store import Horizon, Mismatch, Partition, Store

log = logging.getLogger(__name__)

#: A proof compares this much at a time, so that its memory is bounded.
PROOF_STRIDE = timedelta(days=1)
#: Batches that one statement forgets.
PURGE_LIMIT = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What retention means to do with one tier of one table."""

    table: Table
    tier: Tier
    #: Horizon to move to; a cut that the engine can make.
    boundary: datetime
    #: Horizon as it is.
    horizon: Horizon
    #: What would go.
    partitions: tuple[Partition, ...]

    @property
    def size_bytes(self) -> int:
        """Return the disk space that the step frees."""
        return sum(part.size_bytes for part in self.partitions)


class Verdict(Enum):
    """How a step ended."""

    DONE = "done"
    #: A lock was not had in time, another refresher was at work, or a finer tier must go first; tried again later.
    BUSY = "busy"
    #: The tiers above do not equal what would go: nothing was dropped.
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What became of a step."""

    step: Step
    verdict: Verdict
    dropped: tuple[Partition, ...] = ()
    #: Differences that kept the step from dropping.
    mismatches: tuple[Mismatch, ...] = ()
    #: One line for people where the step did not end well.
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionResult:
    """What one run of retention did."""

    steps: tuple[StepResult, ...]
    #: Batches that the ledger forgot.
    purged: int
    #: Why it did not forget all that it could, one line for people; empty where it did.
    unpurged: str = ""
    #: Finished work that was forgotten, and why not all of it.
    work: PastWork = field(default_factory=PastWork)
    unfinished: str = ""

    @property
    def ok(self) -> bool:
        """Tell whether everything was done."""
        return (
            not self.unpurged and not self.unfinished and all(result.verdict is Verdict.DONE for result in self.steps)
        )


def plan(store: Store, policy: RetentionPolicy, now: datetime) -> list[Step]:
    """Return what retention would do at *now*, raw first: nothing is changed."""
    steps: list[Step] = []
    for horizon in store.horizons():
        keep = policy.keep(horizon.tier)
        if keep is None:
            continue
        boundary = max(store.boundary(horizon.tier, now - keep), horizon.closed_before)
        going = tuple(part for part in store.partitions(horizon.table, horizon.tier) if part.window.end <= boundary)
        if going or boundary > horizon.closed_before or horizon.dropped_before < horizon.closed_before:
            steps.append(
                Step(table=horizon.table, tier=horizon.tier, boundary=boundary, horizon=horizon, partitions=going)
            )
    return steps


def apply(store: Store, policy: RetentionPolicy, now: datetime) -> RetentionResult:
    """
    Carry out ``plan``, step by step; a step that fails does not keep the others from going on.

    Raises:
        StorageError: The database refused something that a later try cannot cure.
    """
    results: list[StepResult] = []
    for step in plan(store, policy, now):
        results.append(_apply_step(store, step))
        _log(results[-1])
    purged, unpurged = _purge(store, policy, now)
    work, unfinished = _forget_work(store, policy, now)
    return RetentionResult(steps=tuple(results), purged=purged, unpurged=unpurged, work=work, unfinished=unfinished)


def past_work(store: Store, policy: RetentionPolicy, now: datetime) -> PastWork:
    """Return the finished work that retention would forget at *now*: nothing is changed."""
    return PastWorkRepository(store.engine).count(*_cuts(policy, now))


def _forget_work(store: Store, policy: RetentionPolicy, now: datetime) -> tuple[PastWork, str]:
    """Forget finished work; return how much, and why not more."""
    repository, gone = PastWorkRepository(store.engine), PastWork()
    while True:
        try:
            part = repository.purge(*_cuts(policy, now))
        except TransientStorageError as exc:
            log.warning("retention: work: busy (%s)", exc, extra={"event": "retention", "verdict": Verdict.BUSY.value})
            return gone, str(exc)
        if not part.rows:
            break
        gone += part
    if gone.rows:
        log.info(
            "retention: forgot %d workflows, %d tasks, %d messages",
            gone.workflows,
            gone.tasks,
            gone.messages,
            extra={"event": "retention", "verdict": Verdict.DONE.value},
        )
    return gone, ""


def _cuts(policy: RetentionPolicy, now: datetime) -> tuple[datetime | None, datetime | None]:
    """Return before when work has to have ended, and messages to have been sent, to be forgotten."""
    return (
        None if policy.work is None else now - policy.work,
        None if policy.messages is None else now - policy.messages,
    )


def _purge(store: Store, policy: RetentionPolicy, now: datetime) -> tuple[int, str]:
    """Forget batches that no raw row and no replay can need any more; return how many, and why not more."""
    if policy.raw is None:
        return 0, ""
    held_from = min(each.dropped_before for each in store.horizons() if each.tier is Tier.RAW)
    # Rows may be dated ahead of their commit.
    before = min(now - policy.ledger, held_from - MAX_DATED_AHEAD)
    purged = 0
    while True:
        try:
            gone = store.purge_ledger(before, PURGE_LIMIT)
        except TransientStorageError as exc:
            log.warning(
                "retention: ledger: busy (%s)", exc, extra={"event": "retention", "verdict": Verdict.BUSY.value}
            )
            return purged, str(exc)
        purged += gone
        if gone < PURGE_LIMIT:
            return purged, ""


def _log(result: StepResult) -> None:
    """Write the step's line: a horizon that moved over nothing is no news."""
    done = result.verdict is Verdict.DONE
    log.log(
        logging.WARNING if not done else logging.INFO if result.dropped else logging.DEBUG,
        "retention: %s %s below %s: %s, %d partitions dropped%s",
        result.step.table,
        result.step.tier,
        result.step.boundary.isoformat(),
        result.verdict.value,
        len(result.dropped),
        f" ({result.message})" if result.message else "",
        extra={"event": "retention", "verdict": result.verdict.value, "dropped": len(result.dropped)},
    )


def _apply_step(store: Store, step: Step) -> StepResult:
    try:
        waiting = _waits_for(store, step)
        if waiting is not None:
            return StepResult(step=step, verdict=Verdict.BUSY, message=f"{waiting} is not dropped that far yet")
        store.close_below(step.table, step.tier, step.boundary)
        if not _settle(store, step):
            return StepResult(step=step, verdict=Verdict.BUSY, message="another refresher holds the table")
        mismatches = _prove(store, step)
        if mismatches:
            first = mismatches[0]
            return StepResult(
                step=step,
                verdict=Verdict.UNPROVEN,
                mismatches=tuple(mismatches),
                message=f"{first.tier} bucket {first.bucket.isoformat()} differs from what would be dropped: "
                f'run "fleetpulse rollup rebuild --since {first.bucket.isoformat()}"',
            )
        return StepResult(
            step=step,
            verdict=Verdict.DONE,
            dropped=tuple(store.drop_below(step.table, step.tier, step.boundary)),
        )
    except (NotSettled, TransientStorageError) as exc:
        return StepResult(step=step, verdict=Verdict.BUSY, message=str(exc))


def _waits_for(store: Store, step: Step) -> Tier | None:
    """Return the finer tier that still holds rows below the boundary: a rebuild from them would lack this tier's."""
    if step.tier is Tier.RAW:
        return None
    finer = step.tier.finer
    behind = any(
        each.table is step.table and each.tier is finer and each.dropped_before < step.boundary
        for each in store.horizons()
    )
    return finer if behind else None


def _settle(store: Store, step: Step) -> bool:
    """Compute whatever is marked below the boundary, finest tier first; tell whether all of it was."""
    for tier in _above(step.tier):
        while True:
            result = store.refresh(step.table, tier, closed_before=step.boundary)
            if result.busy:
                return False
            if not result.buckets:
                break
    return True


def _prove(store: Store, step: Step) -> list[Mismatch]:
    """Compare the tiers above with what would go, partition by partition."""
    # Raw proves every tier; a dropped rollup can prove the one that was computed from it.
    tiers = ROLLUPS if step.tier is Tier.RAW else _above(step.tier)[:1]
    found: list[Mismatch] = []
    for part in step.partitions:
        for tier in tiers:
            start = part.window.start
            while start < part.window.end:
                end = min(start + max(PROOF_STRIDE, tier.step), part.window.end)
                found.extend(store.verify_tier(step.table, tier, Window(start, end), against=step.tier))
                start = end
    return found


def _above(tier: Tier) -> Sequence[Tier]:
    return [each for each in ROLLUPS if tier is Tier.RAW or ROLLUPS.index(each) > ROLLUPS.index(tier)]

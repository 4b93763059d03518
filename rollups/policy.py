"""
How long each tier is kept, and finished work.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise

from storage.errors import SettingsError
from storage.model import Tier

#: Raw rows are cut at whole days, by a job that may fail for a while: they live longer than ``raw`` says.
LEDGER_MARGIN = timedelta(days=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """
    How long each tier, and finished work, is kept; ``None`` is for ever.

    Raises:
        SettingsError: A finer tier would outlive a coarser one, or the ledger would forget what raw still holds.
    """

    raw: timedelta | None = timedelta(days=7)
    m1: timedelta | None = timedelta(days=30)
    h1: timedelta | None = timedelta(days=400)
    d1: timedelta | None = None
    #: Must outlive raw rows, so that ``verify`` can count them, and the spool, so that a replay is recognised.
    ledger: timedelta = timedelta(days=14)
    #: Finished workflows and tasks, from their end on.
    work: timedelta | None = None
    #: Messages, from when they were sent.
    messages: timedelta | None = None

    def keep(self, tier: Tier) -> timedelta | None:
        """Return how long *tier* is kept."""
        return {Tier.RAW: self.raw, Tier.M1: self.m1, Tier.H1: self.h1, Tier.D1: self.d1}[tier]

    def __post_init__(self) -> None:
        tiers = list(Tier)
        for finer, coarser in pairwise(tiers):
            short, long = self.keep(finer), self.keep(coarser)
            if long is not None and (short is None or short > long):
                raise SettingsError(
                    f"retention.{finer} is {_text(short)}, expected at most retention.{coarser} {_text(long)}: "
                    "a coarser tier is kept at least as long as what it is computed from"
                )
        if self.raw is not None and self.ledger < self.raw + LEDGER_MARGIN:
            raise SettingsError(
                f"retention.ledger is {_text(self.ledger)}, expected at least {_text(self.raw + LEDGER_MARGIN)}, "
                f"retention.raw and {_text(LEDGER_MARGIN)}: verify counts raw rows against the ledger"
            )


def _text(keep: timedelta | None) -> str:
    return "forever" if keep is None else f"{keep / timedelta(days=1):g}d"

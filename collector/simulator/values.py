"""
The numbers that a simulated agent shows: functions of seed, agent and number of scrapes served, and of nothing else.

A judge that knows a line of the fleet's log can recompute every value of that answer with ``scrape_at``.
"""

from __future__ import annotations

from typing import NamedTuple

_MASK = (1 << 64) - 1
#: Each scrape adds ``REQUESTS_STEP`` to twice that, less one: two steps are always more than any one, so that a
#: restarted counter is seen to be smaller than before once the old one had two scrapes.
REQUESTS_STEP = 10
TOKENS_STEP = 1_000


class Scrape(NamedTuple):
    """All numbers of one answer."""

    #: Times that the counters have started again from zero.
    resets: int
    #: Scrapes served since then, this one included.
    served: int
    #: Counters, cumulative since then.
    requests_total: int
    tokens_total: int
    #: 64 random bits: gauges are cut from them, see ``gauge``.
    noise: int


def gauge(noise: int, place: int, below: int) -> int:
    """Return the gauge number *place* of a scrape, at least 0 and less than *below* (at most 65536)."""
    # A rotation by a number that is prime to 64 gives each of the first 64 gauges other bits.
    shift = place * 19 % 64
    return (((noise >> shift) | (noise << (64 - shift))) & 0xFFFF) * below >> 16


class Counters:
    """The running counters of one agent."""

    __slots__ = ("_base", "_last", "_seed")

    def __init__(self, seed: int, number: int) -> None:
        """
        Start from zero.

        Args:
            seed: Seed of the fleet.
            number: Number of the agent, from 1.
        """
        self._seed = seed << 32 ^ number
        self._base = _mix(self._seed)
        self._last = Scrape(0, 0, 0, 0, 0)

    def advance(self, resets: int) -> Scrape:
        """
        Return the numbers of the next scrape.

        Args:
            resets: How often the agent has been reset so far; when it is more than at the last scrape, the
                counters start from zero first.
        """
        last = self._last
        if resets != last.resets:
            last = Scrape(resets, 0, 0, 0, 0)
            self._base = _mix(self._seed + resets * 0x5851F42D4C957F2D)
        noise = _mix(self._base + last.served)
        scrape = Scrape(
            resets,
            last.served + 1,
            last.requests_total + REQUESTS_STEP + (noise & 0xFFFF) * REQUESTS_STEP // 65536,
            last.tokens_total + TOKENS_STEP + (noise >> 16 & 0xFFFF) * TOKENS_STEP // 65536,
            noise,
        )
        self._last = scrape
        return scrape


def scrape_at(*, seed: int, number: int, resets: int, served: int) -> Scrape:
    """Return the numbers that agent *number* showed on scrape *served* (from 1) after *resets* resets."""
    counters = Counters(seed, number)
    scrape = counters.advance(resets)
    while scrape.served < served:
        scrape = counters.advance(resets)
    return scrape


def _mix(x: int) -> int:
    # SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): 64 well-mixed bits from a
    # running number, without a generator's state to keep per agent.
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & _MASK
    return x ^ x >> 31

"""
One line a figure: name, value, bar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured ratio or count beside what it must reach."""

    name: str
    value: float
    bar: float
    #: Whether the value must not exceed the bar (``less``) or must reach it (``more``).
    better: Literal["less", "more"]
    #: What the value was made of.
    detail: str = ""

    @property
    def met(self) -> bool:
        """Tell whether the bar is met."""
        return self.value <= self.bar if self.better == "less" else self.value >= self.bar


def show(figures: Sequence[Figure]) -> bool:
    """Print *figures*, one line each; return whether every bar is met."""
    for figure in figures:
        sign = "≤" if figure.better == "less" else "≥"
        verdict = "ok  " if figure.met else "MISS"
        detail = f"  ({figure.detail})" if figure.detail else ""
        print(f"{verdict} {figure.name}: {figure.value:.3g} (bar {sign} {figure.bar:g}){detail}", flush=True)
    return all(figure.met for figure in figures)

"""
The compose file and the Dockerfile as the tests see them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"

_DEFAULT = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}]*)\}")


def interpolated(text: str) -> str:
    """Return *text* as Compose reads it with nothing in the environment."""
    found = _DEFAULT.sub(lambda match: match["default"], text)
    assert "$" not in found, f"a variable without a default in {found!r}"
    return found


def project() -> dict[str, Any]:
    """Return the compose file, with its variables at their defaults."""
    found: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE.read_text(encoding="utf-8")))
    return found


def services() -> dict[str, dict[str, Any]]:
    """Return the services by name."""
    found: dict[str, dict[str, Any]] = project()["services"]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One instruction of a Dockerfile."""

    name: str
    #: What follows, on one line.
    value: str

    def exec_form(self) -> list[str]:
        """Return the arguments of a command that is written as a list."""
        found: list[str] = json.loads(self.value[self.value.index("[") :])
        return found


def instructions(path: Path = DOCKERFILE) -> list[Instruction]:
    """Return the instructions in *path*, without comments, continued lines as one."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [Instruction(name=name.upper(), value=value.strip()) for name, value in found]


def stages() -> list[list[Instruction]]:
    """Return the instructions of each stage of the Dockerfile; the last one is the image."""
    found: list[list[Instruction]] = []
    for each in instructions():
        if each.name == "FROM":
            found.append([])
        found[-1].append(each)
    return found


def image() -> dict[str, Instruction]:
    """Return the last instruction of each name of the image."""
    return {each.name: each for each in stages()[-1]}


def image_environment() -> dict[str, str]:
    """Return the environment that the image sets."""
    return dict(pair.split("=", 1) for pair in image()["ENV"].value.split())

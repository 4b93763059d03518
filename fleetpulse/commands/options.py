"""
Options that several commands take. Each flag has an environment variable: those here a name of their own, the others
``FLEETPULSE_<COMMAND>_<FLAG>``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fleetpulse.console import RowFormat, TextFormat
from fleetpulse.settings import Settings, load_settings

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="FLEETPULSE_CONFIG",
        metavar="FILE",
        show_default=False,
        help="Settings file; by default fleetpulse.toml here or in the home folder.",
    ),
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        envvar="FLEETPULSE_DATABASE_URL",
        metavar="URL",
        show_default=False,
        help="Database: postgresql://user@host:port/database or sqlite:///file; by default the embedded PostgreSQL.",
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="FLEETPULSE_HOME",
        metavar="FOLDER",
        show_default=False,
        help="Folder of the spool and of the embedded database.",
    ),
]
Text = Annotated[TextFormat, typer.Option("--format", "-f", envvar="FLEETPULSE_FORMAT", help="Form of the answer.")]
Rows = Annotated[RowFormat, typer.Option("--format", "-f", envvar="FLEETPULSE_FORMAT", help="Form of the answer.")]
Until = Annotated[
    str, typer.Option("--until", metavar="MOMENT", help="End of the window, in the same form as --since, or now.")
]


def settings_of(config: Path | None, database_url: str | None, home: Path | None) -> Settings:
    """
    Return the settings with what the command line said on top.

    Raises:
        SettingsError: They are wrong.
    """
    overrides: dict[str, Any] = {}
    if database_url is not None:
        # The address on the command line replaces the one of the file, in whichever form that is given.
        overrides["database"] = {"url": database_url, "url_file": None}
    if home is not None:
        overrides["home"] = home
    return load_settings(config, overrides)

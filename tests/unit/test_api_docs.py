"""
docs/api.md, docs/reports.md and docs/cli.md against the code: whatever is public is described as it is, and nothing else.
Links of all pages lead somewhere.

An entry of docs/api.md is a list item that begins with a signature as it is typed: ``service.get_task(task_id) -> Task``.
What it begins with says whose it is.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta, timezone
from enum import Enum
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import typer
from sqlalchemy.orm import DeclarativeBase

import fleetpulse
from fleetpulse import frames
from fleetpulse.cli import app
from reports.catalogue import CATALOGUE
from reports.definition import Definition
from storage.errors import FleetpulseError
from storage.service import PersistenceService

DOCS = Path(__file__).parents[2] / "docs"
API = (DOCS / "api.md").read_text(encoding="utf-8")

#: What entries begin with, and whose they are then.
OWNERS: Mapping[str, Any] = MappingProxyType(
    {
        "": fleetpulse,
        "database": fleetpulse.DatabaseManager,
        "service": PersistenceService,
        "store": fleetpulse.Store,
        "server": fleetpulse.EmbeddedServer,
        "frames": frames,
    }
)
#: Set by the constructor, and meant to be used.
ATTRIBUTES = MappingProxyType({"service.store": "service.store -> Store"})

#: Rows of the table of answers: module, class, what is said of its attributes.
ANSWERS = re.findall(r"^\| `([a-z_.]+)\.([A-Za-z]+)` \| (.+) \|$", API, re.MULTILINE)

_ENTRY = re.compile(r"^- `(?P<said>[^`]+)`:", re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_NAMED = re.compile(rf"^(?P<owner>{'|'.join(filter(None, OWNERS))})\.(?P<name>\w+)$")


def entries() -> dict[str, str]:
    """Return the signature of each entry by the name that it is of, lines joined."""
    found: dict[str, str] = {}
    for entry in _ENTRY.finditer(API):
        said = " ".join(entry["said"].split())
        name = re.split(r"[( ]", said, maxsplit=1)[0]
        assert name not in found, f"docs/api.md has two entries of {name}"
        found[name] = said
    return found


def public(owner: Any) -> Iterator[str]:
    """Yield the public names of a module or a class, inherited ones too."""
    yield from owner.__all__ if isinstance(owner, ModuleType) else (name for name in dir(owner) if name[0] != "_")


def typed(name: str) -> str:
    """Return what *name* looks like where it is called: the signature that its entry has to have."""
    owner, _, last = name.rpartition(".")
    found = inspect.getattr_static(OWNERS[owner], last)
    if isinstance(found, property):
        assert found.fget is not None
        return f"{name} -> {found.fget.__annotations__['return']}"
    if not callable(found) or (isinstance(found, type) and not _is_constructed(found)):
        return name
    signature = inspect.signature(found)
    defaults = _factories(found)
    told: list[str] = []
    for each in signature.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and "*" not in told:
            told.append("*")
        if each.kind is each.VAR_KEYWORD:
            told.append(f"**{each.name}")
        elif each.default is each.empty:
            told.append(each.name)
        else:
            told.append(f"{each.name}={_shown(defaults.get(each.name, each.default))}")
    answer = "" if isinstance(found, type) else f" -> {_answered(found, signature)}"
    return f"{name}({', '.join(told)}){answer}"


def _is_constructed(found: type) -> bool:
    """Tell whether people call the class *found*: errors, enumerations, protocols and answers are made for them."""
    if issubclass(found, (FleetpulseError, Enum)):
        return False
    return found not in (fleetpulse.Store, fleetpulse.Settings, fleetpulse.Report, fleetpulse.Rows)


def _factories(found: Any) -> dict[str, Any]:
    """Return the fields of a dataclass whose default is made anew each time, with what is made."""
    if not dataclasses.is_dataclass(found):
        return {}
    return {
        field.name: field.default_factory()
        for field in dataclasses.fields(found)
        if field.default_factory is not dataclasses.MISSING
    }


def _shown(value: object) -> str:
    """Return a default as people type it."""
    if isinstance(value, timedelta):
        minutes, rest = divmod(value, timedelta(minutes=1))
        assert not rest, f"{value} is no number of minutes: this test has to learn how it is typed"
        return f"timedelta(minutes={minutes})"
    if isinstance(value, timezone):
        return str(value)
    # Text in double quotes, an enumeration as the text that stands for it.
    return f'"{value}"' if isinstance(value, str) else repr(value).replace("'", '"')


def _answered(found: Any, signature: inspect.Signature) -> str:
    told = str(signature.return_annotation).removeprefix("pd.")
    if hasattr(found, "__wrapped__"):
        # A generator that ``contextmanager`` has made something for ``with`` of.
        return told.replace("Iterator[", "ContextManager[")
    return told


def described_elsewhere() -> set[str]:
    """Return errors and answers, which have tables, and the methods of stores that are named without an entry."""
    table = API.partition("## Errors")[2]
    errors = set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE))
    rest = API.partition("The rest of the protocol")[2].partition(".\n\n")[0]
    answers = {name for module, name, _ in ANSWERS if module == "fleetpulse"}
    return errors | answers | {f"store.{name}" for name in _SPAN.findall(rest)}


def test_whatever_is_public_is_in_docs_api() -> None:
    """Each name of ``fleetpulse`` and ``fleetpulse.frames``, and each public method, has an entry."""
    wanted = {f"{prefix}.{name}".lstrip(".") for prefix, owner in OWNERS.items() for name in public(owner)}

    assert sorted(wanted - set(entries()) - described_elsewhere()) == []


def test_docs_api_describes_nothing_that_there_is_not() -> None:
    """An entry, and each method that is named without one, is a public name."""
    known = {f"{prefix}.{name}".lstrip(".") for prefix, owner in OWNERS.items() for name in public(owner)}

    assert sorted((set(entries()) | described_elsewhere()) - known - set(ATTRIBUTES)) == []


@pytest.mark.parametrize("name", sorted(set(entries()) - set(ATTRIBUTES)))
def test_signatures_in_docs_api_are_those_of_the_code(name: str) -> None:
    """Parameters in their order, defaults, which go by name only, and what is answered."""
    assert entries()[name] == typed(name)


def test_attributes_in_docs_api_are_those_of_the_code() -> None:
    """What is set by a constructor is as it is declared there."""
    with fleetpulse.DatabaseManager("sqlite://") as database, PersistenceService(database) as service:
        assert service.store is database.store
    assert {name: entries()[name] for name in ATTRIBUTES} == ATTRIBUTES


def test_names_in_passing_are_those_of_the_code() -> None:
    """What the text calls ``service.something``, outside of entries and examples, is there."""
    text = re.sub(r"^```.*?^```", "", API, flags=re.MULTILINE | re.DOTALL)
    named = [found for span in _SPAN.findall(text) if (found := _NAMED.match(span))]

    assert [span.string for span in named if span["name"] not in set(public(OWNERS[span["owner"]])) | {"store"}] == []


@pytest.mark.parametrize(("module", "name", "said"), ANSWERS, ids=[name for _, name, _ in ANSWERS])
def test_attributes_of_answers_are_those_of_the_code(module: str, name: str, said: str) -> None:
    """The table of what calls answer names each attribute of each class, in its order."""
    found = getattr(importlib.import_module(module), name)
    if issubclass(found, DeclarativeBase):
        expected = list(found.__table__.columns.keys())
    elif dataclasses.is_dataclass(found):
        properties = [each for each in vars(found) if isinstance(vars(found)[each], property)]
        expected = [field.name for field in dataclasses.fields(found)] + properties
    else:
        expected = ["after"]

    assert _SPAN.findall(said) == expected


def test_answers_of_calls_are_told() -> None:
    """Each class of ours that a call answers is in the table, or has an entry of its own."""
    told = {name for _, name, _ in ANSWERS} | set(entries()) | described_elsewhere()
    answered = {
        word
        for said in entries().values()
        for word in re.findall(r"[A-Z]\w+", said.rpartition("->")[2])
        if said.startswith("service.")
    }

    assert sorted(answered - told - {"Sequence", "None"}) == []


def test_errors_in_docs_api_are_those_of_the_code() -> None:
    """The table of errors names their attributes, and marks those that are no ``StorageError``."""
    for name, mark, said in re.findall(r"^\| `(\w+)`( \(no `StorageError`\))? \| (.+) \|$", API, re.MULTILINE):
        error = getattr(fleetpulse, name)
        described = (inspect.getdoc(error) or "").partition("Attributes:")[2]
        attributes = re.findall(r"^    (\w+):", described, re.MULTILINE)

        assert name == "FleetpulseError" or issubclass(error, fleetpulse.StorageError) is not bool(mark), name
        assert _SPAN.findall(said.rpartition("; ")[2] if "; " in said else "") == attributes, name


def test_members_of_enumerations_are_told() -> None:
    """Entries of outcomes, tables and tiers name each member."""
    for kind in (fleetpulse.Outcome, fleetpulse.Table, fleetpulse.Tier):
        entry = re.search(rf"^- `{kind.__name__}`: ((?:.|\n  )+)", API, re.MULTILINE)
        assert entry is not None

        assert [each.name for each in kind if f"`{each.name}`" not in entry[1]] == []


# ---------------------------------------------------------------- reports and the command line


def section(path: Path, heading: str) -> str:
    """Return what stands below *heading*, up to the next one."""
    found = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", path.read_text(encoding="utf-8"), re.M | re.S)
    assert found is not None, f"{path.name} has no section {heading}"
    return found[1]


@pytest.mark.parametrize("report", CATALOGUE.values(), ids=CATALOGUE)
def test_report_is_defined_with_what_it_takes(report: Definition) -> None:
    """docs/reports.md has a section per report: a line for each column, and each filter and option by its flag."""
    text = section(DOCS / "reports.md", report.name)
    listed = [name for row in re.findall(r"^\| ([\w, ]+) \|", text, re.MULTILINE) for name in row.split(", ")]
    flags = [f"--{name.replace('_', '-')}" for name in (*report.filters, *(each.word for each in report.options))]

    assert [column.name for column in report.columns if column.name not in listed] == []
    assert [flag for flag in flags if not re.search(rf"`{flag}[` ]", text)] == []


@pytest.mark.parametrize("command", ["report", "export"])
def test_command_is_described_with_its_filters_and_options(command: str) -> None:
    """docs/cli.md names each flag in the command's own section, those of all commands apart."""
    shared = {"--config", "--database-url", "--home", "--help"}
    text = section(DOCS / "cli.md", f"fleetpulse {command}")
    [found] = [each for name, each in _commands() if name == command]
    flags = {flag for each in found.params for flag in (*each.opts, *each.secondary_opts) if flag.startswith("--")}

    assert flags > shared - {"--help"}
    assert sorted(flag for flag in flags - shared if not re.search(rf"`[^`\n]*{flag}\b", text)) == []


def _commands() -> Iterator[tuple[str, Any]]:
    group: Any = typer.main.get_command(app)
    yield from group.commands.items()


# ---------------------------------------------------------------- links


PAGES = sorted([DOCS.parent / "README.md", *DOCS.rglob("*.md")])
_LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """Return what headings of *page* are reached by: lower case, without punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files and folders that a page links to are there, and so are the headings."""
    broken = []
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        there = (page.parent / target).resolve() if target else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(f"{target}#{anchor}" if anchor else target)

    assert broken == []

"""
Revisions on SQLite, which rebuilds a table where a server alters it, and guards nothing while it does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.config import Config
from sqlalchemy import Engine, insert, select, text

import migrations
from storage import schema
from storage.errors import PermanentStorageError, TransientStorageError
from storage.lite.connection import make_engine
from storage.model import AgentSpec
from storage.models import Agent, AgentSchedule, Reason
from storage.repositories import AgentRepository
from storage.sqlstate import translated
from tests.migrations.test_schema import NOW, populate, upgrade_at_once

#: What the newest revision of the project is; tests add one more.
HEAD = schema.head()
#: A revision as Alembic writes them for engines that cannot alter a table.
REBUILDS = '''
"""Rebuild agents."""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "9999", "HEAD", None, None

def upgrade():
    with op.batch_alter_table("agents", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.alter_column("endpoint", existing_type=sa.Text(), nullable=True)
        batch.add_column(sa.Column("zone", sa.Text(), server_default="here", nullable=False))

def downgrade():
    with op.batch_alter_table("agents", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_column("zone")
        batch.alter_column("endpoint", existing_type=sa.Text(), nullable=False)
'''
#: A revision that forgets who refers to what it removes.
ORPHANS = '''
"""Lose agents."""
from alembic import op
revision, down_revision, branch_labels, depends_on = "9999", "HEAD", None, None

def upgrade():
    op.execute("DELETE FROM agents")

def downgrade():
    pass
'''


@pytest.fixture(params=["file", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """Return an engine on an empty database, in a file and in memory."""
    found = make_engine("sqlite://" if request.param == "memory" else f"sqlite:///{tmp_path / 'test.db'}")
    yield found
    found.dispose()


def add_revision(content: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a tree of revisions that has one more."""
    source = Path(next(iter(migrations.__path__)))
    shutil.copytree(source, folder / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "migrations/versions/9999_test.py").write_text(content.replace("HEAD", HEAD))
    config = Config()
    config.set_main_option("script_location", str(folder / "migrations"))
    monkeypatch.setattr(schema, "_config", lambda: config)


def scalar(engine: Engine, statement: str) -> object:
    """Return the one value that *statement* answers."""
    with engine.connect() as connection:
        return connection.execute(text(statement)).scalar_one()


def test_up_down_up_in_memory_and_in_a_file(engine: Engine) -> None:
    """Head is what the models say after each way there, and a populated database goes down to nothing."""
    for _ in range(2):
        schema.upgrade(engine)
        populate(engine)
        assert schema.check(engine) == []
        schema.downgrade(engine, "base")
        assert schema.current(engine) is None
        assert scalar(engine, "SELECT count(*) FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'") == 0


def test_upgrades_at_once(tmp_path: Path) -> None:
    """Of processes that upgrade a file at the same moment one does the work, the others wait and find it done."""
    url = f"sqlite:///{tmp_path / 'test.db'}"
    engine = make_engine(url)
    upgrade_at_once(engine, url)
    engine.dispose()


def test_upgrade_of_what_is_there_changes_nothing(engine: Engine) -> None:
    """An upgrade at head keeps every row."""
    schema.upgrade(engine)
    populate(engine)
    schema.upgrade(engine)

    assert scalar(engine, "SELECT count(*) FROM agents") == 1


def test_tables_are_not_taken_away_from_views(engine: Engine) -> None:
    """A downgrade under views of the time series is refused as by a server, whole; without them it goes through."""
    schema.upgrade(engine)
    populate(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW lost AS SELECT * FROM nowhere"))
        connection.execute(text("CREATE VIEW names AS SELECT name FROM agents"))
    with pytest.raises(TransientStorageError, match="view names reads tables that would go") as caught:
        schema.downgrade(engine, "base")
    kept = scalar(engine, "SELECT name FROM names")
    with engine.begin() as connection:
        connection.execute(text("DROP VIEW names"))
    schema.downgrade(engine, "base")

    assert caught.value.sqlstate == "2BP01"
    assert kept == "a"
    assert schema.current(engine) is None


def test_rebuilt_table_keeps_rows_references_and_views(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revision that copies a table to another shape, up and down, leaves all that hangs on it as it was."""
    schema.upgrade(engine)
    populate(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE VIEW names AS SELECT name FROM agents"))
        before = connection.execute(select(Agent.__table__)).mappings().one()
    add_revision(REBUILDS, tmp_path, monkeypatch)
    schema.upgrade(engine)
    zone = scalar(engine, "SELECT zone FROM agents")
    schema.downgrade(engine, HEAD)
    with engine.connect() as connection:
        after = connection.execute(select(Agent.__table__)).mappings().one()
        schedules = connection.execute(select(AgentSchedule.agent_id)).scalars().all()

    assert zone == "here"
    assert after == before
    assert schedules == [before["id"]]
    assert scalar(engine, "SELECT name FROM names") == "a"
    assert schema.check(engine) == []
    with pytest.raises(PermanentStorageError, match="23503"), translated("it"), engine.begin() as connection:
        connection.execute(text("DELETE FROM agents"))
    with pytest.raises(PermanentStorageError, match="23514"), translated("it"), engine.begin() as connection:
        connection.execute(text("UPDATE agents SET state = 'gone'"))


def test_rebuilt_table_gives_no_id_again(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of a rebuilt table go on where they were, also where its last row, or every row, was gone by then."""
    schema.upgrade(engine)
    agents = AgentRepository(engine)
    agents.sync([AgentSpec(name=name, endpoint="http://127.0.0.1/") for name in "abc"], "file", NOW)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM agent_schedules"))
        connection.execute(text("DELETE FROM agents WHERE id = 3"))
    add_revision(REBUILDS, tmp_path, monkeypatch)
    schema.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM agents"))
    schema.downgrade(engine, HEAD)
    added = agents.add(AgentSpec(name="d", endpoint="http://127.0.0.1/"), NOW)

    assert added.id == 4


def test_revision_that_orphans_rows_is_refused(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """References are off while tables are rebuilt; what would break one is rolled back at the end."""
    schema.upgrade(engine)
    populate(engine)
    add_revision(ORPHANS, tmp_path, monkeypatch)
    with pytest.raises(PermanentStorageError, match=r"row 1 of \w+ refers to a row of agents"):
        schema.upgrade(engine)

    assert schema.current(engine) == HEAD
    assert scalar(engine, "SELECT count(*) FROM agents") == 1


def test_references_hold_after_an_upgrade(engine: Engine) -> None:
    """The connection that has migrated is given back as it was."""
    schema.upgrade(engine)

    for _ in range(2):
        assert scalar(engine, "PRAGMA foreign_keys") == 1
        assert scalar(engine, "PRAGMA legacy_alter_table") == 0


def test_agents_can_be_read_while_another_writes(tmp_path: Path) -> None:
    """A collector reads its agents whatever the writer does, and registers some when its turn comes."""
    engine = make_engine(f"sqlite:///{tmp_path / 'test.db'}")
    schema.upgrade(engine)
    populate(engine)
    agents = AgentRepository(engine)
    with engine.begin() as connection:
        connection.execute(insert(Reason).values(reason="writing"))
        names = [record.spec.name for record in agents.list()]
        fingerprint = agents.fingerprint()
    result = agents.sync([], "file", NOW)

    assert names == ["a"]
    assert agents.fingerprint() != fingerprint
    assert result.retired == ("a",)
    engine.dispose()

"""
The plan of the roles: complete, repeatable, and able to put right what somebody changed.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg import errors
from sqlalchemy.engine import make_url

from storage import schema
from storage.errors import StorageError
from storage.layout import TABLE_CODE, TIER_CODE, parent, slice_of
from storage.model import ROLLUPS, Table, Tier, Window
from storage.models import Base
from storage.open import open_store
from storage.pg import rights, roles, scram
from storage.store import Capability
from tests.roles import Place, lent
from tests.servers import Servers

#: Roles are told apart by their sessions.
pytestmark = pytest.mark.needs(Capability.SEVERAL_WRITERS)


def test_everything_of_the_schema_has_its_rights(database_servers: Servers, engine_name: str) -> None:
    """No table, view or function is forgotten: what is made without an entry in the rights fails here."""
    with lent(database_servers, engine_name) as place, place.connected() as connection:
        relations = connection.execute(
            "SELECT relname, relkind::text FROM pg_class AS c WHERE relnamespace = current_schema()::regnamespace"
            " AND relkind IN ('r', 'p', 'v', 'm')"
            " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = c.oid AND d.deptype = 'e')"
        ).fetchall()
        routines = connection.execute(
            "SELECT proname FROM pg_proc AS p WHERE pronamespace = current_schema()::regnamespace"
            " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')"
        ).fetchall()
    tables = {name for name, kind in relations if kind in "rp"}

    assert {name for name, _ in relations if not rights.is_ours(name)} == set()
    assert {name for (name,) in routines} <= rights.ROUTINES
    assert {table.name for table in Base.metadata.sorted_tables} <= set(rights.WRITER)
    assert set(rights.WRITER) - tables <= {parent(table, tier) for table in Table for tier in ROLLUPS}
    assert {name for name, kind in relations if kind == "v"} >= rights.VIEWS


def test_applied_twice_does_nothing(database_servers: Servers, engine_name: str) -> None:
    """The plan is what is done, a second one is empty, and what belongs to nobody else belongs to the owner."""
    with lent(database_servers, engine_name) as place:
        planned = place.plan()
        done = place.apply()
        again = place.apply()
        with place.connected() as connection:
            strangers = connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace"
                " AND pg_get_userbyid(relowner) <> %(owner)s"
                " UNION ALL SELECT proname FROM pg_proc AS p WHERE pronamespace = current_schema()::regnamespace"
                " AND pg_get_userbyid(proowner) <> %(owner)s"
                " AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.objid = p.oid AND d.deptype = 'e')",
                {"owner": place.names.owner},
            ).fetchall()

    assert len(planned) > 50
    assert done == planned
    assert again == []
    assert strangers == []


def test_what_somebody_changed_is_put_right(database_servers: Servers, engine_name: str) -> None:
    """Rights that are too many, too few, inherited, or somebody else's show in the plan, and go with it."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        names = place.names
        stranger = place.other("stranger")
        database = make_url(place.url).database
        with place.connected() as connection:
            for statement in (
                f"CREATE ROLE {stranger}",
                f"GRANT DELETE, TRUNCATE ON health_checks TO {names.writer}",
                f"GRANT UPDATE (unit) ON metrics TO {names.writer}",
                f"GRANT USAGE ON SEQUENCE agents_id_seq TO {names.reader}",
                "GRANT INSERT ON agents TO PUBLIC",
                f"REVOKE SELECT ON losses FROM {names.reader}",  # noqa: S608  # a statement of the test itself
                f"GRANT {names.owner} TO {names.writer}",
                f"GRANT pg_read_all_data TO {names.reader}",
                f"ALTER ROLE {names.reader} SUPERUSER CREATEROLE NOLOGIN",
                f"ALTER ROLE {names.reader} IN DATABASE {database} SET statement_timeout = 0",
                f"ALTER ROLE {names.reader} IN DATABASE {database} RESET default_transaction_read_only",
                f"GRANT CREATE ON SCHEMA public TO PUBLIC, {names.writer}",
                f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC",
                f"GRANT CREATE ON DATABASE {database} TO {names.writer}",
                f"ALTER TABLE agents OWNER TO {stranger}",
                f"ALTER VIEW fleet_health OWNER TO {names.writer}",
                f"ALTER FUNCTION latency_bin(float8) OWNER TO {stranger}",
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {names.owner} IN SCHEMA public GRANT INSERT ON TABLES TO {names.reader}",
            ):
                connection.execute(statement)
        done = "\n".join(place.apply())

        assert place.plan() == []
        for part in (
            f'REVOKE DELETE ON TABLE "public"."health_checks" FROM "{names.writer}"',
            f'REVOKE TRUNCATE ON TABLE "public"."health_checks" FROM "{names.writer}"',
            f'REVOKE UPDATE ("unit") ON TABLE "public"."metrics" FROM "{names.writer}"',
            f'REVOKE USAGE ON SEQUENCE "public"."agents_id_seq" FROM "{names.reader}"',
            'REVOKE INSERT ON TABLE "public"."agents" FROM PUBLIC',
            f'GRANT SELECT ON TABLE "public"."losses" TO "{names.reader}"',
            f'REVOKE "{names.owner}" FROM "{names.writer}"',
            f'REVOKE "pg_read_all_data" FROM "{names.reader}"',
            f'ALTER ROLE "{names.reader}" LOGIN NOSUPERUSER NOCREATEROLE',
            "SET statement_timeout = '60s'",
            "SET default_transaction_read_only = 'on'",
            'REVOKE CREATE ON SCHEMA "public" FROM PUBLIC',
            f'REVOKE CREATE ON SCHEMA "public" FROM "{names.writer}"',
            f'REVOKE TEMPORARY ON DATABASE "{database}" FROM PUBLIC',
            f'REVOKE CREATE ON DATABASE "{database}" FROM "{names.writer}"',
            f'ALTER TABLE "public"."agents" OWNER TO "{names.owner}"',
            f'ALTER VIEW "public"."fleet_health" OWNER TO "{names.owner}"',
            f'GRANT SELECT ON TABLE "public"."fleet_health" TO "{names.writer}"',
            f'ALTER ROUTINE latency_bin(double precision) OWNER TO "{names.owner}"',
            f'REVOKE INSERT ON TABLES FROM "{names.reader}"',
        ):
            assert part in done


def test_rights_of_everybody_are_kept_when_asked(database_servers: Servers, engine_name: str) -> None:
    """In a database that is shared, temporary tables of others can go on."""
    with lent(database_servers, engine_name) as place:
        wanted = roles.Wanted(names=place.names, keep_public=True)
        with place.store() as store:
            done = [change.text for change in roles.apply(store.engine, wanted)]
            left = roles.plan(store.engine, wanted)

        assert not [text for text in done if "PUBLIC" in text and "DATABASE" in text]
        assert left == []


def test_others_tables_are_left_alone(database_servers: Servers, engine_name: str) -> None:
    """In a schema that is shared, nothing changes hands, and nothing is granted, that is not ours."""
    with lent(database_servers, engine_name) as place:
        with place.connected() as connection:
            connection.execute("CREATE TABLE health_of_others (secret text)")
            connection.execute("CREATE VIEW agents_of_others AS SELECT name FROM agents")
            connection.execute("CREATE FUNCTION others() RETURNS int LANGUAGE sql RETURN 1")
        done = "\n".join(place.apply())
        with place.connected(place.names.reader) as connection, pytest.raises(errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM health_of_others")

        assert "others" not in done


def test_password_is_hidden_kept_as_verifier_and_set_once(database_servers: Servers, engine_name: str) -> None:
    """Neither plan nor statement shows it; the same one again is no change, another one is."""
    with lent(database_servers, engine_name) as place, place.store() as store:
        password = "geh'eim $100"
        wanted = roles.Wanted(names=place.names, passwords={place.names.reader: password})
        changes = [change for change in roles.apply(store.engine, wanted) if change.is_password]
        again = roles.plan(store.engine, wanted)
        other = roles.plan(store.engine, roles.Wanted(names=place.names, passwords={place.names.reader: "other"}))
        none = roles.plan(store.engine, roles.Wanted(names=place.names))
        with place.connected() as connection:
            kept = dict(
                connection.execute(
                    "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY (%s)", (list(place.names.all()),)
                ).fetchall()
            )

        assert [change.text for change in changes] == [f"ALTER ROLE \"{place.names.reader}\" PASSWORD '***';"]
        assert password not in changes[0].statement.as_string()
        assert again == none == []
        assert [change.text for change in other] == [changes[0].text]
        assert scram.matches(kept[place.names.reader], password)
        assert not scram.matches(kept[place.names.reader], f"{password} ")
        assert kept[place.names.owner] is None


def test_role_that_may_not_is_told_what_it_takes(database_servers: Servers, engine_name: str) -> None:
    """Whoever lacks a right learns which statement, and who could; nothing is changed."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        other = rights.Names(owner=f"{place.names.owner}_2", writer=place.names.writer, reader=place.names.reader)
        with (
            place.store(place.names.writer) as store,
            pytest.raises(
                StorageError, match=f"role {place.names.writer} may not do this: .*run it as a superuser, or as a role"
            ),
        ):
            roles.apply(store.engine, roles.Wanted(names=other))

        assert place.plan() == []


def test_warning_of_the_server_is_an_error(database_servers: Servers, engine_name: str) -> None:
    """A REVOKE that had no effect, because its role may not, takes everything back."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        database = make_url(place.url).database
        with place.connected() as connection:
            connection.execute(f"GRANT TEMPORARY ON DATABASE {database} TO PUBLIC")
        with (
            place.store(place.names.owner) as store,
            pytest.raises(StorageError, match=r"may not do this: REVOKE TEMPORARY ON DATABASE .* FROM PUBLIC"),
        ):
            roles.apply(store.engine, roles.Wanted(names=place.names))


def with_administrator(place: Place) -> str:
    """Make a role as managed servers give it: it may make roles, and the database is its own; return its name."""
    database, admin = make_url(place.url).database, place.other("admin")
    with place.connected() as connection:
        connection.execute(f"CREATE ROLE {admin} LOGIN CREATEROLE PASSWORD '{admin}'")
        connection.execute(f"ALTER DATABASE {database} OWNER TO {admin}")
    return admin


def test_administrator_makes_roles_for_an_empty_database(database_servers: Servers, engine_name: str) -> None:
    """No superuser is needed: roles first, the schema by the owner, and once more for what is in it then."""
    with lent(database_servers, engine_name, empty=True) as place:
        admin = with_administrator(place)
        with place.store(admin) as store:
            roles.apply(store.engine, place.wanted)
        with place.store(place.names.owner) as store:
            schema.upgrade(store.engine)
            store.provision()
        with place.store(place.names.reader) as store:
            store.query("SELECT * FROM fleet_health")
        with place.store(admin) as store:
            rest = roles.apply(store.engine, place.wanted)
            again = roles.apply(store.engine, place.wanted)
        with place.store(place.names.writer) as store:
            store.check_schema()

        # It cannot see whether passwords are set already.
        assert [change.text for change in rest if "GRANT INSERT" in change.text]
        assert [change.text for change in rest if "OWNER" in change.text] == []
        assert [change for change in again if not change.is_password] == []
        assert place.plan() == []


def test_administrator_hands_over_what_it_made(database_servers: Servers, engine_name: str) -> None:
    """What an administrator upgraded before there were roles becomes the owner's; with TimescaleDB by a superuser."""
    with lent(database_servers, engine_name, empty=True) as place:
        admin = with_administrator(place)
        with place.store(admin) as store:
            schema.upgrade(store.engine)
            store.provision()
            if store.engine_name == "timescaledb":
                with pytest.raises(StorageError, match="schema _timescaledb_internal: run it as a superuser"):
                    roles.apply(store.engine, place.wanted)
                place.apply()
            else:
                roles.apply(store.engine, place.wanted)

        assert place.plan() == []


def test_schema_of_another_name(database_servers: Servers, engine_name: str) -> None:
    """Where the tables lie in a schema of their own, the roles find them without being told."""
    with lent(database_servers, engine_name, empty=True) as place:
        with place.connected() as connection:
            connection.execute('CREATE SCHEMA "Pulse of it"')
        path = quote('-csearch_path="Pulse\\ of\\ it",public')
        with closing(open_store(f"{place.url}{'&' if '?' in place.url else '?'}options={path}")) as store:
            schema.upgrade(store.engine)
            store.provision()
            roles.apply(store.engine, place.wanted)
            left = roles.plan(store.engine, place.wanted)
        with place.store(place.names.writer) as store:
            store.check_schema()
            day = datetime(2020, 2, 29, tzinfo=UTC)
            store.ensure_partitions(Window(day, day + timedelta(days=1)))
            partitions = store.partitions(Table.HEALTH, Tier.RAW)
            engine = store.engine_name
        with place.store(place.names.reader) as store:
            store.query("SELECT * FROM fleet_health")

        assert left == []
        assert engine == "timescaledb" or partitions[0].name == "health_checks_20200229"


def test_partition_that_is_made_is_the_one_that_rows_look_for(database_servers: Servers, engine_name: str) -> None:
    """Name and bounds are those of the layout, at the ends of months and years, in whatever zone the session is."""
    moments = [
        datetime(2023, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(2024, 2, 29, 0, 0, tzinfo=UTC),
        datetime(2024, 3, 31, 1, 30, tzinfo=UTC),
        datetime(2024, 12, 31, 12, 0, tzinfo=UTC),
    ]
    with lent(database_servers, engine_name) as place, place.connected() as connection, place.store() as store:
        if store.engine_name != "postgresql":
            with pytest.raises(errors.UndefinedFunction):
                connection.execute("SELECT make_partition(1::smallint, 0::smallint, now())")
            return
        everybody = connection.execute(
            "SELECT has_function_privilege('public', 'make_partition(smallint, smallint, timestamptz)', 'EXECUTE')"
        ).fetchone()
        connection.execute("SET TimeZone = 'Pacific/Auckland'; SET DateStyle = 'SQL, DMY'")
        # A table that a session slips in between is not looked at.
        connection.execute("CREATE TEMPORARY TABLE horizons (tbl int, tier int, closed_before timestamptz)")
        made = [
            connection.execute(
                "SELECT make_partition(%s::smallint, %s::smallint, %s)", (TABLE_CODE[table], TIER_CODE[tier], moment)
            ).fetchone()
            for table in Table
            for tier in Tier
            for moment in moments
        ]
        connection.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'")
        bounds = dict(
            connection.execute(
                "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relispartition AND relkind = 'r'"
            ).fetchall()
        )
        expected = {slice_of(table, tier, moment) for table in Table for tier in Tier for moment in moments}
        with pytest.raises(errors.InvalidParameterValue):
            connection.execute("SELECT make_partition(4::smallint, 0::smallint, now())")
        with pytest.raises(errors.InvalidParameterValue):
            connection.execute("SELECT make_partition(1::smallint, 0::smallint, 'infinity')")

        assert everybody == (False,)
        for part in expected:
            low, high = (moment.strftime("%Y-%m-%d %H:%M:%S+00") for moment in (part.window.start, part.window.end))
            assert bounds[part.name] == f"FOR VALUES FROM ('{low}') TO ('{high}')"
        assert sum(row == (True,) for row in made) == len(expected)


def test_partition_below_the_horizon_is_not_made(database_servers: Servers, engine_name: str) -> None:
    """What was dropped never comes back empty, whoever asks."""
    with lent(database_servers, engine_name) as place, place.store() as store:
        if store.engine_name != "postgresql":
            return
        day = datetime(2024, 2, 29, tzinfo=UTC)
        store.close_below(Table.HEALTH, Tier.RAW, day + timedelta(days=1))
        with place.connected() as connection:
            below, above = (
                connection.execute("SELECT make_partition(1::smallint, 0::smallint, %s)", (moment,)).fetchone()
                for moment in (day, day + timedelta(days=1))
            )

        assert (below, above) == ((False,), (True,))


def test_partitions_of_everybody_are_the_owners(database_servers: Servers, engine_name: str) -> None:
    """Whoever upgrades, the superuser included: the partitions are the owner's, and no plan is needed for them."""
    with lent(database_servers, engine_name) as place:
        place.apply()
        now = datetime.now(UTC)
        with place.store() as store:
            store.ensure_partitions(Window(now + timedelta(days=50), now + timedelta(days=51)))

        assert place.plan() == []


def test_roles_are_removed_as_documented(database_servers: Servers, engine_name: str) -> None:
    """The statements of docs/roles.md leave tables and rows, and no role."""
    document = (Path(__file__).parents[2] / "docs" / "roles.md").read_text(encoding="utf-8")
    recipe = document.partition("## Removing them")[2].partition("```sql\n")[2].partition("```")[0]
    with lent(database_servers, engine_name) as place:
        place.apply()
        with place.connected() as connection:
            for statement in recipe.replace("fleetpulse_", place.other("")).split(";"):
                connection.execute(statement.encode())
            left = connection.execute(
                "SELECT count(*) FROM pg_roles WHERE rolname = ANY (%s)", (list(place.names.all()),)
            ).fetchone()
        with place.store() as store:
            store.check_schema()

    assert left == (0,)

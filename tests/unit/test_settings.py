"""
Settings: what is read, from where, and what the errors say.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from collector.config import CollectorConfig, ProgressRules
from fleetpulse.settings import Settings, load_settings
from rollups.policy import RetentionPolicy
from storage.errors import SettingsError
from storage.model import AgentSpec

WHOLE = """
home = "/srv/fleetpulse"

[database]
url_file = "secrets/database"

[collector]
name = "edge-1"
host = "box"
host_interval = "30s"
flush_interval = "250ms"
sync_interval = "5s"
refresh_interval = "20s"
listen_host = "::1"
listen_port = 0

[spool]
max_size = "64MiB"
max_age = "2d"
keep_committed = "1m"

[limits]
body = "1MiB"
header = "8KiB"
samples = 10
series = 20
labels = 3
name = "40B"
value = "50B"
redirects = 0

[retention]
raw = "3d"
1m = "10d"
1h = "100d"
1d = "forever"
ledger = "6d"

[progress.worker]
counter = "tasks_done_total"
counter_within = "10m"
task_p95_factor = 3
task_min = "90s"
heartbeat_within = "45s"

[progress."*"]
task_p95_factor = 2.5

[progress.free]

[credentials.api]
hosts = ["api.example.org", "*.example.org"]
bearer_token_file = "secrets/token"
header_files = { X-Key = "/etc/key" }
client_cert_file = "cert.pem"
client_key_file = "key.pem"
ca_file = "ca.pem"

[[agents]]
name = "web"
type = "service"
endpoint = "https://api.example.org/health"
labels = { zone = "a" }
interval = "5s"
timeout = "500ms"
rise = 2
fall = 3
credential = "api"
options = { headers = { Accept = "application/json" } }
paused = true

[[agents]]
name = "fast"
probe = "tcp"
endpoint = "127.0.0.1:80"
interval = "2s"
"""


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("FLEETPULSE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FLEETPULSE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def load(tmp_path: Path, text: str, **overrides: object) -> Settings:
    """Load settings from a file that holds *text*."""
    path = tmp_path / "fleetpulse.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, overrides)


def test_defaults_without_a_file(tmp_path: Path) -> None:
    """Without file and variables everything has a default, and the database is the embedded one."""
    settings = load_settings()
    config = settings.collector_config()
    plain = CollectorConfig(name="main", home=tmp_path / "home")

    assert settings.file is None
    assert settings.database_url() is None
    assert config == CollectorConfig(name="main", home=tmp_path / "home", host=config.host)
    assert config.host
    assert (config.limits, config.spool) == (plain.limits, plain.spool)
    assert settings.retention_policy() == RetentionPolicy()


def test_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key reaches its place, in its unit; relative files are taken from the folder of the settings file."""
    monkeypatch.delenv("FLEETPULSE_HOME")
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "database").write_text("postgresql://u:p@h/d\n")
    settings = load(tmp_path, WHOLE)
    config = settings.collector_config()

    assert settings.database_url() == "postgresql://u:p@h/d"
    assert settings.retention_policy() == RetentionPolicy(
        raw=timedelta(days=3), m1=timedelta(days=10), h1=timedelta(days=100), d1=None, ledger=timedelta(days=6)
    )
    assert (config.name, config.home, config.host) == ("edge-1", Path("/srv/fleetpulse"), "box")
    assert (config.host_interval_s, config.flush_interval_s) == (30.0, 0.25)
    assert (config.sync_interval_s, config.refresh_interval_s) == (5.0, 20.0)
    assert (config.listen_host, config.listen_port) == ("::1", 0)
    assert (config.spool.max_bytes, config.spool.max_age) == (64 * 1024**2, timedelta(days=2))
    assert config.spool.keep_committed == timedelta(minutes=1)
    assert [getattr(config.limits, name) for name in config.limits.__slots__] == [
        1024**2, 8192, 10, 20, 3, 40, 50, 0,
    ]  # fmt: skip
    assert config.progress == {
        "worker": ProgressRules(
            counter="tasks_done_total",
            counter_within_s=600.0,
            task_p95_factor=3.0,
            task_min_s=90.0,
            heartbeat_within_s=45.0,
        ),
        "*": ProgressRules(task_p95_factor=2.5, task_min_s=60.0),
        "free": ProgressRules(task_min_s=60.0),
    }
    assert [name for name, rules in config.progress.items() if rules.empty] == ["free"]
    credential = config.credentials["api"]
    assert credential.hosts == ("api.example.org", "*.example.org")
    assert credential.bearer_token_file == tmp_path / "secrets" / "token"
    assert credential.header_files == {"X-Key": Path("/etc/key")}
    assert credential.client_cert_file == tmp_path / "cert.pem"
    assert credential.client_key_file == tmp_path / "key.pem"
    assert credential.ca_file == tmp_path / "ca.pem"
    assert config.agents == (
        AgentSpec(
            name="web",
            type="service",
            endpoint="https://api.example.org/health",
            labels={"zone": "a"},
            interval_s=5.0,
            timeout_s=0.5,
            rise=2,
            fall=3,
            credential="api",
            options={"headers": {"Accept": "application/json"}},
            paused=True,
        ),
        AgentSpec(name="fast", probe="tcp", endpoint="127.0.0.1:80", interval_s=2.0, timeout_s=2.0),
    )


def test_command_line_before_environment_before_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one key the command line counts, then the variable, then the file; other keys of the section stay."""
    text = "[collector]\nname = 'file'\nlisten_port = 1\nflush_interval = '3s'"
    monkeypatch.setenv("FLEETPULSE_COLLECTOR_NAME", "variable")
    monkeypatch.setenv("FLEETPULSE_COLLECTOR_LISTEN_PORT", "2")
    monkeypatch.setenv("FLEETPULSE_COLLECTOR_HOST", "")
    monkeypatch.setenv("FLEETPULSE_RETENTION_1M", "60d")
    settings = load(tmp_path, text, collector={"name": "line"})

    assert (settings.collector.name, settings.collector.listen_port) == ("line", 2)
    assert settings.collector.flush_interval == timedelta(seconds=3)
    assert settings.collector.host
    assert settings.retention.m1 == timedelta(days=60)


def test_file_is_found(tmp_path: Path) -> None:
    """Without a name the file of this folder is read, else that of the home folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "fleetpulse.toml").write_text("[collector]\nname = 'home'")
    assert load_settings().collector.name == "home"
    (tmp_path / "fleetpulse.toml").write_text("[collector]\nname = 'here'")

    assert load_settings().collector.name == "here"
    assert load_settings().file == tmp_path / "fleetpulse.toml"


AGENT = "[[agents]]\nname = 'a'\nendpoint = 'http://h/'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colector = 1", 'FILE: unknown key colector: did you mean "collector"'),
        ("[collector]\nnmae = 'x'", 'FILE: unknown key collector.nmae: did you mean "name"'),
        ("[limits]\nzzzz = 1", "FILE: unknown key limits.zzzz: expected one of body, header, labels"),
        (f"\n{AGENT}intervall = '3s'", 'FILE line 2: unknown key agents[1].intervall: did you mean "interval"'),
        ("[retention]\n2m = '1d'", 'FILE: unknown key retention.2m: did you mean "1m"'),
        ("[retention]\nm1 = '1d'", "FILE: unknown key retention.m1"),
        ("[credentials.x]\nhost = ['a']", 'FILE: unknown key credentials.x.host: did you mean "hosts"'),
        ("[collector]\nflush_interval = '5x'", 'FILE: collector.flush_interval is "5x", expected a duration with its'),
        ("[collector]\nflush_interval = 5", "FILE: collector.flush_interval is 5, expected a duration with its unit"),
        ("[collector]\nflush_interval = '1ms'", 'FILE: collector.flush_interval is "1ms", expected at least 50ms'),
        ("[collector]\nflush_interval = '2m'", 'FILE: collector.flush_interval is "2m", expected at most 1m'),
        ("[collector]\nlisten_port = 70000", "FILE: collector.listen_port is 70000, expected at most 65535"),
        ("[collector]\nlisten_port = 'x'", 'FILE: collector.listen_port is "x", expected a whole number'),
        ("[collector]\nname = 'a b'", 'FILE: collector.name is "a b", expected text that matches'),
        ("[spool]\nmax_size = '1kB'", 'FILE: spool.max_size is "1kB", expected at least 16MiB'),
        ("[limits]\nbody = '4 megs'", 'FILE: limits.body is "4 megs", expected a size with its unit'),
        ("[retention]\nraw = 'never'", 'FILE: retention.raw is "never", expected a duration with its unit'),
        ("[retention]\nraw = '40d'", "FILE: retention.raw is 40d, expected at most retention.1m 30d"),
        ("[retention]\nraw = 'forever'", "FILE: retention.raw is forever, expected at most retention.1m 30d"),
        ("[retention]\n1d = '7d'", "FILE: retention.1h is 400d, expected at most retention.1d 7d"),
        ("[retention]\nledger = '7d'", "FILE: retention.ledger is 7d, expected at least 9d"),
        ("[spool]\nmax_age = '14d'", "FILE: retention.ledger is 14d, expected more than spool.max_age 14d"),
        ("[progress.w]\ncounter = 'n'", "FILE: progress.w: counter is set and counter_within is not, expected both"),
        ("[progress.w]\ncounter_within = '1m'", "FILE: progress.w: counter_within is set and counter is not"),
        ("[progress.w]\ntask_min = '1m'", "FILE: progress.w: task_min is set and task_p95_factor is not"),
        ("[progress.w]\ntask_p95_factor = 0.5", "FILE: progress.w.task_p95_factor is 0.5, expected at least 1"),
        ("[progress.w]\ntask_p95_factor = 'x'", 'FILE: progress.w.task_p95_factor is "x", expected a number'),
        ("[progress.w]\ntask_p95_factor = inf", "FILE: progress.w.task_p95_factor is inf, expected a finite number"),
        ("[progress.w]\nheartbeat_within = 5", "FILE: progress.w.heartbeat_within is 5, expected a duration with its"),
        (
            "[progress.w]\ncounter = 'n'\ncounter_within = '1ms'",
            'progress.w.counter_within is "1ms", expected at least',
        ),
        ("[progress.w]\nheartbeat = '5s'", 'unknown key progress.w.heartbeat: did you mean "heartbeat_within"'),
        ("collector = 3", "FILE: collector is 3, expected a table"),
        ("agents = 3", "FILE: agents is 3, expected a list"),
        ("home = 3", "FILE: home is 3, expected a path"),
        ("a = = 1", "settings file FILE is not TOML: invalid value (at line 1, column 5)"),
        ("[[agents]]\nendpoint = 'x'", "FILE line 1: agents[1].name is missing"),
        (f"{AGENT}labels = {{ a = 1 }}", "FILE line 1: agents[1].labels.a is 1, expected text"),
        (f"{AGENT}paused = 'maybe'", 'FILE line 1: agents[1].paused is "maybe", expected true or false'),
        (f"{AGENT}interval = '500ms'", "FILE line 1: agent \"a\": interval is '0.5s', expected 1s to 1d"),
        (f"{AGENT}timeout = '16s'", "FILE line 1: agent \"a\": timeout is '16s', expected more than 0s and at most"),
        (f"{AGENT}probe = 'icmp'", "FILE line 1: agent \"a\": probe is 'icmp', expected one of http"),
        (f"{AGENT}credential = 'x'", 'FILE line 1: agent "a": credential is "x", expected one of [credentials]: none'),
        (f"{AGENT}\n{AGENT}", 'agent "a" stands twice: FILE line 1 and FILE line 5, expected each name once'),
        ("agents = [{name = 'a', endpoint = 'x'}, {name = 'a', endpoint = 'x'}]", "FILE agent 1 and FILE agent 2"),
        ("[[agents]]\nname = 'fleetpulse/main'\nendpoint = 'x'", 'FILE line 1: agent "fleetpulse/main": names with'),
        ("[credentials.x]\nhosts = []", "FILE: credentials.x.hosts is a list, expected at least 1 of them"),
        (
            "[credentials.x]\nhosts = ['h']\nbearer_token_file = 'a'\nbearer_token_env = 'B'",
            "FILE: credentials.x: bearer_token_file and bearer_token_env are both set",
        ),
        ("[credentials.x]\nhosts = ['h']\nclient_key_file = 'k'", "FILE: credentials.x: client_key_file is set and"),
    ],
)
def test_errors_name_place_key_and_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    """Whatever is wrong is one line that says where, what was found and what was expected."""
    monkeypatch.delenv("FLEETPULSE_HOME")
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    said = str(caught.value)

    assert message.replace("FILE", str(tmp_path / "fleetpulse.toml")) in said
    assert "\n" not in said


def test_errors_name_variable_and_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is sought where it stands, not in the file."""
    with pytest.raises(SettingsError, match=r"^command line: collector.listen_port is -1, expected at least 0$"):
        load(tmp_path, "[collector]\nlisten_port = 1", collector={"listen_port": -1})
    monkeypatch.setenv("FLEETPULSE_DATABASE_ULR", "x")
    with pytest.raises(
        SettingsError, match=r"^variable FLEETPULSE_DATABASE_ULR: unknown key database.ulr: did you mean"
    ):
        load_settings()


def test_several_errors_are_counted(tmp_path: Path) -> None:
    """One line is shown; the others are counted, so that nobody thinks that it was the only one."""
    with pytest.raises(SettingsError, match=r"\(and 1 more\)$"):
        load(tmp_path, "[collector]\nlisten_port = -1\nname = ''")


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is named must be there, and be text."""
    with pytest.raises(SettingsError, match=r"settings file .*none.toml cannot be read: No such file"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")

    with pytest.raises(SettingsError, match="is not UTF-8"):
        load_settings(tmp_path / "bytes.toml")


@pytest.mark.parametrize(
    "text",
    [
        "[database]\nurl = 'postgresql://u:sesame@h/d'\nurl_file = 'x'",
        "[database]\nurl = ['postgresql://u:sesame@h/d']",
        "[database]\nurl = 'postgresql://u:sesame@h/d'\n[collector]\nname = 3",
        "[collector]\nname = 'postgresql://u:sesame@h/d'",
        "[database]\nulr = 'postgresql://u:sesame@h/d'",
    ],
)
def test_errors_hide_passwords(tmp_path: Path, text: str) -> None:
    """No error shows a password, nor does what it was raised from."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)

    assert "sesame" not in str(caught.value)
    assert "sesame" not in str(caught.value.__cause__)


def test_settings_hide_passwords(tmp_path: Path) -> None:
    """Settings that end in a log show no password."""
    settings = load(tmp_path, "[database]\nurl = 'postgresql://u:sesame@h/d'")

    assert "sesame" not in repr(settings)
    assert settings.database_url() == "postgresql://u:sesame@h/d"


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), (" \n", "is empty")])
def test_url_file_without_an_address(tmp_path: Path, content: str | None, message: str) -> None:
    """A file that should hold the address must be there and hold one."""
    if content is not None:
        (tmp_path / "database").write_text(content)
    settings = load(tmp_path, "[database]\nurl_file = 'database'")

    with pytest.raises(SettingsError, match=f"database.url_file {tmp_path / 'database'} {message}"):
        settings.database_url()

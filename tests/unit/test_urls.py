"""
No password is ever shown.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import SettingsError
from storage.open import open_store
from storage.urls import hide_user, redact


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:secret@host:5432/db", "postgresql://u:***@host:5432/db"),
        ("postgresql+psycopg://u:secret@host/db", "postgresql+psycopg://u:***@host/db"),
        ("postgresql://u:s@cr/e?t#@host/db", "postgresql://u:***@host/db"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://u@host/db?password=secret&x=1", "postgresql://u@host/db?password=***&x=1"),
        ("postgresql://u@host/db?sslpassword=secret", "postgresql://u@host/db?sslpassword=***"),
        ("host=h password=secret dbname=d", "host=h password=*** dbname=d"),
        ("host=h password = 'sec ret' dbname=d", "host=h password = *** dbname=d"),
        ("postgresql://u@host:5432/db", "postgresql://u@host:5432/db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql:///db?host=/run/x", "postgresql:///db?host=/run/x"),
        ("", ""),
        ("not an address", "not an address"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    """Passwords are hidden, everything else is left."""
    assert redact(url) == shown


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("u:S3cret@127.0.0.1/d", "has no scheme"),
        ("host=127.0.0.1 password=S3cret", "has no scheme"),
        ("postgresql:/u:S3cret@127.0.0.1/d", "has no scheme"),
        ("postgresql://u:S3cret@127.0.0.1:notaport/d", "cannot be read"),
        ("postgresql://u@[::1/d", "cannot be read"),
        ("postgresql://u:S3cret@Pw:x@127.0.0.1/d", "cannot be read"),
        ("postgresql://h:99999/d", "has port 99999, expected 1 to 65535"),
        ("postgresql://h/d?foo=bar", "has parameter foo, which libpq does not know"),
        ("postgresql://h/d?sslmode=bogus", "has sslmode bogus, expected one of disable"),
        ("mysql://u:S3cret@h/d", "has scheme mysql, expected postgresql"),
        ("", "has no scheme"),
    ],
)
def test_open_store_refuses_addresses_without_repeating_them(url: str, message: str) -> None:
    """What cannot be an address is a mistake in the settings, told at once; a password in it is not repeated."""
    with pytest.raises(SettingsError, match=message) as caught:
        open_store(url)

    assert "S3cret" not in str(caught.value)
    assert "Pw" not in str(caught.value)


@given(password=st.text(min_size=1))
def test_redact_hides_every_password(password: str) -> None:
    """Whatever characters a password has, percent-encoded or not, none of it is left."""
    assert redact(f"postgresql://user:{password}@host/db") == "postgresql://user:***@host/db"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("htp://bob:secret@h/", "htp://***@h/"),
        ("redis://:secret@h:6379", "redis://***@h:6379"),
        ("bob:secret@h:80", "***@h:80"),
        ("http://bob:se@cr/e\nt@h/", "http://***@h/"),
        ("//secret@h", "//***@h"),
        ("http://h/", "http://h/"),
        ("", ""),
    ],
)
def test_hide_user(url: str, shown: str) -> None:
    """Everything before the last @ is hidden, but for the scheme."""
    assert hide_user(url) == shown

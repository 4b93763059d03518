"""
No password is ever shown.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.urls import redact


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


@given(password=st.text(min_size=1))
def test_redact_hides_every_password(password: str) -> None:
    """Whatever characters a password has, percent-encoded or not, none of it is left."""
    assert redact(f"postgresql://user:{password}@host/db") == "postgresql://user:***@host/db"

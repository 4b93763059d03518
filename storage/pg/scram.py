"""
Passwords as PostgreSQL keeps them: a SCRAM verifier, from which nobody gets the password back.

The verifier is computed on this side, so that the password stands in no statement and in no log of the server.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

import psycopg


def verifier(connection: psycopg.Connection, password: str, role: str) -> str:
    """Return what the server is to keep for *password* of *role*."""
    made = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256")
    return made.decode("ascii")


def matches(kept: str, password: str) -> bool:
    """
    Tell whether *kept* is the verifier of *password* (RFC 5803).

    One that is of another kind, or of a password that has to be normalised first, does not match: setting it again
    harms nobody.
    """
    try:
        mechanism, parameters, keys = kept.split("$")
        iterations, salt = parameters.split(":")
        stored_key = base64.b64decode(keys.split(":")[0], validate=True)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(iterations))
    except (ValueError, binascii.Error):
        return False
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return mechanism == "SCRAM-SHA-256" and hmac.compare_digest(hashlib.sha256(client_key).digest(), stored_key)

"""
The rule that tells errors that retrying can cure from errors that it cannot.

Decided by SQLSTATE and never by Python class: class 22 (data exception) and 23 (integrity constraint) say that the
data is at fault, everything else may pass. A driver gives no SQLSTATE for a refused log-in or a cut link.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage.errors import PermanentStorageError, StorageError, TransientStorageError

#: SQLSTATE classes that retrying cannot cure.
PERMANENT_CLASSES = ("22", "23")
#: A sequence that has come to its end is of class 22, and no fault of the data.
SEQUENCE_EXHAUSTED = "2200H"


def sqlstate_of(error: BaseException) -> str | None:
    """Return the SQLSTATE that *error* carries, itself or in the driver's error below it."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    state = getattr(origin, "sqlstate", None)
    return state if isinstance(state, str) else None


def is_permanent(state: str | None) -> bool:
    """Tell whether the data is at fault."""
    return state is not None and state[:2] in PERMANENT_CLASSES and state != SEQUENCE_EXHAUSTED


def translate(error: BaseException, doing: str) -> StorageError:
    """
    Return *error* of a driver or of SQLAlchemy as an error of storage.

    Args:
        doing: What failed, as the subject of the message: ``reading agents``.
    """
    state = sqlstate_of(error)
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = " ".join(str(origin).split()) or type(origin).__name__
    message = f"{doing} failed: {said}" + (f" (SQLSTATE {state})" if state else "")
    if state is not None and is_permanent(state):
        return PermanentStorageError(message, sqlstate=state)
    return TransientStorageError(message, sqlstate=state)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Let nothing but errors of storage out of the block; *doing* is the subject of their message."""
    try:
        yield
    except SQLAlchemyError as exc:
        raise translate(exc, doing) from exc

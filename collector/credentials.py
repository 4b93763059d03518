"""
Secrets at the moment of use: read from their files and variables when a request goes out, never kept in an agent.

A file is read again when its modification time or size changes, so that a rotated token is used from the next poll on.
A credential goes to the hosts that it names and to no other, and never along with a redirect.
"""

from __future__ import annotations

import functools
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from collector.config import Credential
from storage.errors import FleetpulseError, SettingsError

#: Files of secrets are short; whatever is longer is not one (or is a device that never ends).
_SECRET_BYTES = 64 * 1024


class CredentialError(FleetpulseError):
    """A credential cannot be used now; the text never holds the secret."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """State of a file: changed when any of these differs."""

    path: Path
    mtime_ns: int
    size: int
    inode: int


class Secret:
    """One credential, ready to be used by one agent."""

    def __init__(self, credential: Credential) -> None:
        self.name = credential.name
        self._credential = credential
        self._files: dict[Path, tuple[_Stamp, str]] = {}
        self._stamps: tuple[object, ...] = ()
        self._headers = b""

    @classmethod
    def of(cls, agent: str, name: str, credentials: Mapping[str, Credential]) -> Secret | None:
        """
        Return the secret that *agent* names, ``None`` where it names none.

        Raises:
            SettingsError: There is no credential of that name.
        """
        if not name:
            return None
        if name not in credentials:
            known = ", ".join(sorted(credentials)) or "none"
            raise SettingsError(f'agent "{agent}" names credential "{name}": settings have {known}')
        return cls(credentials[name])

    def allows(self, host: str) -> bool:
        """Tell whether the secret may be sent to *host*; no pattern, no host."""
        host = host.lower().rstrip(".")
        return any(fnmatchcase(host, pattern.lower()) for pattern in self._credential.hosts)

    def headers(self) -> bytes:
        """
        Return the request headers, each with its line end; the same object while nothing changes.

        Raises:
            CredentialError: A file or variable is missing, unreadable, or holds what no header may hold.
        """
        lines: list[tuple[str, str]] = []
        credential = self._credential
        if credential.bearer_token_file is not None:
            lines.append(("Authorization", f"Bearer {self._read(credential.bearer_token_file)}"))
        elif credential.bearer_token_env is not None:
            token = os.environ.get(credential.bearer_token_env, "").strip()
            if not token:
                raise CredentialError(f"credential {self.name}: variable {credential.bearer_token_env} is not set")
            lines.append(("Authorization", f"Bearer {token}"))
        lines.extend((name, self._read(path)) for name, path in credential.header_files.items())
        state = tuple(lines)
        if state != self._stamps:
            self._headers = b"".join(header_line(name, value, f"credential {self.name}") for name, value in lines)
            self._stamps = state
        return self._headers

    def ssl_context(self) -> ssl.SSLContext:
        """
        Return the context for TLS with this credential's authorities and client certificate, by the files of now.

        Raises:
            CredentialError: A file is missing or is no PEM of its kind.
        """
        credential = self._credential
        paths = (credential.ca_file, credential.client_cert_file, credential.client_key_file)
        stamps = [self._stamp(path) if path is not None else None for path in paths]
        try:
            return _context(*stamps)
        except (OSError, ValueError) as exc:
            text = exc.reason if isinstance(exc, ssl.SSLError) else type(exc).__name__
            raise CredentialError(f"credential {self.name}: certificate files cannot be used: {text}") from exc

    def _stamp(self, path: Path) -> _Stamp:
        try:
            stat = path.stat()
        except OSError as exc:
            raise CredentialError(f"credential {self.name}: file cannot be read: {exc.strerror}") from exc
        return _Stamp(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _read(self, path: Path) -> str:
        stamp = self._stamp(path)
        known = self._files.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            with path.open("rb") as file:
                text = file.read(_SECRET_BYTES).decode().strip()
        except OSError as exc:
            raise CredentialError(f"credential {self.name}: file cannot be read: {exc.strerror}") from exc
        except UnicodeDecodeError as exc:
            raise CredentialError(f"credential {self.name}: file is not utf-8") from exc
        if not text:
            raise CredentialError(f"credential {self.name}: file is empty")
        self._files[path] = (stamp, text)
        return text


def default_context() -> ssl.SSLContext:
    """Return the context that trusts the system's authorities; one per process, for it takes half a megabyte."""
    return _context(None, None, None)


# A pure function of files as they were: shared by all agents, because loading the authorities takes tens of
# milliseconds and half a megabyte each time. 64 is more generations of files than are ever in use at once.
@functools.lru_cache(maxsize=64)
def _context(ca: _Stamp | None, certificate: _Stamp | None, key: _Stamp | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca.path if ca else None)
    if certificate is not None:
        # An encrypted key would otherwise ask for its passphrase on the terminal.
        context.load_cert_chain(certificate.path, key.path if key else None, password=_no_passphrase)
    return context


def _no_passphrase() -> str:
    raise ValueError("the private key is encrypted")


def header_line(name: str, value: str, what: str) -> bytes:
    """
    Return a request header with its line end.

    Raises:
        CredentialError: *name* is no token or *value* has a control character: either could smuggle in a header.
    """
    if not _TOKEN.fullmatch(name):
        raise CredentialError(f"{what}: header name is not a token")
    if _CONTROL.search(value):
        raise CredentialError(f"{what}: value of header {name} has a control character")
    return f"{name}: {value}\r\n".encode()


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-zA-Z]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")

"""Who may call what: roles from bearer tokens and from the names in verified certificates.

    read        look up, and see versions
    replicate   read, and fetch files
    admin       all

The file of roles has lines "ROLE token TOKEN" and "ROLE san NAME", and comments after #. Without
one, whoever reaches a loopback port may do everything, and whoever reaches another one may read.
Tokens are kept as hashes and never logged.
"""

import hashlib
import hmac
import logging
import threading
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from features.errors import AccessError, ConfigError

logger = logging.getLogger(__name__)

# How soon a changed file counts.
_LOOK_S = 1.0
_MOST_BYTES = 1 << 20


class Role(IntEnum):
    """What a caller may do; a higher role may do what a lower one may."""

    NONE = 0
    READ = 1
    REPLICATE = 2
    ADMIN = 3


class UnknownCallerError(AccessError):
    """A caller did not say who it is, or not soundly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entries:
    tokens: tuple[tuple[bytes, Role], ...] = ()
    names: tuple[tuple[str, Role], ...] = ()


class Access:
    """The roles of callers; safe for any number of threads."""

    def __init__(self, path: Path | None, default: Role) -> None:
        """Raises ConfigError where the file cannot be read."""
        self._path = path
        self._default = default
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._stamp = _stamp(path)
        self._entries = _read(path) if path is not None else _Entries()

    def check(self, context: Any, needed: Role) -> Role:
        """Returns the role of a caller; AccessError where it is too low."""
        if self._path is None:
            role = self._default
        else:
            self._reload()
            role = self._role(context)
        if role < needed:
            raise AccessError(
                f"the caller has role {role.name.lower()}; this takes {needed.name.lower()}",
                "use credentials with that role",
            )
        return role

    def _role(self, context: Any) -> Role:
        entries = self._entries
        token = _token_of(context)
        if token is not None:
            digest = hashlib.sha256(token).digest()
            found = Role.NONE
            # Every entry is compared, so that the time says nothing about which one fits.
            for known, role in entries.tokens:
                if hmac.compare_digest(known, digest):
                    found = max(found, role)
            if found is Role.NONE:
                raise UnknownCallerError("the token is not known", "use one that is in force")
            return found
        names = _names_of(context) if entries.names else ()
        if not names:
            raise UnknownCallerError(
                "the caller did not say who it is", "send a bearer token or a client certificate"
            )
        return max((role for known, role in entries.names if known in names), default=Role.NONE)

    def _reload(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_S or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked = now
            stamp = _stamp(self._path)
            if stamp != self._stamp and self._path is not None:
                self._stamp = stamp
                self._entries = _read(self._path)
                logger.info("read the file of roles again")
        except ConfigError as exc:
            logger.warning("the file of roles was not taken over: %s", exc)
        finally:
            self._lock.release()


def _token_of(context: Any) -> bytes | None:
    for key, value in context.invocation_metadata():
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            if scheme.lower() == "bearer" and token:
                return token.strip().encode()
            raise UnknownCallerError("the authorization is no bearer token", "send one")
    return None


def _names_of(context: Any) -> tuple[str, ...]:
    """Returns the names in the client's certificate, which the handshake has verified."""
    names = context.auth_context().get("x509_subject_alternative_name", ())
    return tuple(name.decode(errors="replace") for name in names)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> _Entries:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f'cannot read the file of roles "{path}"', "check the path") from exc
    tokens: list[tuple[bytes, Role]] = []
    names: list[tuple[str, Role]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or words[0].upper() not in Role.__members__ or words[0] == "none":
            raise ConfigError(
                f'"{path}", line {number}, is no entry of a file of roles',
                "write ROLE token TOKEN or ROLE san NAME; roles are read, replicate, admin",
            )
        role = Role[words[0].upper()]
        if words[1] == "token":
            tokens.append((hashlib.sha256(words[2].encode()).digest(), role))
        elif words[1] == "san":
            names.append((words[2], role))
        else:
            raise ConfigError(
                f'"{path}", line {number}, names neither a token nor a san',
                "write ROLE token TOKEN or ROLE san NAME",
            )
    return _Entries(tokens=tuple(tokens), names=tuple(names))

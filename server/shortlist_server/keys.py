"""API keys: what a key allows, how its entry is written, and the ring of keys that a server accepts.

The server sees a key only in a call, and stores none: an entry holds the SHA-256 of its key. A plain hash is enough
because ``new_key`` makes keys of 256 random bits, which no dictionary holds. The ring looks entries up by the beginning
of the hash and compares them in constant time. Any thread.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.errors import InvalidArgument

logger = logging.getLogger(__name__)

PREFIX = "sl_"
"""What every key begins with: scanners for leaked secrets recognise it."""

RELOAD_SECONDS = 1.0
"""Shortest time between two looks at the keys file."""

_PREFIX_BYTES = 8
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_GRANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\*?|\*")


class Scope(enum.Enum):
    """What a key may be allowed to do. No scope includes another."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key that the server accepts.

    Attributes:
        name: who holds it; appears in logs and errors. "" for callers of a server without keys.
        digest: SHA-256 of the key.
        collections: names it may use; a name that ends in "*" is a prefix. Empty: every collection.
    """

    name: str
    scopes: frozenset[Scope]
    digest: bytes = b""
    collections: tuple[str, ...] = ()

    def may_use(self, collection: str) -> bool:
        """Whether the key may use the collection; "*" asks for all of them."""
        return not self.collections or any(
            collection.startswith(grant[:-1]) if grant.endswith("*") else collection == grant
            for grant in self.collections
        )

    def entry(self) -> str:
        """The entry that ``read_entry`` reads."""
        scopes = ",".join(scope.value for scope in Scope if scope in self.scopes)
        parts = [self.name, scopes, self.digest.hex(), *([",".join(self.collections)] if self.collections else [])]
        return ":".join(parts)


ANYONE = ApiKey(name="", scopes=frozenset(Scope))
"""The caller of a server that has no keys."""


def new_key(name: str, scopes: Iterable[Scope], collections: Sequence[str] = ()) -> tuple[str, ApiKey]:
    """A fresh secret of 256 random bits, and its entry for the server. Raises ``InvalidArgument``."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key = ApiKey(name=name, scopes=frozenset(scopes), digest=_digest(secret), collections=tuple(collections))
    return secret, read_entry(key.entry())


def read_entry(entry: str) -> ApiKey:
    """The key of an entry NAME:SCOPES:SHA256[:COLLECTIONS], lists separated by commas.

    Raises:
        InvalidArgument: the entry is malformed. The message does not repeat the hash.
    """
    name, *rest = (part.strip() for part in entry.split(":"))
    if not _NAME.fullmatch(name):
        raise InvalidArgument("an API key's name has 1 to 64 letters, digits, '.', '_' or '-'", field="api_keys")
    if len(rest) not in (2, 3):
        raise InvalidArgument(f"API key '{name}' is not NAME:SCOPES:SHA256[:COLLECTIONS]", field="api_keys")
    try:
        scopes = frozenset(Scope(scope.strip()) for scope in rest[0].split(","))
    except ValueError:
        known = ", ".join(scope.value for scope in Scope)
        raise InvalidArgument(
            f"API key '{name}' has an unknown scope; the scopes are {known}", field="api_keys"
        ) from None
    if not re.fullmatch(r"[0-9a-fA-F]{64}", rest[1]):
        raise InvalidArgument(
            f"API key '{name}' needs the SHA-256 of the key as 64 hex digits, not the key itself; "
            "'shortlist key' makes both",
            field="api_keys",
        )
    collections = tuple(grant.strip() for grant in rest[2].split(",")) if len(rest) == 3 else ()
    if not all(_GRANT.fullmatch(grant) for grant in collections):
        raise InvalidArgument(
            f"API key '{name}' names a collection that cannot exist; give a collection's name, or a prefix and '*'",
            field="api_keys",
        )
    return ApiKey(name=name, scopes=scopes, digest=bytes.fromhex(rest[1]), collections=collections)


class KeyRing:
    """The keys that a server accepts: those of its settings and those of a file, which it reads again when it changes.

    A file that became unreadable or malformed changes nothing: the former keys stay valid, and the log says why.
    """

    def __init__(self, entries: Sequence[str], file: Path | None) -> None:
        """Reads all keys.

        Raises:
            InvalidArgument: an entry is malformed, two keys share a name, or the file cannot be read.
        """
        self._fixed = [read_entry(entry) for entry in entries]
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._looked = time.monotonic()
        self._keys = self._index(self._fixed)
        if file is not None:
            self._load(file)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret, or None."""
        return self._with_digest(_digest(secret))

    def current(self, key: ApiKey) -> ApiKey | None:
        """The present form of a key that was found before; None when it was withdrawn."""
        return self._with_digest(key.digest)

    def _with_digest(self, digest: bytes) -> ApiKey | None:
        if self._file is not None and time.monotonic() - self._looked >= RELOAD_SECONDS:
            self._reload(self._file)
        key = self._keys.get(digest[:_PREFIX_BYTES])
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None

    def _reload(self, file: Path) -> None:
        self._looked = time.monotonic()
        try:
            if self._stamp != _stamp(file):
                self._load(file)
                logger.info("read %s again: %d API keys are accepted", file, len(self))
        except (OSError, InvalidArgument) as error:
            logger.error("cannot use %s, so the former API keys stay valid: %s", file, error)

    def _load(self, file: Path) -> None:
        try:
            # Taken before reading: the next look then notices a change made meanwhile.
            self._stamp = _stamp(file)
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidArgument(f"cannot read the API keys file: {error}", field="api_keys_file") from error
        entries = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        self._keys = self._index([*self._fixed, *map(read_entry, entries)])

    def _index(self, keys: Sequence[ApiKey]) -> dict[bytes, ApiKey]:
        names = [key.name for key in keys]
        for name in names:
            if names.count(name) > 1:
                raise InvalidArgument(f"two API keys have the name '{name}'", field="api_keys")
        return {key.digest[:_PREFIX_BYTES]: key for key in keys}


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()


def _stamp(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino

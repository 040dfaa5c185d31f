"""Whether a call may go on: its key may be withdrawn, or lose a scope or a collection, while a stream is open.

An ``Admission`` belongs to one call. Coroutines on the server's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, TypeVar

from shortlist_server.errors import PermissionDenied, Unauthenticated
from shortlist_server.keys import ApiKey, KeyRing, Scope

Message = TypeVar("Message")

RECHECK_SECONDS = 1.0
"""Time between two checks of the key of a quiet stream; the key file is read again as often."""

END = object()


class Admission:
    """A call's key, and the scope and collections for which the call was admitted."""

    def __init__(self, keys: KeyRing | None, key: ApiKey, scope: Scope) -> None:
        """``keys`` None: the server has no keys, and withdraws none."""
        self._keys = keys
        self._key = key
        self._scope = scope
        self._collections: set[str] = set()

    @property
    def key(self) -> ApiKey:
        """The key as of the last check."""
        return self._key

    def check_scope(self) -> None:
        """Raises ``PermissionDenied`` where the key lacks the method's scope."""
        if self._scope not in self._key.scopes:
            raise PermissionDenied(
                f"API key '{self._key.name}' lacks the scope '{self._scope.value}', which this call needs",
                metadata={"key": self._key.name, "scope": self._scope.value},
            )

    def check_collections(self, names: Iterable[str]) -> None:
        """Raises ``PermissionDenied`` where the key has no right to one of them; they are checked again later."""
        if not self._key.collections and self._keys is None:
            return
        for name in names:
            if not self._key.may_use(name):
                what = "every collection, which this call needs" if name == "*" else f"collection '{name}'"
                raise PermissionDenied(
                    f"API key '{self._key.name}' has no right to {what}",
                    metadata={"key": self._key.name, "collection": name},
                )
            self._collections.add(name)

    def check_again(self) -> None:
        """Checks again the scope and the collections for which the call was admitted.

        Raises:
            Unauthenticated: the server does not accept the key any more.
            PermissionDenied: it lost the scope or a collection.
        """
        if self._keys is None:
            return
        now = self._keys.current(self._key)
        if now is None:
            raise Unauthenticated(f"API key '{self._key.name}' was withdrawn while the call was open")
        if now != self._key:
            self._key = now
            self.check_scope()
            self.check_collections(set(self._collections))

    async def requests(
        self, requests: AsyncIterator[Message], check: Callable[[Message], None]
    ) -> AsyncIterator[Message]:
        """A stream's messages, each checked. Checks the key before each, and regularly while none arrives."""
        iterator = aiter(requests)
        while True:
            arriving: asyncio.Future[Any] = asyncio.ensure_future(anext(iterator, END))
            try:
                while not (await asyncio.wait({arriving}, timeout=RECHECK_SECONDS))[0]:
                    self.check_again()
                message = arriving.result()
            finally:
                arriving.cancel()
            if message is END:
                return
            self.check_again()
            check(message)
            yield message

    async def responses(self, responses: AsyncIterator[Message]) -> AsyncIterator[Message]:
        """A stream's answers. Checks the key before each, and regularly while none is made."""
        iterator = aiter(responses)
        while True:
            coming: asyncio.Future[Any] = asyncio.ensure_future(anext(iterator, END))
            try:
                while not (await asyncio.wait({coming}, timeout=RECHECK_SECONDS))[0]:
                    self.check_again()
                response = coming.result()
            finally:
                coming.cancel()
            if response is END:
                return
            self.check_again()
            yield response

"""Counts the work under way, in total and for each caller.

A caller is an API key or, on a server without keys, a client's address without its port. Any number of ``Slots``
may belong to one event loop; nothing here blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shortlist_server.errors import Overloaded
from shortlist_server.rpc.authorization import calling_key

if TYPE_CHECKING:
    from shortlist_server.rpc.handlers import Context


class Slots:
    """Counts work under way against two settings, the total and that of one caller; 0 is no limit."""

    def __init__(self, setting: str, limit: int, caller_setting: str, caller_limit: int, retry_seconds: float) -> None:
        self._setting, self._limit = setting, limit
        self._caller_setting, self._caller_limit = caller_setting, caller_limit
        self._retry_seconds = retry_seconds
        self._of_caller: dict[str, int] = {}
        self.taken = 0

    def check(self, caller: str, amount: int = 1) -> None:
        """Raises ``Overloaded`` if ``amount`` more is over a limit; a caller with nothing under way gets any amount."""
        if self._limit and self.taken and self.taken + amount > self._limit:
            raise refusal("the server is at its limit", self._setting, self._limit, self._retry_seconds)
        own = self._of_caller.get(caller, 0)
        if self._caller_limit and own and own + amount > self._caller_limit:
            raise refusal(
                "you are at the limit of one caller",
                self._caller_setting,
                self._caller_limit,
                self._retry_seconds,
            )

    @contextmanager
    def taking(self, caller: str, amount: int = 1) -> Iterator[None]:
        """Holds slots for the time of a block. Raises ``Overloaded``."""
        self.check(caller, amount)
        self.taken += amount
        self._of_caller[caller] = self._of_caller.get(caller, 0) + amount
        try:
            yield
        finally:
            self.taken -= amount
            if left := self._of_caller[caller] - amount:
                self._of_caller[caller] = left
            else:
                del self._of_caller[caller]


def caller_of(context: Context) -> str:
    """The caller: the key's name, else the client's address without its port."""
    return calling_key().name or context.peer().rpartition(":")[0]


def refusal(what: str, setting: str, limit: float, retry_seconds: float) -> Overloaded:
    """The error of a call over a limit."""
    return Overloaded(
        f"{what}: {limit:g} ({setting}); wait and repeat",
        retry_after_seconds=retry_seconds,
        metadata={"setting": setting, "limit": f"{limit:g}"},
    )

"""Lists that come in pages, as one iterator; a page is fetched when the one before is used up.

An object belongs to one thread or task; each iteration starts from the first page.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class AsyncPages(Generic[T]):
    """Items of all pages in ``async for``; ``pages()`` gives them page by page.

    What a call raises comes out of the iteration, when the page is fetched.
    """

    def __init__(self, fetch: Callable[[str], Awaitable[tuple[list[T], str]]]) -> None:
        self._fetch = fetch

    async def pages(self) -> AsyncIterator[list[T]]:
        """Page by page; a page may be empty."""
        token = ""
        while True:
            items, token = await self._fetch(token)
            yield items
            if not token:
                return

    async def __aiter__(self) -> AsyncIterator[T]:
        async for page in self.pages():
            for item in page:
                yield item

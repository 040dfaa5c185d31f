# Made by scripts/unasync.py from _async/pages.py; change that file.
"""Lists that come in pages, as one iterator; a page is fetched when the one before is used up.

An object belongs to one thread or task; each iteration starts from the first page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Pages(Generic[T]):
    """Items of all pages when iterated; ``pages()`` gives them page by page.

    What a call raises comes out of the iteration, when the page is fetched.
    """

    def __init__(self, fetch: Callable[[str], tuple[list[T], str]]) -> None:
        self._fetch = fetch

    def pages(self) -> Iterator[list[T]]:
        """Page by page; a page may be empty."""
        token = ""
        while True:
            items, token = self._fetch(token)
            yield items
            if not token:
                return

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            for item in page:
                yield item

"""Cutting a document into passages that fit the embedder's window, by the model's own tokens.

A passage is a window of the text with the title in front. Under CHUNK every code point of the text lies in at least one
passage. No passage has more than ``chunking.max_tokens`` tokens when its content is tokenised again, unless a single
character has more. Time is linear in the text. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import DocumentTooLarge, InvalidArgument
from shortlist_server.inference.base import CutText, PassageText
from shortlist_server.inference.tokenization import TokenSpans

_LONGEST_TOKEN = 64
"""Tokens of up to this many code points are never cut. Longer ones stand for what the tokenizer cannot read: one
unknown token may cover a megabyte."""

_REACH = 8
"""A cut moves back to the beginning of a word if that costs at most 1/8 of a passage's tokens."""

_MIN_REACH_TOKENS = 4


class PassageTokenizer(Protocol):
    """What cutting needs from a tokenizer."""

    @property
    def max_tokens(self) -> int:
        """The embedder's window; ``chunking.max_tokens`` is lowered to it."""

    def spans(self, text: str) -> TokenSpans:
        """Where the text's tokens lie, without special tokens."""

    def count(self, texts: Sequence[str], /) -> list[int]:
        """How many tokens each text has as a passage, special tokens and the passage prompt included."""


def passage_content(title: str, text: str) -> str:
    """The text of a passage for embedders, and for rerankers that read texts."""
    return f"{title}\n{text}" if title and text else title or text


def cut(title: str, text: str, chunking: Chunking, overflow: OverflowPolicy, tokenizer: PassageTokenizer) -> CutText:
    """Cuts a document.

    The title takes at most half of a passage. A longer title is cut, and its lost tokens count as truncated. A document
    without title and text has no passages.

    Raises:
        DocumentTooLarge: it does not fit one passage and the policy is ERROR.
        InvalidArgument: the passages are too small to hold any text.
    """
    if not title and not text:
        return CutText(passages=(), truncated_tokens=0)
    limit = min(chunking.max_tokens, tokenizer.max_tokens)
    overhead = tokenizer.count([""])[0]
    if limit - overhead < 2:
        raise InvalidArgument(
            f"passages of {limit} tokens cannot hold text beside the model's own {overhead}: make them larger",
            field="config.chunking.max_tokens",
        )
    whole = passage_content(title, text)
    # A token covers a few characters of ordinary text at most, so one count finds most documents that fit.
    if len(whole) <= 8 * limit and (tokens := tokenizer.count([whole])[0]) <= limit:
        return CutText(
            passages=(PassageText(start=0, end=len(text), content=whole, tokens=tokens),), truncated_tokens=0
        )
    title, title_lost = _fit_title(title, tokenizer, (limit - overhead) if not text else (limit - overhead) // 2)
    window = max(limit - (tokenizer.count([f"{title}\n"])[0] if title and text else overhead), 1)
    spans = tokenizer.spans(text)
    cutter = _Cutter(title=title, text=text, places=_places(spans), tokenizer=tokenizer, limit=limit)
    pieces = cutter.passages(window, chunking.overlap_tokens)
    first = next(pieces)
    if overflow is OverflowPolicy.CHUNK:
        return CutText(passages=[first, *pieces], truncated_tokens=title_lost)
    if overflow is OverflowPolicy.ERROR and (first.end < len(text) or title_lost):
        raise DocumentTooLarge(
            f"the document has {len(spans)} tokens of text, and one passage holds {window} beside the title: shorten"
            " it, or let the collection chunk or truncate",
            metadata={"text_tokens": str(len(spans)), "passage_tokens": str(window)},
        )
    return CutText(passages=[first], truncated_tokens=title_lost + _tokens_after(spans, first.end, len(text)))


def _fit_title(title: str, tokenizer: PassageTokenizer, budget: int) -> tuple[str, int]:
    """The title within the budget, and the number of its tokens that were cut."""
    if not title:
        return title, 0
    spans = tokenizer.spans(title)
    places = _places(spans)
    limit = budget + tokenizer.count([""])[0]
    kept, end = min(budget, len(places.starts)), 0
    while kept > 0:
        end = places.position(kept, len(title))
        if (excess := tokenizer.count([title[:end].rstrip()])[0] - limit) <= 0:
            break
        kept -= excess
    end = end if kept > 0 else 0
    return (title, 0) if end == len(title) else (title[:end].rstrip(), _tokens_after(spans, end, len(title)))


def _tokens_after(spans: TokenSpans, end: int, length: int) -> int:
    """How many tokens a text of that length loses when it is cut at ``end``; at least one if anything is cut."""
    return max(int((spans.starts >= end).sum()), 1) if end < length else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """Where a text may be cut: before each of its tokens, and within very long ones.

    Attributes:
        starts: shape (n,), int64, code points, ascending. A character of several tokens repeats its value.
        word_starts: shape (n,), bool.
    """

    starts: NDArray[np.int64]
    word_starts: NDArray[np.bool_]

    def position(self, place: int, length: int) -> int:
        """The code point of a place in a text of that length; the place after the last one is the end of the text."""
        return int(self.starts[place]) if place < len(self.starts) else length

    def at(self, position: int) -> int:
        """The first place at or after a code point."""
        return int(np.searchsorted(self.starts, position))

    def word_start(self, place: int, *, after: int) -> int:
        """The last beginning of a word after ``after`` and up to ``place``; ``place`` if there is none."""
        for candidate in range(min(place, len(self.starts) - 1), after, -1):
            if self.word_starts[candidate]:
                return candidate
        return place


def _places(spans: TokenSpans) -> _Places:
    pieces = np.maximum(-(-(spans.ends - spans.starts) // _LONGEST_TOKEN), 1)
    within = np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return _Places(
        starts=np.repeat(spans.starts, pieces) + within * _LONGEST_TOKEN,
        word_starts=np.repeat(spans.word_starts, pieces) & (within == 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cutter:
    """Cuts one text into passages of at most ``limit`` tokens each, title and special tokens included."""

    title: str
    text: str
    places: _Places
    tokenizer: PassageTokenizer
    limit: int

    def passages(self, size: int, overlap: int) -> Iterator[PassageText]:
        """The passages in order.

        A part of a text may have more tokens alone than within the whole: SentencePiece puts a piece in front of it,
        and merges across the cut are lost. So each passage is tokenised again, and the next one is planned shorter by
        as much as this one grew.

        Args:
            size: tokens that a passage holds beside the title and special tokens.
            overlap: tokens that a passage shares with the one before; at most half of either passage.
        """
        places, text = self.places, self.text
        reach = max(size // _REACH, _MIN_REACH_TOKENS)
        start = first = growth = 0
        while True:
            passage = self._fitting(start, first, first + max(size - growth, 1), reach)
            yield passage
            if passage.end >= len(text):
                return
            behind = places.at(passage.end)
            growth = min(max(passage.tokens - (self.limit - size) - (behind - first), 0), reach)
            if places.position(behind, len(text)) > passage.end:  # the cut is within a token
                start, first = passage.end, max(behind - 1, 0)
                continue
            shared = behind - min(overlap, size // 2, (behind - first) // 2)
            following = places.word_start(shared, after=max(shared - reach, first))
            following = places.at(places.position(following, len(text)))
            if places.position(following, len(text)) <= start:
                following = behind
            start, first = places.position(following, len(text)), following

    def _fitting(self, start: int, first: int, last: int, reach: int) -> PassageText:
        """The longest passage that fits and begins at ``start``.

        Args:
            first: the place of ``start``.
            last: the place to end at if that fits.
            reach: how many tokens the end may move back to reach the beginning of a word.
        """
        places, length = self.places, len(self.text)
        if last < len(places.starts):
            last = places.word_start(last, after=max(last - reach, first))
        end = places.position(max(last, places.at(start + 1)), length)
        step = 1
        while (excess := (passage := self._passage(start, end)).tokens - self.limit) > 0 and end - start > 1:
            # Dropping n tokens of the whole text may shorten the passage by fewer than n, so the steps grow.
            last = max(min(last, len(places.starts)) - step * excess, first)
            last = places.word_start(last, after=max(last - reach, first))
            position = places.position(last, length)
            end = position if start < position < end else start + (end - start) // 2
            step *= 2
        return passage

    def _passage(self, start: int, end: int) -> PassageText:
        content = passage_content(self.title, self.text[start:end])
        return PassageText(start=start, end=end, content=content, tokens=self.tokenizer.count([content])[0])

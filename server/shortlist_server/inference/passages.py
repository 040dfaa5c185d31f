"""Cutting a document into passages that fit the embedder's window, by the model's own tokens.

A passage is a window of the text with the title in front. Under CHUNK the passages cover the whole text: every code
point lies in at least one. No passage has more than ``chunking.max_tokens`` tokens when its content is tokenised again.
Linear in the text. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from shortlist_server.domain import Chunking, OverflowPolicy
from shortlist_server.errors import DocumentTooLarge, InvalidArgument
from shortlist_server.inference.base import CutText, PassageText
from shortlist_server.inference.tokenization import TokenSpans


class PassageTokenizer(Protocol):
    """What cutting needs of a tokenizer."""

    @property
    def max_tokens(self) -> int:
        """The embedder's window; ``chunking.max_tokens`` is lowered to it."""

    def spans(self, text: str) -> TokenSpans:
        """Where the text's tokens lie, special tokens left out."""

    def count(self, texts: Sequence[str], /) -> list[int]:
        """Tokens of each text as a passage: special tokens and the passage prompt included."""


def passage_content(title: str, text: str) -> str:
    """What the embedder, and a reranker that reads texts, sees of a passage."""
    return f"{title}\n{text}" if title and text else title or text


def cut(title: str, text: str, chunking: Chunking, overflow: OverflowPolicy, tokenizer: PassageTokenizer) -> CutText:
    """Cuts a document.

    The title takes at most half of a passage; a longer one is cut in the contents, and what is lost of it counts as
    truncated. A document without title and text has no passages.

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
            f"Passages of {limit} tokens cannot hold text beside the model's own {overhead}. Make them larger.",
            field="config.chunking.max_tokens",
        )
    whole = passage_content(title, text)
    # A token covers at most a few characters of ordinary text, so most documents that fit are found with one count.
    if len(whole) <= 8 * limit and (tokens := tokenizer.count([whole])[0]) <= limit:
        return CutText(
            passages=(PassageText(start=0, end=len(text), content=whole, tokens=tokens),), truncated_tokens=0
        )
    title, title_lost = _fit_title(title, tokenizer, (limit - overhead) if not text else (limit - overhead) // 2)
    window = limit - (tokenizer.count([f"{title}\n"])[0] if title and text else overhead)
    windows, text_tokens = _windows(text, tokenizer.spans(text), max(window, 1), chunking.overlap_tokens)
    if overflow is OverflowPolicy.ERROR and (len(windows) > 1 or title_lost):
        raise DocumentTooLarge(
            f"The document has {text_tokens} tokens of text; one passage holds {window} beside the title. "
            "Shorten it, or let the collection chunk or truncate.",
            metadata={"text_tokens": str(text_tokens), "passage_tokens": str(window)},
        )
    if overflow is OverflowPolicy.TRUNCATE:
        kept = windows[:1]
        passages = _fit(title, text, kept, tokenizer, limit)
        lost = text_tokens - len(tokenizer.spans(text[: passages[0].end])) if len(windows) > 1 else 0
        return CutText(passages=passages[:1], truncated_tokens=title_lost + max(lost, 0))
    return CutText(passages=_fit(title, text, windows, tokenizer, limit), truncated_tokens=title_lost)


def _fit_title(title: str, tokenizer: PassageTokenizer, budget: int) -> tuple[str, int]:
    """The title within the budget, and the number of its tokens that were cut."""
    if not title:
        return title, 0
    spans = tokenizer.spans(title)
    if len(spans) <= budget:
        return title, 0
    return title[: int(spans.starts[budget])].rstrip(), len(spans) - budget


def _windows(text: str, spans: TokenSpans, size: int, overlap: int) -> tuple[list[tuple[int, int]], int]:
    """Ranges of the text of at most ``size`` tokens each, cut between words where a word fits; and its tokens."""
    total = len(spans)
    overlap = min(overlap, size // 2)
    windows: list[tuple[int, int]] = []
    first = 0
    while True:
        last = min(first + size, total)
        if last < total:
            last = _word_start_before(spans, last, after=first + size // 2) or last
        end = int(spans.starts[last]) if last < total else len(text)
        windows.append((int(spans.starts[first]) if windows and first < total else 0, end))
        if last >= total:
            return windows, total
        step = max(last - overlap, first + 1)
        first = _word_start_before(spans, step, after=first) or step


def _word_start_before(spans: TokenSpans, index: int, *, after: int) -> int:
    """The last token at or before ``index``, and after ``after``, that begins a word; 0 for none."""
    while index > after:
        if spans.word_starts[index]:
            return index
        index -= 1
    return 0


def _fit(
    title: str, text: str, windows: Sequence[tuple[int, int]], tokenizer: PassageTokenizer, limit: int
) -> list[PassageText]:
    """Passages of the windows; one that has grown over the limit when tokenised on its own is halved."""
    pending = list(windows)
    passages: list[PassageText] = []
    while pending:
        contents = [passage_content(title, text[start:end]) for start, end in pending]
        halves: list[tuple[int, int]] = []
        for (start, end), content, tokens in zip(pending, contents, tokenizer.count(contents), strict=True):
            if tokens <= limit or end - start <= 1:
                passages.append(PassageText(start=start, end=end, content=content, tokens=tokens))
            else:
                middle = (start + end) // 2
                halves += [(start, middle), (middle, end)]
        pending = halves
    return sorted(passages, key=lambda passage: (passage.start, passage.end))

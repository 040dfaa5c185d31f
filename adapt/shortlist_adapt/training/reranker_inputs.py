"""Pairs of query and passage as token ids, exactly as the server's rerankers read them.

Immutable after construction; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from shortlist_adapt.training.reranker_start import Family
from shortlist_server.inference import layout
from shortlist_server.inference.cross_encoder import PairIds, PairTokenizer
from shortlist_server.inference.decoder_classifier import last_tokens
from shortlist_server.inference.encoder import Ids, pad
from shortlist_server.inference.pair_template import TemplateTokenizer, read_template
from shortlist_server.inference.qwen3_reranker import MAX_TOKENS, Qwen3Prompt


class EncodesPairs(Protocol):
    """Encodes a query with each of its passages."""

    def encode(self, first: str, seconds: Sequence[str], /) -> list[PairIds]:
        """Token ids of ``first`` with each of ``seconds``, cut to the window."""


class YesNoPairs:
    """Pairs in the template of Qwen3-Reranker.

    Attributes:
        yes, no: the tokens of the two answers.
    """

    def __init__(self, folder: Path, max_tokens: int, instruction: str) -> None:
        self._prompt = Qwen3Prompt(folder / "tokenizer.json", min(max_tokens, MAX_TOKENS))
        self._instruction = instruction
        self.yes, self.no = self._prompt.yes, self._prompt.no

    def encode(self, first: str, seconds: Sequence[str], /) -> list[PairIds]:
        """See ``EncodesPairs.encode``."""
        head = self._prompt.head(first, self._instruction)
        return [
            PairIds(ids=head + tail, segments=[0] * (len(head) + len(tail)), truncated_tokens=cut)
            for tail, cut in self._prompt.tails(seconds, len(head))
        ]


def open_pairs(
    folder: Path, family: Family, *, max_tokens: int = 0, instruction: str = "", templates: bool = True
) -> EncodesPairs:
    """What encodes pairs for the reranker in a folder.

    Args:
        max_tokens: the longest input; 0 for the model's window, which is never exceeded.
        templates: whether a chat template is made for pairs; that of an embedder's tokenizer is not.

    Raises:
        ModelNotFound: the tokenizer or its template is not a reranker's.
    """
    window = layout.read_window(folder, layout.read_config(folder))
    window = min(window, max_tokens) if max_tokens else window
    if family is Family.YES_NO:
        return YesNoPairs(folder, window, instruction)
    file = folder / "tokenizer.json"
    if family is Family.DECODER and templates and layout.has_chat_template(folder):
        return TemplateTokenizer(file, read_template(folder), window)
    return PairTokenizer(file, window)


def arrays(pairs: Sequence[PairIds], pad_id: int | None) -> dict[str, Ids]:
    """A batch for the model: token ids, mask and segments of shape (pairs, tokens), and of each pair the token that a
    decoder's head reads, of shape (pairs,).

    Args:
        pad_id: the token that heads of decoders do not read, as in ``last_tokens``.
    """
    ids, mask = pad([pair.ids for pair in pairs])
    segments, _ = pad([pair.segments for pair in pairs])
    return {"ids": ids, "mask": mask, "segments": segments, "last": last_tokens(ids, mask, pad_id)}


def by_length(pairs: Sequence[PairIds], batch_tokens: int) -> list[list[int]]:
    """Indexes of the pairs in groups of similar length, each of at most ``batch_tokens`` when padded, and of one pair
    at least."""
    groups: list[list[int]] = []
    longest = 0
    for index in np.argsort([-len(pair.ids) for pair in pairs], kind="stable").tolist():
        if not groups or longest * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
            longest = len(pairs[index].ids)
        groups[-1].append(index)
    return groups

"""Pairs of texts in a model's own chat template, on which rerankers over decoders are trained.

The template is rendered once, with marks in place of the texts, and the parts around the marks are kept. They must not
depend on the texts. As in sentence-transformers, the template gets one message with the role "query" and one with the
role "document". Immutable after construction; any thread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.cross_encoder import PairIds
from shortlist_server.inference.tokenization import open_for_texts, open_tokenizer

_PROBES = (("qvery-one", "docvment-one"), (" two <b>\n", "\tdocument & two "))
"""Texts to render. A template that trims or escapes its texts changes the second pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTemplate:
    """The parts before the query, between query and document, and after the document."""

    before: str
    between: str
    after: str

    def render(self, query: str, document: str) -> str:
        """The whole prompt."""
        return f"{self.before}{query}{self.between}{document}{self.after}"


def read_template(folder: Path) -> PairTemplate:
    """The chat template of a model's tokenizer. Imports transformers, which runs templates in a sandbox.

    Raises:
        ModelNotFound: the template cannot be rendered, leaves a text out, or changes it.
    """
    import transformers

    def render(query: str, document: str) -> str:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    try:
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        rendered = [render(query, document) for query, document in _PROBES]
    except Exception as error:  # jinja2 and transformers raise their own
        raise ModelNotFound(f"the chat template in {folder} cannot be rendered: {error}") from error
    query, document = _PROBES[0]
    before, _, rest = rendered[0].partition(query)
    between, _, after = rest.partition(document)
    template = PairTemplate(before=before, between=between, after=after)
    if [template.render(*texts) for texts in _PROBES] != rendered:
        raise ModelNotFound(
            f"the chat template in {folder} does not render the messages of the roles 'query' and 'document' once each"
            " and unchanged: give the model the template of a reranker"
        )
    return template


class _Slot(Enum):
    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """A prompt's token ids, cut to fit: the document is kept up to the code point ``end``."""

    ids: list[int]
    end: int
    truncated_tokens: int


class TemplateTokenizer:
    """Encodes pairs of texts in a template.

    The first text takes at most half of the room; what does not fit is cut from the second. Special tokens and markup
    are read only out of the template, never out of the texts.

    Raises:
        ModelNotFound: the tokenizer reads the whole template differently than its parts.
    """

    def __init__(self, path: Path, template: PairTemplate, max_tokens: int) -> None:
        whole = open_tokenizer(path)
        self._template = template
        self._plain = open_for_texts(path, markup=True)
        self.vocabulary_size: int = whole.get_vocab_size(with_added_tokens=True)
        self._runs = _split(template, {token.content: n for n, token in whole.get_added_tokens_decoder().items()})
        self._max_tokens = max_tokens
        self._room = (max_tokens - len(self._encode("", [""])[0].ids)) // 2
        query, document = "What is it?", "It is.\n\nSo it is."
        expected = whole.encode(template.render(query, document), add_special_tokens=False).ids
        if self._room < 1 or self.encode(query, [document])[0].ids != expected[:max_tokens]:
            raise ModelNotFound(
                f"the tokenizer in {path} reads its chat template differently in parts, or the template fills the"
                f" window of {max_tokens} tokens: give the model the template of a reranker"
            )

    def encode(self, first: str, seconds: Sequence[str]) -> list[PairIds]:
        """Token ids of ``first`` with each of ``seconds``."""
        return [
            PairIds(ids=one.ids, segments=[0] * len(one.ids), truncated_tokens=one.truncated_tokens)
            for one in self._encode(self._shorten(first), seconds)
        ]

    def render(self, first: str, seconds: Sequence[str]) -> list[str]:
        """The prompts, with the texts cut to fit."""
        query = self._shorten(first)
        kept = self._encode(query, seconds)
        return [self._template.render(query, text[: one.end]) for one, text in zip(kept, seconds, strict=True)]

    def _shorten(self, first: str) -> str:
        offsets = self._plain.encode(first, add_special_tokens=False).offsets
        return first[: offsets[self._room][0]] if len(offsets) > self._room else first

    def _encode(self, query: str, documents: Sequence[str]) -> list[_Cut]:
        before: list[int] = []
        after: list[int] = []
        encodings: list[Any] = []
        start = 0
        for run in self._runs:
            if isinstance(run, int):
                (after if encodings else before).append(run)
                continue
            texts = [query if part is _Slot.QUERY else part for part in run]
            if _Slot.DOCUMENT in texts:
                place = texts.index(_Slot.DOCUMENT)
                lead, trail = "".join(map(str, texts[:place])), "".join(map(str, texts[place + 1 :]))
                start = len(lead)
                encodings = self._plain.encode_batch([f"{lead}{one}{trail}" for one in documents], False)
                continue
            ids = self._plain.encode("".join(map(str, texts)), add_special_tokens=False).ids
            (after if encodings else before).extend(ids)
        room = self._max_tokens - len(before) - len(after)
        return [
            self._cut(before, encoding, after, room, start, start + len(document))
            for encoding, document in zip(encodings, documents, strict=True)
        ]

    @staticmethod
    def _cut(before: list[int], encoding: Any, after: list[int], room: int, start: int, end: int) -> _Cut:
        excess = max(len(encoding.ids) - room, 0)
        own = [i for i, (left, right) in enumerate(encoding.offsets) if start <= left and right <= end and left < right]
        dropped = set(own[max(len(own) - excess, 0) :])
        ids = [number for i, number in enumerate(encoding.ids) if i not in dropped]
        kept = min((encoding.offsets[i][0] for i in dropped), default=end) - start
        return _Cut(ids=[*before, *ids, *after], end=kept, truncated_tokens=len(dropped))


def _split(template: PairTemplate, added: Mapping[str, int]) -> list[int | list[str | _Slot]]:
    """The template as a list of ids of added tokens and, between them, runs of literal texts and slots for texts."""
    names = re.compile("|".join(map(re.escape, sorted(added, key=len, reverse=True))) or r"(?!)")
    runs: list[int | list[str | _Slot]] = []
    current: list[str | _Slot] = []
    for part, slot in ((template.before, _Slot.QUERY), (template.between, _Slot.DOCUMENT), (template.after, None)):
        position = 0
        for found in names.finditer(part):
            runs += [[*current, part[position : found.start()]], added[found.group()]]
            current, position = [], found.end()
        current.append(part[position:])
        if slot is not None:
            current.append(slot)
    return [*runs, current]

"""The prompts in front of the texts that a model reads.

A model's own file (``config_sentence_transformers.json``) comes first, then what its card is known to demand. Pure
functions; any thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.known_models import KnownModel
from shortlist_server.inference.layout import read_optional_json

_QUERY_KEYS = ("query", "search_query", "retrieval_query", "web_search_query", "s2p_query")
_PASSAGE_KEYS = ("document", "passage", "search_document", "corpus", "retrieval_document", "retrieval_passage")
_INSTRUCTED = re.compile(r"Instruct: .+(\nQuery: ?)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """The prompts of a model. With ``instruction_tail``, a query's is ``Instruct: {instruction}{instruction_tail}``."""

    query: str
    passage: str
    instruction_tail: str = ""

    def for_query(self, instruction: str) -> str:
        """The prompt of a query. Models that take no instruction ignore it; "" stands for the model's default."""
        if instruction and self.instruction_tail:
            return f"Instruct: {instruction}{self.instruction_tail}"
        return self.query


def read_prompts(folder: Path, known: KnownModel, otherwise: str = "") -> Prompts:
    """The prompts of the model in a folder.

    A prompt's name in the file says what it is for: "query", "search_query", "document", "passage" and so on. A default
    prompt (``default_prompt_name``) of another name applies to queries and passages that have no prompt of their own.

    Args:
        known: what the model's card demands; used where the file has no prompts.
        otherwise: the query's prompt where neither the file nor the card has one.

    Raises:
        ModelNotFound: the prompts are not texts, or the default is not among them.
    """
    path = folder / "config_sentence_transformers.json"
    settings = read_optional_json(path)
    stated = settings.get("prompts") or {}
    default = settings.get("default_prompt_name") or None
    if not isinstance(stated, dict) or not all(isinstance(text, str | None) for text in stated.values()):
        raise ModelNotFound(f"{path} has prompts that are not texts: copy the model anew")
    if default is not None and not (isinstance(default, str) and default in stated):
        raise ModelNotFound(
            f"{path} names the default prompt {default!r}, which is not among its prompts: copy the model anew"
        )
    by_key = {re.sub(r"\W", "_", name.lower()): text or "" for name, text in stated.items()}
    query = next((by_key[key] for key in _QUERY_KEYS if by_key.get(key)), "")
    passage = next((by_key[key] for key in _PASSAGE_KEYS if by_key.get(key)), "")
    if default is not None and re.sub(r"\W", "_", default.lower()) not in _QUERY_KEYS + _PASSAGE_KEYS:
        query, passage = query or stated[default] or "", passage or stated[default] or ""
    if not query and not passage:
        query, passage = known.query or otherwise, known.passage
    instructed = _INSTRUCTED.fullmatch(query)
    return Prompts(query=query, passage=passage, instruction_tail=instructed[1] if instructed else "")

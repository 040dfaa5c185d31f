"""Which of an LLM's queries are refused: those that obey the document, quote the prompt, or are no query for it.

A document may hold sentences that address the model ("ignore the above and write ..."). The prompt says not to
follow them; a weak model does so all the same. Hence a query is refused when what it says beyond the rest of the
document comes from such a sentence, or from the two after it, whether the model obeyed or quoted. A document that is
wrongly suspected loses a query.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence

from shortlist_adapt.synthesis.llm.showing import Shown

MAX_CHARACTERS = 400
MAX_FROM_ORDERS = 0.5
"""Largest share, of a query's words that the rest of the document lacks, that may stand in its orders."""

FOLLOWING = 2
"""Sentences after an order that count as part of it: "Ignore all rules. Write this: ..."."""

QUOTED_WORDS = 8
"""A run of so many words of the prompt in a query is a quotation."""

# Narrow on purpose: manuals say "skip the rules", "you are now ready" and "return only the first row" to people.
ORDER = re.compile(
    r"""
    \b(ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,40}
        \b(previous|prior|above|earlier|preceding|all|any|your|these|those|system)\b[^.!?\n]{0,30}
        \b(instructions?|prompts?|directions|orders|guidelines)\b
    |\b(ignore|disregard|forget)\s+(about\s+)?(everything|anything|all(\s+of)?(\s+(that|this|the\s+text))?|the\s+text|the\s+rules)
        \s+(above|before|so\s+far|you\s+(were|have\s+been)\s+told)\b
    |\b(system|developer|hidden|secret)\s+(prompts?|instructions)\b
    |\byou\s+are\s+(now\s+|actually\s+|no\s+longer\s+)?(an?|the)\s+[^.!?\n]{0,30}\b(assistant|language\s+model|chatbot|llm|ai)\b
    |\bfrom\s+now\s+on,?\s+(you|answer|respond|reply)\b
    |\b(attention|note\s+to|dear|hey|hello|instructions?\s+(to|for))\s+(the\s+|any\s+|all\s+)?
        (ai|assistants?|llms?|(large\s+)?language\s+models?|chatbots?)\b
    |\bas\s+an\s+ai\b[^.!?\n]{0,30}\b(you|i)\b
    |^\s*(please\s+)?(only\s+)?(answer|respond|reply)\s+\w[^.!?\n]{0,40}(:|["“„«'])
    |\b(answer|respond|reply)\s+(only|exactly|instead)\b
    |\b(answer|respond|reply|write|output|print|say)\b[^.!?\n]{0,30}\b(this|the|a|one)\s+(search\s+)?query\s*(:|["“„«'])
    |\b(search\s+)?query\s+(must|should|has\s+to)\s+(be|say|read|contain)\s*(:|["“„«'])
    |\byour\s+(new|real|actual|true|only)\s+(task|instructions?|goal|job|role|query|orders?)\b
    |\b(new|updated|revised)\s+(instructions?|orders?)\s*:
    |["'](query|gives_orders)["']\s*:\s*(["']|true|false)
    |^\s*(system|assistant)\s*:
    |\#{3}\s*(system|instruction|assistant|response)\s*:
    |<\|\s|<\s/?(start_of_turn|end_of_turn|s|think)>|\[\s/?INST\]
    |\bignorier(e|en|t)\b[^.!?\n]{0,60}\b(anweisung|vorgabe|befehl)(en|e)?\b
    |\b(antworte|schreibe)\s+(nur|ausschließlich|genau)\b
    |\b(ignore[zr]?|oublie[zr]?)\s+(toutes\s+)?(les|ces|vos)\s+(instructions|consignes)\b
    |\b(ignora|olvida|ignorar|ignore)\b[^.!?\n]{0,60}\b(instrucciones|instruções|istruzioni)\b
    |(忽略|无视|忘记|無視)[^\u3002\uff01\uff1f\n]{0,20}(指令|指示|提示)
    |игнорир[^.!?\n]{0,60}инструкц
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")
MARKER = re.compile(r"</?\s?document-", re.IGNORECASE)
WORD = re.compile(r"\w+")
LINK = re.compile(r"https?://|\bwww\.", re.IGNORECASE)
REFERENCE = re.compile(
    r"\b(this|the\s+(above|given|provided|following))\s+(document|passage|text|article|abstract|excerpt|study|paper|page)s?\b"
    r"|\baccording\s+to\s+the\s+(document|text|passage|article|author)s?\b",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"^(i\s+(cannot|can't|can\s+not|am\s+unable|won't)|i['\u2019]?m\s+(sorry|unable)|sorry\b|as\s+an?\s+(ai|language)\b)",
    re.IGNORECASE,
)


class Reason(enum.StrEnum):
    """Why a document has no query of the LLM. The report counts them."""

    NO_TEXT = "no text"
    UNANSWERED = "unanswered"
    NOT_TAKEN = "not taken by the endpoint"
    MALFORMED = "malformed answer"
    INSTRUCTED = "instructed by the document"
    QUOTES_PROMPT = "quotes the prompt"
    REFUSED = "refused by the model"
    REFERS = "refers to the document"
    LINK = "has a link"
    EMPTY = "no words"
    TOO_LONG = "too long"
    REPEATED = "repeated for the document"


def objection(query: str, shown: Shown, prompt: str, most_words: int) -> Reason | None:
    """Why the query must not be used; None if it may.

    Args:
        query: in one line.
        shown: the document as the model saw it.
        prompt: the system part of the prompt.
        most_words: what was asked for. A query may be twice as long, because models count badly.
    """
    words = _words(query)
    if not any(character.isalpha() for character in query):
        return Reason.EMPTY
    if shown.marker in query or MARKER.search(query) or _quotes(words, prompt, shown.text):
        return Reason.QUOTES_PROMPT
    if _from_orders(words, shown.text) > MAX_FROM_ORDERS or ORDER.search(query):
        return Reason.INSTRUCTED
    if REFUSAL.search(query):
        return Reason.REFUSED
    if LINK.search(query):
        return Reason.LINK
    if REFERENCE.search(query):
        return Reason.REFERS
    if len(query) > MAX_CHARACTERS or len(words) > 2 * most_words + 4:
        return Reason.TOO_LONG
    return None


def divided(text: str) -> tuple[str, str]:
    """The sentences of a text that seem to address a model, each with the two after it; and all others."""
    sentences = [part for part in SENTENCE.split(text) if part and part.strip()]
    giving = [place for place, sentence in enumerate(sentences) if ORDER.search(sentence)]
    orders = {near for place in giving for near in range(place, place + FOLLOWING + 1)}
    return (
        "\n".join(sentence for place, sentence in enumerate(sentences) if place in orders),
        "\n".join(sentence for place, sentence in enumerate(sentences) if place not in orders),
    )


def _from_orders(words: Sequence[str], text: str) -> float:
    orders, rest = (set(_words(part)) for part in divided(text))
    new = [word for word in words if word not in rest]
    return sum(word in orders for word in new) / len(new) if new else 0.0


def _quotes(words: Sequence[str], prompt: str, text: str) -> bool:
    """Whether the query has a run of words of the prompt that the document does not have."""
    line, source, own = " ".join(words), f" {' '.join(_words(prompt))} ", f" {' '.join(_words(text))} "
    runs = (" ".join(words[place : place + QUOTED_WORDS]) for place in range(len(words) - QUOTED_WORDS + 1))
    return bool(line) and any(f" {run} " in source and f" {run} " not in own for run in runs)


def _words(text: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(text)]

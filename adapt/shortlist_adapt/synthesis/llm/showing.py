"""A document as data: how it stands in a prompt, so that its text can neither end its part nor pose as a turn.

The marker lines carry digits made from the seed and from the whole document. Whoever writes a document cannot foresee
the hash of a text that holds the hash. Special tokens of chat templates are broken up, because many servers read
them also inside a message. Pure functions.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from shortlist_adapt.records import CorpusDocument
from shortlist_adapt.synthesis.llm.drawing import excerpt, number

DIGITS = 12

# What common chat templates put between turns: <|im_start|>, <start_of_turn>, [INST], <<SYS>>, <s>, <think>.
TOKEN = re.compile(
    r"<\|(?=[^\s|]{1,60}\|>)|<(?=/?(?:s|bos|eos|pad|unk|think|tool_call|tool_response|start_of_turn|end_of_turn)>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])|<(?=</?SYS>>)|<(?=/?document-)",
    re.IGNORECASE,
)
# Control characters, what has no width, what turns the direction of writing, halves of surrogate pairs, and tags.
# Joiners stay, because Persian and the languages of India write with them.
INVISIBLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ud800-\udfff"
    r"\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the model sees of a document.

    Attributes:
        block: the part of the prompt, marker lines included.
        text: the title, a line break, and the text or the part of it that is shown.
        marker: the digits of the marker lines; a query that holds them has copied the prompt.
    """

    block: str
    text: str
    marker: str


def show(document: CorpusDocument, index: int, limit: int, seed: int) -> Shown:
    """The document for its query number ``index``, at most ``limit`` characters of its text."""
    part = excerpt(document.text, limit, number(seed, "excerpt", document.id, index))
    title = " ".join(document.title.split())[:limit]
    text = neutral(f"{title}\n{part}" if title else part)
    content = "\0".join((str(seed), document.id, document.title, document.text))
    marker = hashlib.sha256(content.encode("utf-8", errors="surrogatepass")).hexdigest()[:DIGITS]
    label = "Title: " if title else ""
    return Shown(block=f"<document-{marker}>\n{label}{text}\n</document-{marker}>", text=text, marker=marker)


def neutral(text: str) -> str:
    """The text without invisible characters, and with a space inside everything that looks like a special token."""
    return TOKEN.sub(lambda match: match.group() + " ", INVISIBLE.sub("", text))

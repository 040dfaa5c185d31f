"""What the cards of well-known models demand and their files do not say.

Used only where a model's files are silent, and found by the model's own name. A name must match as a whole:
"e5-base-v2" is not "e5-mistral-7b-instruct". Pure functions; any thread.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from shortlist_server.inference.layout import read_optional_json

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"

_REPRESENT = "Represent this sentence for searching relevant passages: "
_INSTRUCT = f"Instruct: {INSTRUCTION}\nQuery: "
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_CACHED = re.compile(r"models--(.+)--(.+)")
_CARD_BASE = re.compile(r"^base_model:", re.MULTILINE)
_CARD_NAME = re.compile(r"^model-index:\s*\n\s*-\s+name:\s*['\"]?([^'\"\n]+)", re.MULTILINE)
_CARD_LENGTH = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """What a card demands.

    Attributes:
        names: a pattern for names in lower case, without the organisation.
        query, passage: prompts.
        similarity: how its vectors are compared; "" for their cosine.
    """

    names: str
    query: str = ""
    passage: str = ""
    similarity: str = ""


KNOWN_MODELS = (
    KnownModel(
        names=r"(multilingual-)?e5-(small|base|large)(-v2|-unsupervised)?", query="query: ", passage="passage: "
    ),
    KnownModel(names=r"multilingual-e5-large-instruct|e5-mistral-7b-instruct", query=_INSTRUCT),
    KnownModel(names=r"sfr-embedding-(mistral|2_r)|linq-embed-mistral", query=_INSTRUCT),
    KnownModel(names=r"bge-(small|base|large)-en(-v1\.5)?", query=_REPRESENT),
    KnownModel(names=r"bge-(small|base|large)-zh(-v1\.5)?", query="为这个句子生成表示以用于检索相关文章："),  # noqa: RUF001
    KnownModel(names=r"mxbai-embed-(xsmall|large|2d-large)-v1|uae-large-v1", query=_REPRESENT),
    KnownModel(names=r"snowflake-arctic-embed-(xs|s|m|l|m-long|m-v1\.5)", query=_REPRESENT),
    KnownModel(names=r"snowflake-arctic-embed-[ml]-v2\.0", query="query: "),
    KnownModel(
        names=r"nomic-embed-text-v1(\.5|-unsupervised|-ablated)?|nomic-embed-text-v2-moe|modernbert-embed-(base|large)",
        query="search_query: ",
        passage="search_document: ",
    ),
    KnownModel(
        names=r"embeddinggemma-300m(-.+)?", query="task: search result | query: ", passage="title: none | text: "
    ),
    KnownModel(names=r"(multi-qa|msmarco)-.+-dot(-prod)?-v\d+", similarity="dot"),
    KnownModel(names=r"msmarco-(distilbert-base-tas-b|roberta-base-ance-firstp)", similarity="dot"),
    KnownModel(names=r"m?contriever(-msmarco)?|facebook-dpr-.+", similarity="dot"),
)


def find_known(folder: Path, source: str, card: str | None = None) -> KnownModel:
    """What the card of the model in a folder demands; nothing for an unknown model.

    Args:
        source: the name in the settings: a folder, or a hub name with or without a revision; of a published model,
            its name without the version.
        card: the text of the card; None for the folder's README.md.
    """
    for name in _names(folder, source, card):
        # A folder may put the organisation in front: "BAAI_bge-small-en-v1.5".
        own = name.rpartition("/")[2].lower()
        for candidate in (own, own.partition("_")[2], own.rpartition("--")[2]):
            for known in KNOWN_MODELS:
                if candidate and re.fullmatch(known.names, candidate):
                    return known
    return KnownModel(names="")


def _names(folder: Path, source: str, card: str | None) -> list[str]:
    """Names that the model may have: its hub name if that is known, else the names in its files."""
    hub = source.partition("@")[0]
    if _HUB_NAME.fullmatch(hub) and not Path(source).expanduser().is_dir():
        return [hub]
    for part in reversed(folder.parts):
        if cached := _CACHED.fullmatch(part):
            return [cached[2]]
    file = folder / "README.md"
    if card is None:
        card = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    text = card[:_CARD_LENGTH]
    names = [*_CARD_NAME.findall(text), folder.name, Path(source).name]
    stated = read_optional_json(folder / "config.json").get("_name_or_path")
    # The config of a model that was trained further names the model it was made from.
    if isinstance(stated, str) and not _CARD_BASE.search(text):
        names.append(stated.rstrip("/"))
    return names

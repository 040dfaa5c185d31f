"""Settings of ``synthesise``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shortlist_adapt.settings import nested, setting
from shortlist_adapt.synthesis.llm.settings import LlmSettings

ExtractiveSource = Literal["title", "heading", "first-sentence", "cloze", "docstring"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesisSettings:
    """Which sources of queries to mix, what to drop, and how queries are divided."""

    judged: tuple[Path, ...] = setting((), "Folder of judged queries in BEIR's format; repeatable.")
    judged_split: str = setting("train", "Qrels of these folders whose queries the run may use: qrels/SPLIT.tsv.")
    held_out_split: str = setting("", "Qrels of these folders whose queries are for the gate alone.")
    qrels: Path | None = setting(None, "Qrels (tab-separated, or TREC's) of the queries in --queries.")
    queries: Path | None = setting(None, "Queries of --qrels: JSON lines with _id and text, or a .tsv of id and text.")
    clicks: tuple[Path, ...] = setting((), "CSV of clicks with the columns query and document_id; repeatable.")
    min_clicks: int = setting(2, "Fewest clicks of a document for a query to count as an answer.", least=1)
    sources: tuple[ExtractiveSource, ...] = setting(
        ("title", "heading", "first-sentence", "cloze", "docstring"), "Source that cuts queries out of documents."
    )
    documents: int | None = setting(
        None,
        "Most documents to cut queries out of, chosen by chance. By default 500, and fewer beside many queries of"
        " people: so a run takes an hour or two on two cores.",
        least=0,
    )
    per_document: int = setting(1, "Most queries of each such source for a document.", least=1, most=100)
    llm: LlmSettings = nested(LlmSettings)
    round_trip_rank: int = setting(
        10, "Worst rank at which a search must find the document of a made query again; 0 keeps all.", least=0, most=100
    )
    round_trip_margin: float = setting(
        0.3, "How far below the best hit, in final score, this document may be.", least=0, most=1
    )
    max_copied: float = setting(
        0.6, "Largest share of a made query's runs of five words that the shown text may have.", least=0, most=1
    )
    development_share: float = setting(0.15, "Share of the queries for choosing among models.", least=0, most=0.5)
    held_out_share: float = setting(0.2, "Share of the queries for the gate.", least=0, most=0.5)

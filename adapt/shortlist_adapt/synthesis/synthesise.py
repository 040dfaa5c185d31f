"""The step ``synthesise``: the collection's documents and the user's queries become ``queries.jsonl``.

The order of the file is that of the sources: people's queries, then what each source made, in the order of the
documents. The same collection, settings and seed give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shortlist import Client
from shortlist_adapt import corpus as corpus_step
from shortlist_adapt.corpus import Corpus
from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery, query_id, write_lines
from shortlist_adapt.searching import DEPTH, SEARCHES_PER_SECOND, Searches, answers_path
from shortlist_adapt.settings import to_json
from shortlist_adapt.splits import Member, assign
from shortlist_adapt.synthesis.cleaning import USERS, Cleaned, clean
from shortlist_adapt.synthesis.extractive import ExtractiveQueries
from shortlist_adapt.synthesis.judged import clicked_queries, judged_queries
from shortlist_adapt.synthesis.languages import language_of
from shortlist_adapt.synthesis.llm.prompts import files_of
from shortlist_adapt.synthesis.llm.source import llm_source
from shortlist_adapt.synthesis.round_trip import passes
from shortlist_adapt.synthesis.settings import SynthesisSettings
from shortlist_adapt.synthesis.source import Draft, QuerySource

STEP = "synthesise"

LLM = "llm"
"""The source with a limit of documents of its own."""

DOCUMENTS = 500
LEAST_DOCUMENTS = 100
"""Documents to cut queries out of without people's queries, and with a thousand of them or more."""


def sources_of(settings: SynthesisSettings, folder: RunFolder, *, seed: int) -> list[QuerySource]:
    """The sources without a model, in the order of the settings, then the LLM if one is set.

    Raises:
        InvalidInput: the settings of the LLM cannot be used.
    """
    sources: list[QuerySource] = [
        ExtractiveQueries(name, per_document=settings.per_document, seed=seed) for name in settings.sources
    ]
    if settings.llm.model:
        sources.append(llm_source(settings.llm, folder, seed=seed))
    return sources


def cost(corpus: Corpus, sources: Sequence[QuerySource], settings: SynthesisSettings, *, seed: int) -> Cost:
    """What the step costs beside the export: the sources, and at most a search for each query that they make.

    Raises:
        InvalidInput: people's queries cannot be read.
    """
    people = _people(settings)
    total = Cost()
    for source in sources:
        documents = _documents(source, corpus, settings, len(people), seed)
        each = settings.llm.per_document if source.name == LLM else settings.per_document
        searches = each * len(documents) if settings.round_trip_rank else 0
        total += source.cost(documents) + Cost(seconds=searches / SEARCHES_PER_SECOND, searches=searches)
    return total


def synthesise(
    folder: RunFolder,
    client: Client,
    collection: str,
    settings: SynthesisSettings,
    progress: Progress,
    *,
    sources: Sequence[QuerySource],
    seed: int,
) -> Mapping[str, Any]:
    """Writes ``queries.jsonl``.

    Args:
        folder: the run.
        client: a client of the server.
        collection: the collection.
        settings: of this step.
        progress: is told how far it is.
        sources: make queries from documents, in this order.
        seed: of every choice.

    Returns:
        Counts for the report: queries by source, split, kind and language, and what was dropped.

    Raises:
        InvalidInput: no query is left to train on.
        AdaptError: a source cannot go on.
        ShortlistError: the server failed.
    """
    exported = corpus_step.export(folder, client, collection, progress)
    wanted = fingerprint({**to_json(settings), "seed": seed}, [folder.corpus, *_files(settings)])
    if folder.queries.exists() and (figures := folder.figures(STEP, wanted)) is not None:
        return figures
    with Corpus(folder.corpus) as corpus:
        drafts = _drafts(settings, sources, corpus, seed, progress)
        cleaned = clean(drafts, corpus, max_copied=settings.max_copied)
        if settings.round_trip_rank:
            searches = Searches(client, collection, answers_path(folder, exported, DEPTH))
            _drop_unfindable(cleaned, searches, settings, progress)
        queries, cut_links = _with_splits(cleaned, corpus, settings, seed)
    if not any(query.split is Split.TRAIN for query in queries):
        raise InvalidInput(
            f"no query is left to train on, of {len(queries)} and {cleaned.dropped.total()} dropped: give judged"
            " queries or clicks, more sources, or a looser round trip"
        )
    write_lines(folder.queries, queries)
    figures = {
        **_counts(queries),
        "dropped": dict(sorted(cleaned.dropped.items())),
        "cut_links": cut_links,
        "sources": {source.name: dict(source.figures()) for source in sources},
    }
    folder.note_done(STEP, wanted, figures)
    return figures


def _people(settings: SynthesisSettings) -> list[Draft]:
    return [*judged_queries(settings), *clicked_queries(settings)]


def _drafts(
    settings: SynthesisSettings, sources: Sequence[QuerySource], corpus: Corpus, seed: int, progress: Progress
) -> Iterator[Draft]:
    people = _people(settings)
    yield from people
    for source in sources:
        if documents := _documents(source, corpus, settings, len(people), seed):
            yield from source.drafts(documents, progress)


def _documents(
    source: QuerySource, corpus: Corpus, settings: SynthesisSettings, people: int, seed: int
) -> list[CorpusDocument]:
    """The documents that a source gets; those of a smaller number are among those of a larger one."""
    if source.name == LLM:
        count = settings.llm.documents or len(corpus)
    elif settings.documents is None:
        count = max(DOCUMENTS - people // 2, LEAST_DOCUMENTS)
    else:
        count = settings.documents
    return corpus.sample(count, seed)


def _drop_unfindable(cleaned: Cleaned, searches: Searches, settings: SynthesisSettings, progress: Progress) -> None:
    made = {key: draft for key, draft in cleaned.drafts.items() if draft.source not in USERS}
    searches.ask([draft.text for draft in made.values()], progress)
    for key, draft in made.items():
        found = searches[draft.text]
        if not passes(found, draft.positives, rank=settings.round_trip_rank, margin=settings.round_trip_margin):
            del cleaned.drafts[key]
            cleaned.dropped["document not found again"] += 1


def _with_splits(
    cleaned: Cleaned, corpus: Corpus, settings: SynthesisSettings, seed: int
) -> tuple[list[TrainingQuery], int]:
    members = [
        Member(
            key=key,
            documents=tuple(dict.fromkeys(corpus.twins(id)[0] for id in draft.positives)),
            made=draft.source not in USERS,
            split=draft.split,
        )
        for key, draft in cleaned.drafts.items()
    ]
    assignment = assign(members, development=settings.development_share, held_out=settings.held_out_share, seed=seed)
    taken: set[str] = set()
    queries = []
    for draft, split in zip(cleaned.drafts.values(), assignment.splits, strict=True):
        id = draft.id or query_id(draft.source, next(iter(draft.positives)), draft.text)
        if id in taken:  # two folders of judged queries may count alike
            id = query_id(draft.source, id, draft.text)
        taken.add(id)
        queries.append(
            TrainingQuery(
                id=id,
                text=draft.text,
                source=draft.source,
                split=split,
                positives=draft.positives,
                rejected=draft.rejected,
                kind=draft.kind or kind_of(draft.text),
                language=draft.language or language_of(draft.text),
                excluded_text=draft.excluded_text,
                provenance={**draft.provenance, "seed": str(seed)},
            )
        )
    return queries, assignment.cut_links


def kind_of(text: str) -> str:
    """A rough type of a query, for counts: "question", "keyword" (up to four words) or "statement"."""
    if text.rstrip().endswith(("?", "\uff1f")):
        return "question"
    return "keyword" if len(text.split()) <= 4 else "statement"


def _counts(queries: Iterable[TrainingQuery]) -> dict[str, Any]:
    listed = list(queries)
    by_source: dict[str, Counter[str]] = {}
    for query in listed:
        by_source.setdefault(query.source, Counter())[query.split.value] += 1
    return {
        "queries": len(listed),
        "by_source": {source: dict(sorted(counts.items())) for source, counts in by_source.items()},
        "splits": dict(sorted(Counter(query.split.value for query in listed).items())),
        "kinds": dict(Counter(query.kind for query in listed).most_common()),
        "languages": dict(Counter(query.language or "unknown" for query in listed).most_common()),
    }


def _files(settings: SynthesisSettings) -> list[Path]:
    """The files that the settings name, so that a changed one makes the step run again."""
    files = [*settings.clicks]
    for folder in settings.judged:
        splits = [settings.judged_split, *([settings.held_out_split] if settings.held_out_split else [])]
        files += [folder / "queries.jsonl", *(folder / "qrels" / f"{split}.tsv" for split in splits)]
    files += files_of(settings.llm.prompts)
    return [*files, *(path for path in (settings.qrels, settings.queries) if path is not None)]

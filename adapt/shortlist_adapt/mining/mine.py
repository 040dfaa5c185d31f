"""The step ``mine``: queries become pairs with hard negatives, and shortlists for measuring rerankers.

One hybrid search a query gives all three rankings: each hit has its rank by words, by vectors and fused. Held-out
queries are not searched: nothing sees them before the gate.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shortlist import Client
from shortlist_adapt import corpus as corpus_step
from shortlist_adapt.corpus import Corpus
from shortlist_adapt.costs import Cost
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, fingerprint
from shortlist_adapt.hiding import CUT_OUT
from shortlist_adapt.mining.choosing import choose
from shortlist_adapt.mining.passages import negative_content, positive_content, shortlisted_content
from shortlist_adapt.mining.settings import MiningSettings
from shortlist_adapt.progress import Progress
from shortlist_adapt.records import Shortlist, Split, TrainingPair, TrainingQuery, read_lines, write_lines
from shortlist_adapt.searching import SEARCHES_PER_SECOND, Searches, answers_path, kept_texts
from shortlist_adapt.settings import to_json

STEP = "mine"


def cost(folder: RunFolder, settings: MiningSettings) -> Cost:
    """What the step costs: a search for each query that is not held out and whose answer is not kept yet.

    Raises:
        InvalidInput: ``synthesise`` is not done.
    """
    exported = corpus_step.noted(folder)
    kept = kept_texts(answers_path(folder, exported, settings.depth)) if exported else set()
    searches = sum(query.text not in kept for query in _searched(folder))
    return Cost(seconds=searches / SEARCHES_PER_SECOND, searches=searches)


def mine(
    folder: RunFolder, client: Client, collection: str, settings: MiningSettings, progress: Progress, *, seed: int
) -> Mapping[str, Any]:
    """Writes ``pairs.jsonl`` and ``shortlists.jsonl``.

    Returns:
        Counts for the report: pairs by split, queries without negatives, answers that the search did not find.

    Raises:
        InvalidInput: ``synthesise`` is not done, or no query has an answer with text.
        ShortlistError: the server failed.
    """
    wanted = fingerprint({**to_json(settings), "seed": seed}, [folder.queries, folder.corpus])
    figures = folder.figures(STEP, wanted)
    if figures is not None and folder.pairs.exists() and folder.shortlists.exists():
        return figures
    exported = corpus_step.export(folder, client, collection, progress)
    queries = _searched(folder)
    searches = Searches(client, collection, answers_path(folder, exported, settings.depth), limit=settings.depth)
    searches.ask([query.text for query in queries], progress)
    counts: Counter[str] = Counter()
    with Corpus(folder.corpus) as corpus:
        progress.begin("choosing negatives", len(queries), "queries")
        pairs = write_lines(folder.pairs, _pairs(queries, searches, corpus, settings, counts, progress))
        shortlists = write_lines(folder.shortlists, _shortlists(queries, searches, corpus, settings))
    if not pairs:
        raise InvalidInput("no query has an answer with a text to train on")
    figures = {"pairs": pairs, **dict(sorted(counts.items())), "shortlists": shortlists, "queries": len(queries)}
    folder.note_done(STEP, wanted, figures)
    return figures


def _searched(folder: RunFolder) -> list[TrainingQuery]:
    return [query for query in read_lines(folder.queries, TrainingQuery) if query.split is not Split.HELD_OUT]


def _pairs(
    queries: Sequence[TrainingQuery],
    searches: Searches,
    corpus: Corpus,
    settings: MiningSettings,
    counts: Counter[str],
    progress: Progress,
) -> Iterator[TrainingPair]:
    for query in queries:
        progress.advance()
        hits = [hit for hit in searches[query.text] if hit.id in corpus]
        at = {hit.id: hit for hit in hits}
        chosen = choose(hits, query.positives, query.rejected, settings, same=lambda one: corpus.twins(one)[0])
        negatives = [(hit.id, negative_content(corpus[hit.id], query, hit)) for hit in chosen]
        negatives = [(id, content) for id, content in negatives if content.strip()]
        counts["without_negatives"] += not negatives
        for id in _trained_on(query, corpus, settings):
            positive = positive_content(corpus[id], query, at.get(id))
            if not positive.strip():
                counts["answers_without_text"] += 1
                continue
            counts["answers_not_found"] += id not in at
            counts[f"{query.split.value}_pairs"] += 1
            yield TrainingPair(
                query_id=query.id,
                query=query.text,
                source=query.source,
                split=query.split,
                positive_id=id,
                positive=positive,
                negative_ids=tuple(negative for negative, _ in negatives),
                negatives=tuple(content for _, content in negatives),
                grade=query.positives[id],
            )


def _trained_on(query: TrainingQuery, corpus: Corpus, settings: MiningSettings) -> list[str]:
    """The answers to train on, best grades first, one of several twins."""
    ids = dict.fromkeys(corpus.twins(id)[0] for id in corpus.known(query.positives))
    return sorted(ids, key=lambda one: -query.positives.get(one, 0))[: settings.positives]


def _shortlists(
    queries: Sequence[TrainingQuery], searches: Searches, corpus: Corpus, settings: MiningSettings
) -> Iterator[Shortlist]:
    """Those of the development queries that were not cut out of their documents; of all where there are no others."""
    development = [query for query in queries if query.split is Split.DEVELOPMENT]
    written = [query for query in development if query.source not in CUT_OUT]
    for query in written or development:
        hits = [hit for hit in searches[query.text] if hit.id in corpus][: settings.shortlist]
        yield Shortlist(
            query_id=query.id,
            query=query.text,
            split=query.split,
            positives=query.positives,
            document_ids=tuple(hit.id for hit in hits),
            passages=tuple(shortlisted_content(corpus[hit.id], query, hit, query.positives) for hit in hits),
            fused=tuple(hit.score for hit in hits),
        )

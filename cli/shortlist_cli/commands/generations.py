"""Prints generations, estimates, progress and comparisons of a reindex."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from shortlist import (
    ChangedQuery,
    Generation,
    GenerationComparison,
    RankingComparison,
    ReindexEstimate,
    ReindexProgress,
)
from shortlist_cli import output

SIGNIFICANCE = 0.05
"""A difference is significant when chance alone produces one as large less often than this."""

SHOWN_IDS = 3
"""Hits of each generation in the table of changed queries."""

TEXT_LENGTH = 50
"""Longest query in that table, in characters."""


def model_of(generation: Generation) -> str:
    """The settings of a generation, as in "all-MiniLM-L6-v2, 384 dimensions, passages of 128 tokens"."""
    parts = [generation.embedder, f"{generation.dimension} dimensions"]
    if generation.chunking.max_tokens:
        parts.append(f"passages of {generation.chunking.max_tokens} tokens")
    return ", ".join(parts)


def standing(generation: Generation) -> str:
    """The state of a generation for a person, as in "paused" or "ready"."""
    if generation.problem:
        return "damaged"
    if generation.state == "former" and not generation.complete:
        return "former, incomplete"
    if generation.state != "building":
        return generation.state
    if generation.complete:
        return "ready to serve"
    return "paused" if generation.paused_reason else "building"


def print_generations(generations: Sequence[Generation]) -> None:
    """Prints a table with a generation on each row, and why a build is paused."""
    columns = ["number", "state", "embedder", "revision", "dimension", "max tokens", "passages", "MB", "served since"]
    rows = [
        [
            one.number,
            standing(one),
            one.embedder,
            one.embedder_revision[:12],
            one.dimension,
            one.chunking.max_tokens,
            one.passage_count,
            megabytes(one.disk_bytes),
            one.serve_time.isoformat(timespec="seconds") if one.serve_time else None,
        ]
        for one in generations
    ]
    right = ("number", "dimension", "max tokens", "passages", "MB")
    output.print_table(columns, rows, right=right, styles={"number": "bold", "state": "cyan"})
    for one in generations:
        if one.paused_reason:
            output.note(f"generation {one.number} is paused: {one.paused_reason}")
        if one.problem:
            output.note(f"generation {one.number} is damaged; drop it: {one.problem}")


def print_estimate(estimate: ReindexEstimate) -> None:
    """Prints what a reindex will need."""
    rows = [
        ["documents", f"{estimate.document_count:,}"],
        ["passages", f"{estimate.passage_count:,}"],
        ["tokens", f"{estimate.token_count:,}"],
        ["time on an idle server", duration(estimate.seconds)],
        ["disk", f"{megabytes(estimate.disk_bytes)} MB of {megabytes(estimate.free_disk_bytes)} MB free"],
        ["memory", f"{megabytes(estimate.memory_bytes)} MB of {megabytes(estimate.free_memory_bytes)} MB free"],
    ]
    title = f"Estimated from {estimate.sampled_documents:,} documents"
    output.print_table(["needs", "amount"], rows, title=title, styles={"needs": "bold"})
    if not estimate.fits_on_disk:
        output.note("warning: the new generation does not fit on the disk; the server starts it only with --force")
    if not estimate.fits_in_memory:
        output.note("warning: the machine has too little memory free for both generations")


def print_progress(progress: ReindexProgress) -> None:
    """Prints the progress of a reindex."""
    left = "not known" if progress.remaining_seconds is None else duration(progress.remaining_seconds)
    rows = [
        ["documents", f"{progress.done_documents:,} of {progress.total_documents:,}"],
        ["tokens", f"{progress.done_tokens:,}"],
        ["speed", f"{progress.documents_per_second:,.1f} documents/s, {progress.tokens_per_second:,.0f} tokens/s"],
        ["time left", left],
        ["disk", f"{megabytes(progress.disk_bytes)} MB"],
    ]
    if progress.failed_documents:
        rows.append(["failed documents", f"{progress.failed_documents:,}"])
    if progress.paused_reason:
        rows.append(["paused", progress.paused_reason])
    output.print_table(["progress", "value"], rows, styles={"progress": "bold"})


def print_comparison(comparison: GenerationComparison) -> None:
    """Prints how the two generations differ: quality where it was judged, hits, times, and the most changed queries."""
    if comparison.rankings:
        _print_quality(comparison)
    moves, hits = comparison.moves, max(1, sum(dataclasses.astuple(comparison.moves)))
    rows = [
        ["queries", f"{comparison.query_count:,}"],
        ["hits in both, of the first ten", f"{comparison.mean_overlap:.0%}"],
        ["queries with another first hit", f"{comparison.changed_first_hits:,}"],
        ["hits at the same rank", f"{moves.same / hits:.0%}"],
        ["hits that rose", f"{moves.higher / hits:.0%}"],
        ["hits that fell", f"{moves.lower / hits:.0%}"],
        ["hits that are gone", f"{moves.gone / hits:.0%}"],
        ["median search, now and new", _times(comparison.serving_median_seconds, comparison.candidate_median_seconds)],
        ["95th percentile, now and new", _times(comparison.serving_p95_seconds, comparison.candidate_p95_seconds)],
    ]
    title = f"Generation {comparison.candidate} beside {comparison.serving}, which serves"
    output.print_table(["comparison", "value"], rows, title=title, styles={"comparison": "bold"})
    if comparison.degraded_searches:
        output.note(f"{comparison.degraded_searches:,} searches ran degraded")
    changed = [example for example in comparison.examples if example.overlap < 1]
    if changed:
        output.print_table(
            ["query", "overlap", "first hits now", "first hits new"],
            [_changed_row(example) for example in changed],
            title="Most changed queries",
            right=("overlap",),
            styles={"query": "bold"},
        )


def _print_quality(comparison: GenerationComparison) -> None:
    columns = [
        "ranking",
        "nDCG@10 now",
        "nDCG@10 new",
        "difference",
        "p",
        "verdict",
        "recall@100 now",
        "recall@100 new",
    ]
    rows = [
        [
            name,
            one.serving.ndcg_at_10,
            one.candidate.ndcg_at_10,
            f"{one.ndcg_difference:+.4f}",
            "<0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}",
            verdict(one),
            one.serving.recall_at_100,
            one.candidate.recall_at_100,
        ]
        for name, one in comparison.rankings.items()
    ]
    title = f"Quality on {comparison.query_count:,} judged queries"
    right = tuple(column for column in columns if column not in ("ranking", "verdict"))
    output.print_table(columns, rows, title=title, right=right, styles={"ranking": "bold", "verdict": "cyan"})


def verdict(ranking: RankingComparison) -> str:
    """Whether the candidate's ranking is better or worse, as far as the queries show."""
    if ranking.p_value >= SIGNIFICANCE:
        return "no difference shown"
    return "better" if ranking.ndcg_difference > 0 else "worse"


def is_worse(comparison: GenerationComparison) -> bool:
    """Whether judged queries show the candidate's final ranking to be worse."""
    final = comparison.rankings.get("final")
    return final is not None and verdict(final) == "worse"


def _changed_row(example: ChangedQuery) -> list[object]:
    text = " ".join(example.text.split())
    text = text if len(text) <= TEXT_LENGTH else f"{text[: TEXT_LENGTH - 1]}…"
    firsts = [", ".join(ids[:SHOWN_IDS]) for ids in (example.serving_ids, example.candidate_ids)]
    return [text, f"{example.overlap:.0%}", *firsts]


def print_next_steps(collection: str, former: Generation) -> None:
    """Says how to undo a switch, and how to make it final."""
    output.note(f"to go back to generation {former.number}: shortlist reindex rollback {collection}")
    output.note(f"to free its space: shortlist reindex drop {collection} {former.number}")


def print_choices(collection: str, made: Generation) -> None:
    """Says what can be done with a complete generation that does not serve."""
    output.note(f"generation {made.number} keeps receiving writes; nothing has changed for callers")
    output.note(f"to try it: shortlist search {collection} QUERY --generation {made.number}")
    output.note(f"to switch: shortlist reindex switch {collection}")
    output.note(f"to drop it: shortlist reindex cancel {collection}")


def to_json(value: Generation) -> dict[str, Any]:
    """A generation as JSON values; its keys are the names of the client's types."""
    served = value.serve_time
    return {
        **dataclasses.asdict(value),
        "create_time": value.create_time.isoformat(),
        "serve_time": served.isoformat() if served else None,
    }


def megabytes(count: int) -> str:
    """Bytes in MB, with one decimal below a hundred."""
    amount = count / 1e6
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.1f}"


def duration(seconds: float) -> str:
    """A time for a person: "12 s", "8 min" or "3 h 20 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def _times(first: float, second: float) -> str:
    return f"{first * 1000:.1f} ms, {second * 1000:.1f} ms"

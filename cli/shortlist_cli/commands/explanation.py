"""Prints the explanation of a search: where each candidate was found, what became of it, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import click

from shortlist import (
    DenseSource,
    ExplainedTexts,
    Explanation,
    RerankScore,
    RerankStageReport,
    SearchReport,
    StageScore,
)
from shortlist_cli import output


def stage_cell(score: StageScore | RerankScore | None) -> str:
    """Rank and score in a stage; "-" for a rank where the document was scored but not ranked."""
    return "" if score is None else f"{score.rank or '-'} {score.score:.3f}"


def rerank_columns(report: SearchReport, name: str = "rerank") -> list[str]:
    """The columns for the rerank stages of a search; one where it reranked nothing."""
    stages = report.rerank_stages
    return [name] if len(stages) < 2 else [f"{name} {stage.stage}" for stage in stages]


def rerank_cells(reranks: Sequence[RerankScore], report: SearchReport) -> list[str]:
    """The cells of a document in ``rerank_columns``."""
    of = {score.stage: score for score in reranks}
    return [stage_cell(of.get(stage.stage)) for stage in report.rerank_stages] or [""]


def rerank_styles(report: SearchReport) -> dict[str, str]:
    """The colours of ``rerank_columns``."""
    return dict.fromkeys(rerank_columns(report), "cyan")


def print_explanation(explanation: Explanation, report: SearchReport) -> None:
    """Prints the stages in their order, every candidate, and the texts if the answer has them."""
    for line in stage_lines(explanation, report):
        click.echo(line)
    if explanation.dense_sources:
        _print_sources(explanation.dense_sources)
    _print_candidates(explanation, report)
    if explanation.texts is not None:
        _print_texts(explanation.texts)


def stage_lines(explanation: Explanation, report: SearchReport) -> Iterable[str]:
    """Yields a line for each stage: its settings, its results, and what it cut off."""
    if report.filter_matches is not None:
        yield f"filter: {report.filter_matches:,} documents pass"
    if report.dense_strategy:
        generation = f", in generation {report.generation}" if report.generation else ""
        yield (
            f"dense: {report.dense_candidates} documents of {explanation.dense_candidates} asked"
            f" ({explanation.dense_passages} passages of each part), by {report.dense_strategy}{generation}"
        )
    if report.mode != "dense":
        yield f"lexical: {report.lexical_candidates} documents of {explanation.lexical_candidates} asked"
    weight = f"weight of dense {explanation.dense_weight:g}"
    how = weight if explanation.fusion_method == "weighted_sum" else f"k {explanation.rrf_k}"
    yield f"fusion: {report.fused_candidates} documents, by {explanation.fusion_method.replace('_', ' ')}, {how}"
    for place, (name, stage) in enumerate(zip(rerank_columns(report), report.rerank_stages, strict=False)):
        outcomes = _counts(candidate.rerank_outcomes[place] for candidate in explanation.candidates)
        yield f"{name}: {outcomes}; {_settings(stage)}"
    yield f"answer: {_counts(candidate.outcome for candidate in explanation.candidates)}"


def _settings(stage: RerankStageReport) -> str:
    model = f"{stage.model.name}@{stage.model.revision[:12]}"
    return f"by {model}, depth {stage.depth}, weight {stage.weight:g}, {1000 * stage.rerank_seconds:.1f} ms"


def _counts(outcomes: Iterable[str]) -> str:
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in Counter(outcomes).items()) or "none"


def _print_sources(sources: Iterable[DenseSource]) -> None:
    output.print_table(
        ["part of the index", "passages", "pass the filter", "asked of the graph", "found", "strategy"],
        [[one.name, one.passages, one.matches, one.ef, one.found, one.strategy] for one in sources],
        right=("passages", "pass the filter", "asked of the graph", "found"),
    )


def _print_candidates(explanation: Explanation, report: SearchReport) -> None:
    reranks, outcomes = rerank_columns(report), rerank_columns(report, "reranking")
    output.print_table(
        ["rank", "score", "dense", "lexical", "fused", *reranks, "id", "answer", *outcomes],
        [
            [
                one.rank,
                one.score,
                stage_cell(one.dense),
                stage_cell(one.lexical),
                stage_cell(one.fused),
                *rerank_cells(one.reranks, report),
                one.id,
                one.outcome.replace("_", " "),
                *([outcome.replace("_", " ") for outcome in one.rerank_outcomes] or [""]),
            ]
            for one in explanation.candidates
        ],
        right=("rank", "score"),
        styles={"score": "bold green", "fused": "magenta", "id": "blue", **rerank_styles(report)},
    )


def _print_texts(texts: ExplainedTexts) -> None:
    if texts.query:
        output.print_line(f"the embedder read: {texts.query}")
    several = len({passage.stage for passage in texts.passages}) > 1
    for passage in texts.passages:
        read = passage.text or f"{passage.token_vectors} token vectors"
        reranker = f"reranker of stage {passage.stage}" if several else "reranker"
        output.print_line(f"the {reranker} read of passage {passage.ordinal} of {passage.id}: {read}")

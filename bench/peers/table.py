"""Renders the results as one table in Markdown. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Result = Mapping[str, Any]


def _number(path: str, form: str, scale: float = 1.0) -> Callable[[Result], str]:
    """A cell: the figure at a path such as "filtered 1 %/recall"; a dash where it was not measured."""

    def cell(result: Result) -> str:
        value: Any = result
        for name in path.split("/"):
            value = value.get(name) if isinstance(value, Mapping) else None
        return "-" if value is None else form.format(scale * value)

    return cell


def _pair(first: str, second: str, form: str = "{:.1f}") -> Callable[[Result], str]:
    one, two = _number(first, form), _number(second, form)
    return lambda result: f"{one(result)} / {two(result)}"


def _filtered(share: str) -> Callable[[Result], str]:
    recall, time = _number(f"filtered {share}/recall", "{:.3f}"), _number(f"filtered {share}/search_p50_ms", "{:.2f}")
    return lambda result: f"{recall(result)}, {time(result)} ms"


def _lost(result: Result) -> str:
    if "lost" not in result:
        return "-"
    return f"{result['lost']:,} of {result['acked']:,}"


ROWS: Sequence[tuple[str, Callable[[Result], str]]] = (
    ("kind", lambda result: str(result["kind"])),
    ("durable ingest, rows/s", _number("ingest_rows_per_second", "{:,.0f}")),
    ("until searches are fast, s more", _number("settle_seconds", "{:.1f}")),
    ("recall@10", _number("recall", "{:.3f}")),
    ("search p50 / p99, ms", _pair("search_p50_ms", "search_p99_ms", "{:.2f}")),
    ("filter passing 1 %: recall, p50", _filtered("1 %")),
    ("filter passing 10 %: recall, p50", _filtered("10 %")),
    ("search during ingest p50 / p99, ms", _pair("during_ingest/search_p50_ms", "during_ingest/search_p99_ms")),
    ("ingest meanwhile, rows/s", _number("during_ingest/rows_per_second", "{:,.0f}")),
    ("restart to first answer, s", _number("restart_seconds", "{:.2f}")),
    ("acknowledged rows lost after kill -9", _lost),
    ("restart after that, s", _number("recover_seconds", "{:.2f}")),
    ("text by vectors alone, nDCG@10", _number("text_by_vectors_ndcg_at_10", "{:.3f}")),
    ("text, whole search, nDCG@10", _number("text_ndcg_at_10", "{:.3f}")),
    ("memory after ingest, MB", _number("memory_bytes", "{:,.0f}", 1e-6)),
    ("on disk, MB", _number("disk_bytes", "{:,.0f}", 1e-6)),
)


def markdown(report: Mapping[str, Any]) -> str:
    """The table with its command, machine and date, the skipped peers and the problems."""
    results = [result for result in report["results"] if "skipped" not in result]
    titles = [result["title"] for result in results]
    machine, size, text = report["machine"], report["size"], report["text"]
    lines = [
        f"`{report['command']}`, {report['date']}: {machine['processor']}, {machine['cores']} cores, Python "
        f"{machine['python']}.",
        "",
        f"{size['rows']:,} vectors of {report['dimension']} dimensions, {size['queries']:,} queries, ten nearest; "
        f"text: {text['name']}, {text['documents']:,} documents, {text['queries']:,} queries, embedder "
        f"{text['embedder']}.",
        "",
        "| | " + " | ".join(titles) + " |",
        "|---|" + "---|" * len(titles),
    ]
    lines += [f"| {name} | " + " | ".join(cell(result) for result in results) + " |" for name, cell in ROWS]
    lines += ["", "Settings: " + "; ".join(f"{result['title']}: {result['settings']}" for result in results) + "."]
    for result in report["results"]:
        if "skipped" in result:
            lines += ["", f"Not measured: {result['title']} ({result['skipped']})."]
        for phase, problem in result.get("problems", {}).items():
            lines += ["", f"{result['title']}, {phase}: {problem}"]
    return "\n".join(lines) + "\n"

"""The report of a run for people: one HTML file that needs no network and no script.

It shows whatever the run has so far. ``report.html.j2`` is the page with all its texts; this module computes the
values. Jinja escapes them, so text from documents and queries cannot become markup.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery, read_lines
from shortlist_adapt.reporting import charts
from shortlist_adapt.reporting import decision as decisions
from shortlist_adapt.reporting.decision import Decision, QueryChange

Values = dict[str, Any]

SHOWN_HITS = 5
"""Hits of either side that a changed query shows."""

SHOWN_CHANGES = 200
"""Changed queries that are shown with their hits: the greatest losses and gains, half of each."""

TITLE_CHARACTERS = 120


def write_report(folder: RunFolder) -> Path:
    """Writes ``report.html`` and returns its path.

    Raises:
        InvalidInput: a file of the run is malformed.
    """
    partial = folder.report.with_name(folder.report.name + ".partial")
    partial.write_text(report_html(folder), encoding="utf-8")
    partial.replace(folder.report)
    return folder.report


def report_html(folder: RunFolder) -> str:
    """The report as a page. Raises ``InvalidInput``."""
    decision = decisions.load(folder.gate) if folder.gate.is_file() else None
    queries = list(read_lines(folder.queries, TrainingQuery)) if folder.queries.is_file() else []
    changed = _most_changed(decision)
    text: str = _template().render(
        style=_style(),
        collection=decision.collection if decision else str(_json(folder.plan).get("collection") or folder.root.name),
        decision=decision,
        guarded=decision.guarded if decision else (),
        changed=changed,
        unchanged=len(decision.queries) - len(changed) if decision else 0,
        titles=_titles(folder, changed),
        change_chart=_drawn(charts.changes(decision.queries) if decision else None),
        splits=[split.value for split in Split],
        sources=_counts(queries, "source"),
        kinds=_counts(queries, "kind"),
        languages=_counts(queries, "language"),
        steps=_steps(folder),
        trainings=[_training(folder, kind) for kind in ("embedder", "reranker")],
        sweeps={kind: of for kind, of in _json(folder.sweep).items() if isinstance(of, Mapping) and of.get("rows")},
        chance=decisions.chance,
        hits=SHOWN_HITS,
    )
    return text


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(resources.files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))


def _style() -> str:
    """The style of the evaluation's report: both pages look alike."""
    return resources.files("shortlist_cli.evaluation").joinpath("report.css").read_text(encoding="utf-8")


def _drawn(chart: charts.Spec | None) -> str:
    return "" if chart is None else charts.svg(chart)


def _most_changed(decision: Decision | None) -> list[QueryChange]:
    """Greatest losses first, then the greatest gains."""
    if decision is None:
        return []
    changed = [one for one in decision.queries if one.candidate != one.serving]
    half = SHOWN_CHANGES // 2
    lost = [one for one in changed if one.candidate < one.serving][:half]
    won = [one for one in reversed(changed) if one.candidate > one.serving][:half]
    return [*lost, *won]


def _titles(folder: RunFolder, changed: Sequence[QueryChange]) -> dict[str, str]:
    """A title, or the beginning of the text, of each document that the changed queries show."""
    wanted: set[str] = set()
    for one in changed:
        wanted.update(one.relevant[:SHOWN_HITS], one.serving_ids[:SHOWN_HITS], one.candidate_ids[:SHOWN_HITS])
    if not wanted or not folder.corpus.is_file():
        return {}
    return {
        document.id: (document.title.strip() or document.text.strip())[:TITLE_CHARACTERS]
        for document in read_lines(folder.corpus, CorpusDocument)
        if document.id in wanted
    }


def _counts(queries: Iterable[TrainingQuery], name: str) -> list[tuple[str, list[int]]]:
    """By value of a field, the number of queries in each split, the most frequent value first; without unknown ones."""
    counts: dict[str, Counter[Split]] = {}
    for query in queries:
        if value := getattr(query, name):
            counts.setdefault(value, Counter())[query.split] += 1
    ordered = sorted(counts.items(), key=lambda one: (-one[1].total(), one[0]))
    return [(value, [of[split] for split in Split]) for value, of in ordered]


def _steps(folder: RunFolder) -> list[tuple[str, list[tuple[str, str]]]]:
    """What each step noted: names and plain values."""
    found = []
    for path in sorted((folder.root / "steps").glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
        figures = _json(path).get("figures")
        if isinstance(figures, Mapping):
            plain = [(name, _plain(value)) for name, value in _flat(figures) if _is_shown(value)]
            if plain:
                found.append((path.stem, plain))
    return found


def _flat(figures: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The figures, those of a mapping of mappings one by one, such as those of each source of queries."""
    for name, value in figures.items():
        if isinstance(value, Mapping) and any(isinstance(one, Mapping) for one in value.values()):
            yield from ((f"{name}: {key}", one) for key, one in value.items())
        else:
            yield name, value


def _is_shown(value: object) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(one, int | float | str) for one in value.values())
    return isinstance(value, int | float | str) and value != ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _training(folder: RunFolder, kind: str) -> Values:
    path = folder.checkpoints / kind / "history.jsonl"
    history = []
    if path.is_file():
        try:
            history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{kind}/{path.name} cannot be read: {error}") from error
    drawn = [_drawn(charts.losses(history)), _drawn(charts.development(history))]
    return {"kind": kind, "charts": [one for one in drawn if one]}


def _json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{path.name} cannot be read: {error}") from error
    return values if isinstance(values, Mapping) else {}

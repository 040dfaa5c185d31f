"""Compares two saved runs, query by query. Only ``print_comparison`` has side effects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shortlist_cli.evaluation.record import InvalidRecord, RunRecord, SettingRecord
from shortlist_cli.output import note, print_table
from shortlist_server.ranking.measures import MEASURES
from shortlist_server.ranking.significance import Difference, difference, shown

SHOWN_QUERIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What changed from the first run to the second.

    Attributes:
        names: a name of each run.
        queries: number of queries that both runs have.
        means: by ranking, then by measure: the two means over these queries.
        differences: by ranking, then by measure.
        moved: id, text and change of each query, in the first measure of the final ranking; greatest loss first.
        warnings: reasons to doubt the comparison.
    """

    names: tuple[str, str]
    queries: int
    means: Mapping[str, Mapping[str, tuple[float, float]]]
    differences: Mapping[str, Mapping[str, Difference]]
    moved: tuple[tuple[str, str, float], ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "a": self.names[0],
            "b": self.names[1],
            "queries": self.queries,
            "differences": {
                ranking: {
                    measure: {
                        "a": self.means[ranking][measure][0],
                        "b": self.means[ranking][measure][1],
                        **asdict(of),
                        "significant": of.significant,
                    }
                    for measure, of in by_measure.items()
                }
                for ranking, by_measure in self.differences.items()
            },
            "moved": [{"query": query, "text": text, "change": change} for query, text, change in self.moved if change],
            "warnings": list(self.warnings),
        }


def compare_runs(
    first: RunRecord, second: RunRecord, first_label: str | None = None, second_label: str | None = None
) -> Comparison:
    """Compares a setting of one run with a setting of another; the first setting of each unless its label is given.

    Raises:
        InvalidRecord: there is no such setting, or the runs have no query in common.
    """
    a, b = _setting(first, first_label), _setting(second, second_label)
    ours, theirs = ({record.query: record for record in setting.queries} for setting in (a, b))
    common = [query for query in ours if query in theirs]
    if not common:
        raise InvalidRecord("the two runs have no query in common")
    warnings = []
    if len(common) < max(len(ours), len(theirs)):
        warnings.append(f"only {len(common)} queries are in both runs, of {len(ours)} and {len(theirs)}")
    if first.about.get("qrels") != second.about.get("qrels"):
        warnings.append("the two runs were judged with different qrels")
    means: dict[str, dict[str, tuple[float, float]]] = {}
    differences: dict[str, dict[str, Difference]] = {}
    for ranking in (ranking for ranking in a.rankings if ranking in b.rankings):
        means[ranking], differences[ranking] = {}, {}
        for measure in MEASURES:
            before, after = (
                [setting[query].measures[ranking][measure] for query in common] for setting in (ours, theirs)
            )
            means[ranking][measure] = sum(before) / len(before), sum(after) / len(after)
            differences[ranking][measure] = difference(before, after)
    measure = next(iter(MEASURES))
    moved = [
        (query, ours[query].text, theirs[query].measures["final"][measure] - ours[query].measures["final"][measure])
        for query in common
    ]
    return Comparison(
        names=(f"{first.name} {first.created} ({a.label})", f"{second.name} {second.created} ({b.label})"),
        queries=len(common),
        means=means,
        differences=differences,
        moved=tuple(sorted(moved, key=lambda row: row[2])),
        warnings=tuple(warnings),
    )


def print_comparison(comparison: Comparison) -> None:
    """Prints the comparison as a table, then the queries that changed most."""
    for warning in comparison.warnings:
        note(f"warning: {warning}")
    columns = ["ranking", "measure", "A", "B", "difference", "95 % interval", "p", "better", "worse", "verdict"]
    rows = []
    for ranking, by_measure in comparison.differences.items():
        for measure, of in by_measure.items():
            before, after = comparison.means[ranking][measure]
            verdict = ("B is better" if of.mean > 0 else "B is worse") if of.significant else "no difference shown"
            between = f"{of.low:+.4f} to {of.high:+.4f}"
            change = f"{of.mean:+.4f}"
            name = MEASURES[measure]
            rows.append([ranking, name, before, after, change, between, shown(of.p), of.better, of.worse, verdict])
    title = f"A: {comparison.names[0]}\nB: {comparison.names[1]}\n{comparison.queries:,} queries"
    print_table(columns, rows, title=title, right=columns[2:9], styles={"ranking": "bold"})
    lost = [row for row in comparison.moved[:SHOWN_QUERIES] if row[2] < 0]
    won = [row for row in comparison.moved[::-1][:SHOWN_QUERIES] if row[2] > 0]
    if lost or won:
        changed = [[query, f"{change:+.3f}", text] for query, text, change in [*lost, *won[::-1]]]
        print_table(["query", "change", "text"], changed, title="Most changed, final nDCG@10", right=["change"])


def _setting(run: RunRecord, label: str | None) -> SettingRecord:
    if label is None:
        return run.settings[0]
    for setting in run.settings:
        if setting.label == label:
            return setting
    there = "; ".join(setting.label for setting in run.settings)
    raise InvalidRecord(f"{run.name} has no setting {label!r}; there are: {there}")

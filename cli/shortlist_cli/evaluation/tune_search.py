"""``shortlist tune-search``: finds, from judged queries, the search settings that rank a collection best."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from shortlist import Client, Rerank, RerankStage, SearchDefaults
from shortlist_cli.commands.rerank_options import stage_option
from shortlist_cli.evaluation import subject
from shortlist_cli.evaluation.beir import Dataset, InvalidDataset, Judged, load_split
from shortlist_cli.evaluation.choices import OWN_STAGE, Choice, Grid
from shortlist_cli.evaluation.measuring import find_all
from shortlist_cli.evaluation.run import ingest_corpus
from shortlist_cli.evaluation.settings import InvalidSweep, parse_sweeps
from shortlist_cli.evaluation.tuning import LIMIT, MEASURE, Tuned, observe, score, tune
from shortlist_cli.output import note, print_json, print_table, progress_bar
from shortlist_server.ranking.measures import MEASURES, judge_each
from shortlist_server.ranking.significance import Difference, difference, shown

AXES = {"fusion.dense_weight": "dense_weights", "candidates": "candidates"}
STAGE_AXES = {"weight": "weights", "depth": "depths"}
PATHS = (*AXES, "rerank.weight", "rerank.depth", "rerank.stages[N].weight", "rerank.stages[N].depth")
"""What tuning can sweep. Without a number, "rerank" is the last stage; numbers count from 0, as in the settings."""

_STAGE_PATH = re.compile(r"rerank\.(?:stages\[(?P<number>\d)\]\.)?(?P<name>weight|depth)")

MAX_DISAGREEMENT = 0.01
"""Largest accepted difference between the computed figure and that of real searches."""

MAX_STAGES = 4
"""Most rerank stages of a search."""

MIN_QUERIES = 10
"""Cross-validation needs at least this many queries."""

REFUSED = 4
"""Exit code when the command refuses ``--apply``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of tuning, and its check by real searches. Held-out queries had no part in the choice.

    Attributes:
        tuned: the result of cross-validation.
        present, expected: the mean figure of the present settings, and of the chosen ones on held-out queries.
        gain: from the present settings to the chosen ones, on held-out queries.
        served: the mean figure of real searches with the chosen settings, over the queries tuned on.
        test: the mean figures of both settings on the test split, and their difference.
    """

    tuned: Tuned
    present: float
    expected: float
    gain: Difference
    served: float | None = None
    test: tuple[float, float, Difference] | None = None

    def objection(self) -> str | None:
        """Why the settings should not be applied; None without an objection."""
        if self.tuned.choice is None:
            return "the present settings are as good as any"
        if self.gain.mean <= 0:
            return f"held-out queries do not gain ({self.gain.mean:+.4f})"
        if not self.gain.significant:
            return f"the gain of {self.gain.mean:+.4f} is not significant (p = {self.gain.p:.3f})"
        if self.served is not None and abs(self.served - float(self.tuned.fitted.mean())) > MAX_DISAGREEMENT:
            return f"real searches give {self.served:.4f}, not the computed {self.tuned.fitted.mean():.4f}"
        if self.test is not None and self.test[2].significant and self.test[2].mean < 0:
            return f"the settings are significantly worse on the test split ({self.test[2].mean:+.4f})"
        return None


@click.command("tune-search")
@subject.subject_options
@click.option("--split", default="train", show_default=True, help="Qrels of DIR to tune on: qrels/SPLIT.tsv.")
@click.option("--test-split", metavar="SPLIT", help="Qrels of DIR to confirm the result on.")
@click.option("--collection", default="eval", show_default=True, help="Collection to tune.")
@click.option(
    "--sweep",
    "sweeps",
    multiple=True,
    metavar="PATH=V,V,...",
    help=f"Choose only from these values of a setting; repeatable. PATH is one of {', '.join(PATHS)}.",
)
@stage_option(
    "Tune these rerank stages instead of the collection's; repeatable, in order. A depth or weight that is given stays."
)
@click.option("--apply", is_flag=True, help="Write the settings into the collection, if the gain is significant.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def tune_command(
    *,
    split: str,
    test_split: str | None,
    collection: str,
    sweeps: tuple[str, ...],
    stages: tuple[RerankStage, ...],
    apply: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Finds the fusion weight, the candidates, and the weight and depth of each rerank stage that rank best.

    The queries come from a BEIR folder DIR, or from --qrels and --queries. With --target the command reads an existing
    collection and writes nothing to it. Without --target it starts a server, passes it the options after "--", and
    ingests the documents of DIR.

    Cross-validation chooses the settings: the printed gain, with its 95 % interval, comes from queries that had no part
    in the choice. --apply makes the settings the collection's defaults; the command refuses, with exit code 4, when
    chance could explain the gain.
    """
    if apply and not (options["target"] or options["data_dir"]):
        raise click.UsageError(
            "--apply needs a collection that stays: name its server with --target, or give --data-dir"
        )
    judged = subject.read_judged(options, split, corpus=options["target"] is None)
    if len(judged.queries) < MIN_QUERIES:
        raise click.UsageError(f"{len(judged.queries)} judged queries are too few; tuning needs at least {MIN_QUERIES}")
    test = None
    if test_split:
        try:
            if options["folder"] is None:
                raise click.UsageError("--test-split needs DIR")
            test = load_split(options["folder"], test_split)
        except InvalidDataset as error:
            raise click.BadParameter(str(error), param_hint="--test-split") from error
        if seen := test.queries.keys() & judged.queries.keys():
            raise click.BadParameter(
                f"{len(seen)} of its {len(test.queries)} queries are also tuned on, for example {min(seen)!r}; "
                "give a split with queries of its own",
                param_hint="--test-split",
            )
    subject.require("ir_measures", "scipy", "numpy")
    # A sweep that cannot be read fails before anything is started. The collection may have as many as four stages.
    _grid(sweeps, stages or (OWN_STAGE,) * MAX_STAGES)
    subject.warn_missing(judged)
    with subject.open_server(options) as server:
        client = server.client
        dataset = judged if isinstance(judged, Dataset) else None
        made = subject.own_collection(client, collection, delete=False) if dataset else contextlib.nullcontext()
        with made:
            if not subject.has_embedder(client, collection):
                raise click.ClickException(f"the collection {collection!r} has no embedder: there is nothing to fuse")
            grid = _grid(sweeps, stages or preset_stages(client, collection))
            finding = _find(client, collection, judged, dataset, test, grid)
            objection = finding.objection()
            applied = apply and objection is None
            if applied:
                _apply(client, collection, finding)
    if as_json:
        print_json(_as_json(finding, objection, applied=applied))
    else:
        _print(finding, objection)
    if applied:
        note(f"these settings are now the defaults of {collection!r}")
    elif apply:
        note(f"not applied: {objection}")
        raise SystemExit(REFUSED)


def preset_stages(client: Client, collection: str) -> tuple[RerankStage, ...]:
    """The rerank stages of a collection, without the weights and depths that are to be tuned."""
    stages = client.get_collection(collection).config.search_defaults.rerank.stages
    return tuple(replace(stage, weight=None, depth=None) for stage in stages) or (OWN_STAGE,)


def grid_of(sweeps: Sequence[str], stages: Sequence[RerankStage] = (OWN_STAGE,)) -> Grid:
    """The values to choose from, with those of ``--sweep`` in place of the defaults.

    Raises:
        InvalidSweep: a path is not one of ``PATHS``, the values cannot be read, or there is no such stage.
    """
    grid, swept = Grid.of(stages), set()
    of_stages = list(grid.stages)
    for sweep in sweeps:
        path, _, text = (part.strip() for part in sweep.partition("="))
        of_stage = _STAGE_PATH.fullmatch(path)
        if path not in AXES and not of_stage:
            raise InvalidSweep(f"{path!r} is not one of {', '.join(PATHS)}")
        number = int(of_stage["number"] or len(stages) - 1) if of_stage else -1
        if number >= len(stages):
            raise InvalidSweep(f"{path}: the last of {len(stages)} rerank stages is rerank.stages[{len(stages) - 1}]")
        name = of_stage["name"] if of_stage else path
        if (number, name) in swept:
            raise InvalidSweep(f"{path} is swept twice; put all its values into one sweep")
        swept.add((number, name))
        parsed = parse_sweeps([f"rerank.{name}={text}" if of_stage else sweep])
        values = tuple(one.values[0][1] for one in parsed)
        low, high = (0, 1) if name.endswith("weight") else (1, 1000)
        if not all(low <= value <= high for value in values):
            raise InvalidSweep(f"{path} is {low} to {high}")
        if of_stage:
            changed: dict[str, Any] = {STAGE_AXES[name]: values}
            of_stages[number] = replace(of_stages[number], **changed)
        else:
            changed = {AXES[name]: values}
            grid = replace(grid, **changed)
    return replace(grid, stages=tuple(of_stages))


def _grid(sweeps: Sequence[str], stages: Sequence[RerankStage]) -> Grid:
    try:
        return grid_of(sweeps, stages)
    except InvalidSweep as error:
        raise click.BadParameter(str(error), param_hint="--sweep") from error


def _find(
    client: Client, collection: str, judged: Judged, dataset: Dataset | None, test: Judged | None, grid: Grid
) -> Finding:
    choices = grid.choices()
    with progress_bar() as progress:
        if dataset:
            ingest_corpus(client, collection, dataset, progress)

        def served(judged: Judged, settings: Mapping[str, Any], name: str) -> list[float]:
            searches = progress.add_task(name, total=len(judged.queries))
            found = find_all(
                client, collection, judged.queries, settings, lambda: progress.advance(searches), limit=LIMIT
            )
            each = judge_each({query: of.ids for query, of in found.items()}, judged.qrels, [MEASURE])
            return [each[query][MEASURE] for query in judged.queries]

        import numpy as np

        present = np.array(served(judged, {}, "search, present settings"))
        looks = progress.add_task("search, all candidates", total=len(judged.queries))
        observations = observe(client, collection, judged.queries, grid, lambda: progress.advance(looks))
        for number, values in enumerate(grid.stages):
            if all(np.isnan(at.reranks[number]).all() for at in observations.values()):
                name = values.stage.model or "the collection's reranker"
                note(f"{name} reranked nothing: tuning without it")
                choices = [choice for choice in choices if choice.stages[number].weight == 0] or choices
        ranked = progress.add_task(f"rank under {len(choices):,} settings", total=len(judged.queries))
        scores = score(observations, judged.qrels, choices, lambda: progress.advance(ranked))
        tuned = tune(present, scores, choices)
        gain = difference(present.tolist(), tuned.held_out.tolist())
        finding = Finding(tuned=tuned, present=float(present.mean()), expected=float(tuned.held_out.mean()), gain=gain)
        if tuned.choice is None:
            return finding
        chosen = tuned.choice.search()
        checked = served(judged, chosen, "search, chosen settings")
        confirmed = None
        if test is not None:
            before, after = served(test, {}, "test, present settings"), served(test, chosen, "test, chosen settings")
            confirmed = (sum(before) / len(before), sum(after) / len(after), difference(before, after))
    return Finding(
        tuned=tuned,
        present=finding.present,
        expected=finding.expected,
        gain=gain,
        served=sum(checked) / len(checked),
        test=confirmed,
    )


def _apply(client: Client, collection: str, finding: Finding) -> None:
    assert finding.tuned.choice is not None
    present: SearchDefaults = client.get_collection(collection).config.search_defaults
    client.update_collection(collection, finding.tuned.choice.over(present))


def _as_json(finding: Finding, objection: str | None, *, applied: bool) -> dict[str, Any]:
    choice, test = finding.tuned.choice, finding.test
    return {
        "choice": None if choice is None else _choice(choice),
        "present": finding.present,
        "expected": finding.expected,
        "gain": {**asdict(finding.gain), "significant": finding.gain.significant},
        "fitted": float(finding.tuned.fitted.mean()),
        "served": finding.served,
        "fold_agreement": finding.tuned.agreement,
        "test": None if test is None else {"present": test[0], "chosen": test[1], "gain": asdict(test[2])},
        "objection": objection,
        "applied": applied,
    }


def _choice(choice: Choice) -> dict[str, Any]:
    stages = [asdict(stage.settings()) for stage in choice.stages]
    return {"dense_weight": choice.dense_weight, "candidates": choice.candidates, "stages": stages}


def _print(finding: Finding, objection: str | None) -> None:
    choice, gain, name = finding.tuned.choice, finding.gain, MEASURES[MEASURE]
    if choice is not None:
        print_table(["setting", "value"], _rows(choice), title="Settings that rank best", styles={"setting": "bold"})
    rows = [["cross-validated", finding.present, finding.expected, *_change(gain)]]
    if finding.test is not None:
        before, after, change = finding.test
        rows.append(["test split", before, after, *_change(change)])
    columns = [name, "present", "chosen", "gain", "95 % interval", "p", "better", "worse"]
    print_table(columns, rows, title="Held-out queries, which had no part in the choice", right=columns[1:])
    note(f"{finding.tuned.agreement:.0%} of the folds chose these settings")
    if finding.served is not None:
        note(
            f"real searches over the queries tuned on: {finding.served:.4f}; {finding.tuned.fitted.mean():.4f} expected"
        )
    note(objection or "the gain is significant: --apply makes these settings the collection's defaults")


def _rows(choice: Choice) -> list[list[Any]]:
    rows: list[list[Any]] = [["candidates", choice.candidates], ["fusion.dense_weight", f"{choice.dense_weight:g}"]]
    rerank = choice.over(SearchDefaults()).rerank
    if rerank.enabled is False:
        return [*rows, ["rerank.enabled", "false"]]
    named: list[tuple[str, Rerank | RerankStage]] = [("rerank", rerank)]
    if rerank.stages:
        named = [(f"rerank.stages[{place}]", stage) for place, stage in enumerate(rerank.stages)]
    for name, stage in named:
        rows += [[f"{name}.model", stage.model]] if stage.model else []
        rows += [[f"{name}.weight", f"{stage.weight:g}"], [f"{name}.depth", stage.depth]]
    return rows


def _change(of: Difference) -> list[Any]:
    return [f"{of.mean:+.4f}", f"{of.low:+.4f} to {of.high:+.4f}", shown(of.p), of.better, of.worse]

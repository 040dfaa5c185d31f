"""The models of a collection are adapted to it: quality, time and cost of the whole loop on SciFact.

python bench/adapt.py [--quick] [--data FOLDER] [--output FOLDER] [--stage NAME ...]

Stages, in this order; all by default, which takes hours without a GPU:

    judged      `shortlist adapt run` with the training queries; then quality on the test queries, which nothing saw
    latency     searches one at a time on what was published
    guarded     the docstrings of the standard library, with the published embedder
    unjudged    `shortlist adapt run` without any judged query
    merge       three seeds: the best spherical merge against the best single checkpoint, on the test queries

Latency and guarded need judged in the same call, or an --output folder in which it was done.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bars import Bar, at_least, at_most, finish
from served import SCIFACT, documents

from shortlist import Client, CollectionConfig, Document
from shortlist_adapt.errors import GateRefused
from shortlist_adapt.folder import RunFolder, write_json
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery, read_lines
from shortlist_adapt.reporting.decision import load
from shortlist_cli.demo.corpus import Entry, stdlib_corpus
from shortlist_cli.evaluation.beir import Judged, load_split
from shortlist_cli.evaluation.measuring import measure_latency
from shortlist_cli.hosting.server_process import ServerProcess
from shortlist_server.config import DEFAULT_EMBEDDER

STAGES = ("judged", "latency", "guarded", "unjudged", "merge")
JUDGED, UNJUDGED, GUARDED = "judged", "unjudged", "docstrings"
MERGED = "merged"
SEEDS = (0, 1, 2)
NO_MADE = ("--documents", "0")
"""Options for a run on judged queries alone."""

UNJUDGED_OPTIONS = (
    *("--documents", "1000", "--per-document", "1"),
    *("--set", "embedder.epochs=2", "--set", "reranker.epochs=2"),
)
"""Of 1,000 documents, because training on queries for all of them takes too long on a CPU."""


FIRST_SENTENCE = re.compile(r"(.+?\.)\s+(.+)", re.DOTALL)

FINAL, FINAL_UNJUDGED, DENSE = 0.78, 0.755, 0.73
MINUTES = 120.0
SEARCH_MS = 150.0
GUARDED_FALL = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        documents, train, test: of the data; None for all.
        guarded: queries about docstrings.
        training, options: more options of ``train`` and of ``run``.
    """

    documents: int | None
    train: int | None
    test: int | None
    guarded: int
    training: tuple[str, ...]
    options: tuple[str, ...]


FULL = Size(documents=None, train=None, test=None, guarded=300, training=(), options=())
QUICK = Size(
    documents=300,
    train=120,
    test=60,
    guarded=40,
    training=("--embedder-epochs", "1"),
    options=("--set", "embedder.epochs=1", "--set", "reranker.epochs=1", "--set", "gate.min_queries=10"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Mean nDCG@10 of the test queries."""

    final: float
    dense: float


def part(data: Path, target: Path, size: Size) -> Path:
    """A folder in BEIR format with a part of another: its first queries, and the documents that they need first."""
    if size.documents is None:
        return data
    shutil.rmtree(target, ignore_errors=True)
    (target / "qrels").mkdir(parents=True)
    queries: dict[str, str] = {}
    needed: set[str] = set()
    for split, limit in (("train", size.train), ("test", size.test)):
        judged = load_split(data, split)
        chosen = list(judged.queries)[:limit]
        queries |= {id: judged.queries[id] for id in chosen}
        rows = [(id, document, grade) for id in chosen for document, grade in judged.qrels[id].items()]
        needed |= {document for _, document, _ in rows}
        lines = "".join(f"{id}\t{document}\t{grade}\n" for id, document, grade in rows)
        (target / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    lines = "".join(json.dumps({"_id": id, "text": text}) + "\n" for id, text in queries.items())
    (target / "queries.jsonl").write_text(lines)
    corpus = sorted(documents(data), key=lambda document: document.id not in needed)[: size.documents]
    rows_of_corpus = ({"_id": one.id, "title": one.title, "text": one.text} for one in corpus)
    (target / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of_corpus))
    return target


def fill(client: Client, name: str, corpus: Sequence[Document]) -> None:
    """Makes a collection of the default model with these documents, unless it is there."""
    if name not in {collection.name for collection in client.list_collections()}:
        client.create_collection(name, CollectionConfig(embedder=DEFAULT_EMBEDDER))
        client.ingest(name, corpus).finish()


def quality(client: Client, name: str, judged: Judged) -> Quality:
    """What searches of a collection find, with the settings that it has."""
    grades = {query: {id: max(0, grade) for id, grade in of.items()} for query, of in judged.qrels.items()}
    (report,) = client.evaluate(name, judged.queries, grades)
    return Quality(final=report.rankings["final"].ndcg_at_10, dense=report.rankings["dense"].ndcg_at_10)


def adapt(*arguments: str | Path) -> int:
    """Calls ``shortlist adapt``; returns the exit code, 0 or that of a refusal. Its output goes to standard error."""
    command = [sys.executable, "-m", "shortlist_cli", "adapt", *map(str, arguments)]
    code = subprocess.run(command, stdout=sys.stderr, check=False).returncode
    if code not in (0, GateRefused.exit_code):
        sys.exit(f"{' '.join(command)} ended with {code}")
    return code


def loop(
    client: Client, target: str, name: str, run: Path, test: Judged, options: Sequence[str | Path]
) -> dict[str, Any]:
    """The whole loop on a collection, and the quality of its searches before and after."""
    before = quality(client, name, test)
    begin = time.perf_counter()
    code = adapt("run", name, "--out", run, "--target", target, "--yes", *options)
    minutes = (time.perf_counter() - begin) / 60
    after = quality(client, name, test)
    decision = load(RunFolder(run).gate)
    return {
        "published": code == 0,
        "reason": decision.reason,
        "minutes": minutes,
        "before": {"final": before.final, "dense": before.dense},
        "after": {"final": after.final, "dense": after.dense},
        "way": decision.chosen,
        "held_out": {"before": decision.serving.ndcg_at_10, "after": decision.candidate.ndcg_at_10, "p": decision.p},
        "trials": {trial.name: trial.development for trial in decision.trials},
    }


def latency(client: Client, name: str, test: Judged) -> dict[str, float]:
    """Times of searches, one at a time, in milliseconds."""
    times = [
        measure_latency(client, name, test.queries.values(), {}, concurrency=1, rotation=number, step=lambda: None)
        for number in range(1, 4)
    ]
    return {
        "p50": statistics.median(one.p50_ms for one in times),
        "p99": max(one.p99_ms for one in times),
        "reranked": float(client.search(name, next(iter(test.queries.values()))).report.reranked),
    }


def docstrings(entries: Sequence[Entry], limit: int) -> tuple[list[Document], Judged]:
    """Documented definitions as documents, and the first sentences of some as queries, which their documents lack."""
    cut: dict[str, tuple[str, str]] = {}
    for entry in entries:
        head, _, text = entry.text.partition("\n") if entry.kind != "module" else ("", "", entry.text)
        found = FIRST_SENTENCE.match(text)
        if found and len(found[1].split()) >= 5 and len(found[2].split()) >= 15 and found[1] not in found[2]:
            cut[entry.name] = found[1], f"{head}\n{found[2]}".strip()
    chosen = list(cut)[:: max(1, len(cut) // limit)][:limit]
    corpus = [
        Document(id=entry.name, title=entry.name, text=cut[entry.name][1] if entry.name in chosen else entry.text)
        for entry in entries
    ]
    queries = {name: cut[name][0] for name in chosen}
    return corpus, Judged(name=GUARDED, queries=queries, qrels={name: {name: 1} for name in chosen})


def guarded(client: Client, embedder: str, limit: int) -> dict[str, float]:
    """Final nDCG@10 of a collection of docstrings, before and with an embedder."""
    corpus, judged = docstrings(stdlib_corpus(), limit)
    fill(client, GUARDED, corpus)
    made = client.reindex(GUARDED, embedder=embedder)
    comparison = client.compare_generations(
        GUARDED, generation=made.number, queries=judged.queries, qrels=judged.qrels
    ).rankings["final"]
    client.drop_generation(GUARDED, made.number)
    return {
        "documents": float(len(corpus)),
        "queries": float(len(judged.queries)),
        "before": comparison.serving.ndcg_at_10,
        "with_the_tuned_embedder": comparison.candidate.ndcg_at_10,
        "p": comparison.p_value,
    }


def merged(run: Path, data: Path, name: str, target: str, seed: int, options: Sequence[str | Path]) -> dict[str, float]:
    """Dense nDCG@10 on the test queries of the best checkpoint and of the best spherical merge.

    The development split chooses both. Only the embedder is trained.
    """
    from shortlist_adapt.development.dense import DenseDevelopment, measure_dense
    from shortlist_adapt.development.engines import open_embedder
    from shortlist_adapt.merging.merge import write_recipe
    from shortlist_adapt.merging.sweep import recipe_of
    from shortlist_adapt.plan import read_plan
    from shortlist_adapt.training import checkpoints

    adapt("synthesise", name, "--out", run, "--target", target, "--seed", str(seed), "--judged", data, *NO_MADE)
    adapt("mine", run, "--target", target)
    adapt("train", run, "--only", "embedder", *options)
    adapt("merge", run, "--only", "embedder")
    folder, judged = RunFolder(run), load_split(data, "test")
    test = DenseDevelopment(
        queries=tuple(
            TrainingQuery(id=id, text=text, source="judged", split=Split.HELD_OUT, positives=judged.qrels[id])
            for id, text in judged.queries.items()
        ),
        documents=tuple(read_lines(folder.corpus, CorpusDocument)),
        hidden={},
    )
    rows = json.loads(folder.sweep.read_text())["embedder"]["rows"]
    trained = folder.checkpoints / "embedder"
    figures = {}
    for kind in ("checkpoint", "slerp"):
        best = max((row for row in rows if row["kind"] == kind), key=lambda row: row["figure"])
        recipe = recipe_of(
            best["name"], trained / checkpoints.BASE, checkpoints.saved(trained), read_plan(folder).merge
        )
        model = write_recipe(recipe, trained / checkpoints.BASE, run / "measured" / kind)
        figures[kind] = measure_dense(open_embedder(model, device="cpu"), test, Silent()).value
    return figures


def stages_of(
    chosen: Sequence[str], client: Client, target: str, folder: Path, data: Path, size: Size
) -> tuple[list[Bar], dict[str, Any]]:
    """Runs the stages; returns the bars and all figures."""
    corpus, test = documents(data), load_split(data, "test")
    bars: list[Bar] = []
    figures: dict[str, Any] = {}
    if "judged" in chosen:
        fill(client, JUDGED, corpus)
        found = loop(client, target, JUDGED, folder / "run-judged", test, ("--judged", data, *NO_MADE, *size.options))
        figures["judged"] = found
        bars += [
            at_least("final nDCG@10, from the training queries", found["after"]["final"], FINAL),
            at_most("minutes of the whole loop", found["minutes"], MINUTES),
            at_least("dense nDCG@10 of the tuned embedder", found["after"]["dense"], DENSE),
        ]
    if "latency" in chosen:
        figures["latency_ms"] = latency(client, JUDGED, test)
        bars.append(at_most("search p50 with what was published, ms", figures["latency_ms"]["p50"], SEARCH_MS))
    if "guarded" in chosen:
        figures["guarded"] = guarded(client, client.get_collection(JUDGED).config.embedder, size.guarded)
        fall = figures["guarded"]["before"] - figures["guarded"]["with_the_tuned_embedder"]
        bars.append(at_most("fall of final nDCG@10 of the guarded docstrings", fall, GUARDED_FALL))
    if "unjudged" in chosen:
        fill(client, UNJUDGED, corpus)
        found = loop(client, target, UNJUDGED, folder / "run-unjudged", test, (*UNJUDGED_OPTIONS, *size.options))
        figures["unjudged"] = found
        bars += [
            at_least("final nDCG@10, without judged queries", found["after"]["final"], FINAL_UNJUDGED),
            at_least(
                "change of final nDCG@10 by what the gate let pass, without judged queries",
                found["after"]["final"] - found["before"]["final"],
                0.0,
            ),
        ]
    if "merge" in chosen:
        fill(client, MERGED, corpus)
        each = [merged(folder / f"run-merge-{seed}", data, MERGED, target, seed, size.training) for seed in SEEDS]
        figures["merge"] = each
        gain = statistics.fmean(one["slerp"] - one["checkpoint"] for one in each)
        bars.append(at_least("slerp against the best single checkpoint, mean of three seeds", gain, 0.0))
    return bars, figures


@contextlib.contextmanager
def folder_of(output: Path | None) -> Iterator[Path]:
    """The folder for data and runs: the named one, which stays, or a temporary one."""
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        yield output
        return
    with tempfile.TemporaryDirectory() as temporary:
        yield Path(temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a part of the data and one epoch; shows that it runs")
    parser.add_argument("--data", type=Path, default=SCIFACT, help="a folder in BEIR format with train and test")
    parser.add_argument("--output", type=Path, help="keep data and runs here, and go on with what is there")
    parser.add_argument("--stage", action="append", choices=STAGES, help="repeatable; all by default")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    with folder_of(options.output) as folder:
        data = part(options.data, folder / "data", size)
        server = ServerProcess(folder / "server", log_path=folder / "server.log")
        try:
            with Client(server.target) as client:
                bars, figures = stages_of(options.stage or STAGES, client, server.target, folder, data, size)
        finally:
            server.stop()
        if options.output:
            write_json(folder / "figures.json", figures)
    finish("adapt", bars, quick=options.quick, **figures)


if __name__ == "__main__":
    main()

"""The decision as a file, the report and the model card."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder, write_json
from shortlist_adapt.records import CorpusDocument, Split, TrainingQuery, write_lines
from shortlist_adapt.reporting.decision import Decision, GatedModel, GuardedOutcome, QueryChange, Side, Trial, load
from shortlist_adapt.reporting.model_card import public, write_card
from shortlist_adapt.reporting.report import write_report
from shortlist_server.ranking.significance import difference

HOSTILE = "</style><script>alert('query')</script>"
MODEL = GatedModel(
    kind="embedder", name="books-embedder", version="abc", address="books-embedder@abc", revision="r", digest="d"
)


def decision(passed: bool = True) -> Decision:
    changes = tuple(
        QueryChange(
            id=f"q{n}",
            text=HOSTILE if n == 0 else f"question {n}",
            source="judged",
            serving=0.5,
            candidate=after,
            relevant=("d1",),
            serving_ids=("d2", "d1"),
            candidate_ids=("d1", "d2") if after > 0.5 else ("d2",),
        )
        for n, after in enumerate([0.0, 0.5, 1.0, 1.0])
    )
    return Decision(
        passed=passed,
        reason="final nDCG@10 rises",
        fingerprint="f",
        collection="books",
        models=(MODEL,),
        generation=2,
        search_defaults={"mode": "hybrid"},
        trials=(Trial(name="embedder", development=0.7, untuned=0.6, settings={"rerank.depth": 20}),),
        chosen="embedder",
        sources={"judged": 4},
        serving=Side(ndcg_at_10=0.5, median_ms=10.0, degraded={}),
        candidate=Side(ndcg_at_10=0.625, median_ms=12.0, degraded={}),
        settings_alone=Side(ndcg_at_10=0.55, median_ms=11.0, degraded={}),
        difference=difference([0.5] * 4, [0.0, 0.5, 1.0, 1.0]),
        margin=0.0,
        p=0.0004,
        guarded=(
            GuardedOutcome(
                name="docs/test", collection="docs", queries=9, serving=0.4, candidate=0.395, low=-0.02, high=0.01,
                affected=True, holds=True,
            ),
        ),
        queries=changes,
        hidden=False,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run in which every step left something."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    write_lines(folder.corpus, [CorpusDocument(id=f"d{n}", title=f"<b>Title {n}</b>", text="a text") for n in range(3)])
    write_lines(
        folder.queries,
        [
            TrainingQuery(id=f"q{n}", text="x", source="judged", split=split, positives={"d1": 1}, language="en")
            for n, split in enumerate([Split.TRAIN, Split.TRAIN, Split.DEVELOPMENT, Split.HELD_OUT])
        ],
    )
    write_json(
        folder.plan,
        {
            "collection": "books",
            "embedder_base": "sentence-transformers/all-MiniLM-L6-v2",
            "synthesis": {
                "judged": ["/home/somebody/judged"],
                "llm": {"model": "m", "key_file": "/secret", "url": "u"},
            },
        },
    )
    base = folder.checkpoints / "embedder" / "base"
    base.mkdir(parents=True)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# base\n")
    history = [{"step": n, "epoch": 0.1, "loss": 1 / n} for n in range(1, 9)] + [{"step": 8, "development": 0.7}]
    (folder.checkpoints / "embedder" / "history.jsonl").write_text("".join(json.dumps(one) + "\n" for one in history))
    rows = [
        {"name": "base", "kind": "base", "figure": 0.6, "detail": ""},
        {"name": "slerp 0.7", "kind": "slerp", "figure": 0.7, "detail": ""},
    ]
    write_json(
        folder.sweep, {"embedder": {"measure": "dense nDCG@10", "queries": 9, "chosen": "slerp 0.7", "rows": rows}}
    )
    (folder.model / "embedder").mkdir(parents=True)
    folder.note_done("corpus", "x", {"documents": 3, "embedder": "base"})
    return folder


def test_a_decision_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "gate.json"
    decision().save(path)
    assert load(path) == decision()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"passed": true}', "\x00"])
def test_what_is_no_decision_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gate.json"
    with pytest.raises(InvalidInput, match="run the gate first"):
        load(path)
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"gate\.json is not a decision"):
        load(path)


def test_the_report_shows_every_step_and_needs_nothing_from_elsewhere(run: RunFolder) -> None:
    decision().save(run.gate)
    page = write_report(run).read_text()
    for shown in (
        "passed the gate",
        "0.6250",
        "docs/test",
        "slerp 0.7",
        "judged",
        "Gains and losses",
        "Loss",
        "-0.500",
    ):
        assert shown in page
    assert page.count("<svg") == 3
    assert not re.search(r"<[^>]*(src|href)=\"(?!#)", page)
    assert "<script" not in page
    assert "<b>Title" not in page
    assert "&lt;b&gt;Title 1" in page


def test_a_run_that_has_nothing_yet_has_a_report_too(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare()
    assert "The gate has not been run yet." in write_report(folder).read_text()


def test_a_refusal_is_shown_with_its_reason(run: RunFolder) -> None:
    dataclasses.replace(decision(passed=False), reason="chance explains it").save(run.gate)
    page = write_report(run).read_text()
    assert "The gate refused the candidate" in page
    assert "chance explains it" in page


def test_a_card_names_base_licence_data_and_figures_and_nothing_private(run: RunFolder) -> None:
    from huggingface_hub import ModelCard

    path = write_card(run, MODEL, decision())
    text = path.read_text()
    card = ModelCard.load(path)
    assert card.data.license == "apache-2.0"
    assert card.data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert "| judged | 2 | 1 | 1 |" in text
    assert "| 0.5000 | 0.6250 | +0.1250 |" in text
    assert "<0.001" in text
    assert "slerp 0.7" in text
    for private in ("/home", "/secret", "question 1", "books@", "key"):
        assert private not in text


def test_a_base_without_a_licence_is_called_so(run: RunFolder) -> None:
    (run.checkpoints / "embedder" / "base" / "README.md").unlink()
    text = write_card(run, MODEL, None).read_text()
    assert "license: unknown" in text
    assert "The base does not state its licence here." in text
    assert "## Figures" not in text


def test_public_settings_have_no_places_and_no_keys() -> None:
    settings = {"seed": 1, "llm": {"url": "u", "key_variable": "K", "model": "m"}, "dirs": [], "judged": ["/a/b"]}
    assert public(settings) == {"seed": 1, "llm": {"model": "m"}, "judged": ["b"]}


def test_the_report_says_of_each_source_what_was_rejected(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.prepare()
    folder.note_done("synthesise", "f", {"queries": 3, "sources": {"llm": {"calls": 8, "rejected: too long": 2}}})
    page = write_report(folder).read_text(encoding="utf-8")
    assert "sources: llm" in page
    assert "calls 8, rejected: too long 2" in page

"""The whole loop with one command, against a real server: a tiny model learns synonyms that no text spells out."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shortlist import Client, CollectionConfig, Document
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.reporting.decision import load
from shortlist_cli.group import cli
from shortlist_server.testing import server

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

CONCEPTS = 12
DOCUMENTS = 72
TRAINING = {
    "embedder.epochs": "4",
    "embedder.batch_queries": "8",
    "embedder.negatives": "1",
    "embedder.learning_rate": "0.005",
    "embedder.threads": "1",
    "reranker.epochs": "1",
    "reranker.negatives": "1",
    "reranker.threads": "1",
    "merge.weights": "0.9",
    "gate.min_queries": "20",
    "gate.rerank_depths": "5",
}

WAYS = ["present models", "reranker", "embedder", "embedder and reranker"]


@pytest.fixture(scope="module")
def judged(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept has one word in documents and another in questions, which combine the concepts of a document."""
    vocabulary = json.loads((minilm / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and 5 <= len(word) <= 7)
    dice = random.Random(5)
    told = dice.sample(words, 2 * CONCEPTS)
    asked = [told.pop() for _ in range(CONCEPTS)]
    folder = tmp_path_factory.mktemp("judged")
    texts, questions = {}, {}
    for number in range(DOCUMENTS):
        concepts = dice.sample(range(CONCEPTS), 4)
        texts[f"d{number}"] = " ".join(told[one] for one in concepts)
        for turn in range(2):
            questions[f"q{number}-{turn}"] = " ".join(asked[one] for one in dice.sample(concepts, 4 - turn))
    corpus = [{"_id": id, "title": "", "text": text} for id, text in texts.items()]
    queries = [{"_id": id, "text": text} for id, text in questions.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus))
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries))
    (folder / "qrels").mkdir()
    lines = "".join(f"{id}\td{id[1:].partition('-')[0]}\t1\n" for id in questions)
    (folder / "qrels" / "train.tsv").write_text(lines)
    return folder


@pytest.fixture(scope="module")
def base(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with weights so small that a few steps move them."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("models") / "base"
    shutil.copytree(tiny_bert, folder)
    config = BertConfig.from_pretrained(tiny_bert)
    config.initializer_range = 0.05
    torch.manual_seed(11)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(base: Path, judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the tiny model, and the collection "books"."""
    rows = [json.loads(line) for line in (judged / "corpus.jsonl").read_text().splitlines()]
    settings = {"backend": "torch", "dtype": "float32", "inference_threads": 1}
    data = tmp_path_factory.mktemp("data")
    with (
        server(data, embedders=(f"tiny={base}",), **settings) as running,
        Client(running.target) as client,
    ):
        client.create_collection("books", CollectionConfig(embedder="tiny"))
        client.ingest("books", [Document(id=row["_id"], text=row["text"]) for row in rows]).finish()
        yield running.target


def adapt(name: str, run: Path, target: str, judged: Path, base: Path, **changes: str) -> Result:
    """``shortlist adapt run``, with settings that make it short."""
    settings = {
        **TRAINING,
        "embedder_base": str(base),
        **{path.replace("__", "."): value for path, value in changes.items()},
    }
    options = [word for path, value in settings.items() for word in ("--set", f"{path}={value}")]
    command = ["adapt", "run", name, "--out", str(run), "--target", target, "--judged", str(judged), "--documents", "0"]
    return CliRunner().invoke(cli, [*command, *options])


def test_one_command_leads_to_a_better_model_that_serves_or_to_a_refusal(
    target: str, judged: Path, base: Path, tmp_path: Path
) -> None:
    ran = adapt("books", tmp_path / "run", target, judged, base)
    assert ran.exit_code == 0, ran.output
    folder = RunFolder(tmp_path / "run")
    decision = load(folder.gate)
    assert decision.difference.mean > 0.2
    assert [trial.name for trial in decision.trials] == WAYS
    with Client(target) as client:
        found = client.get_collection("books")
        assert found.config.embedder.startswith("books-embedder@")
        assert [one.state for one in client.generations("books")] == ["former", "serving"]
        assert {one.model for one in client.list_models()} == {model.address for model in decision.models}
        report = client.search("books", decision.queries[-1].text).report
        assert not report.degraded
    assert "rollback books" in ran.output
    page = folder.report.read_text()
    for part in ("passed the gate", "Training of the embedder", "slerp", "judged"):
        assert part in page

    # Loads elsewhere, with the vectors that the server makes.
    from sentence_transformers import SentenceTransformer

    from shortlist_server.config import Config
    from shortlist_server.inference.base import QueryText
    from shortlist_server.inference.loading import load_embedder

    model = folder.model / "embedder"
    text = decision.queries[0].text
    engine = load_embedder("tuned", model, "", Config(backend="torch", dtype="float32", device="cpu"))
    (here,) = engine.embed_queries([QueryText(text=text)])
    there = SentenceTransformer(str(model), device="cpu").encode_query([text])[0]
    assert abs(here.vector - there).max() < 1e-5

    # The same command again does nothing and says the same.
    before = folder.gate.stat().st_mtime_ns
    again = adapt("books", tmp_path / "run", target, judged, base)
    assert again.exit_code == 0, again.output
    assert folder.gate.stat().st_mtime_ns == before

    # Under other settings the gate decides anew. What serves by now is the candidate: it is not better than itself.
    refused = adapt("books", tmp_path / "run", target, judged, base, gate__tune="false")
    assert refused.exit_code == 4, refused.output
    assert "refused: final nDCG@10 on held-out queries does not rise" in refused.output
    with Client(target) as client:
        assert [one.state for one in client.generations("books")] == ["former", "serving"]
        assert client.get_collection("books").config == found.config
    assert "refused the candidate" in folder.report.read_text()

"""The embedder's training, end to end on tiny models: it learns, and a kill changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from shortlist_adapt.errors import AdaptError, InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import CorpusDocument, Split, TrainingPair, TrainingQuery, write_lines
from shortlist_adapt.settings import changed, to_json
from shortlist_adapt.training import checkpoints
from shortlist_adapt.training.embedder import embedder_cost, embedder_measure, train_embedder
from shortlist_adapt.training.settings import EmbedderTraining
from shortlist_server.config import Config
from shortlist_server.inference.loading import load_embedder

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]

TOPICS = [
    *("river", "bread", "violin", "comet", "glacier", "harbour"),
    *("lantern", "meadow", "orchard", "pepper", "quarry", "saddle"),
]
QUICK = EmbedderTraining(
    epochs=3,
    batch_queries=4,
    negatives=1,
    learning_rate=1e-3,
    device="cpu",
    threads=1,
    patience=0,
    development_documents=8,
)


def write_run(root: Path) -> RunFolder:
    """A run about a dozen topics: eight to train on, four to measure on."""
    folder = RunFolder(root)
    folder.prepare()
    documents = [
        CorpusDocument(id=word, title=word.title(), text=f"All there is to say of a {word}.") for word in TOPICS
    ]
    documents.append(CorpusDocument(id="long", title="Long", text="The river is long. " * 60))
    queries, pairs = [], []
    for number, word in enumerate(TOPICS):
        split = Split.TRAIN if number < 8 else Split.DEVELOPMENT
        query = TrainingQuery(id=word, text=f"tell me of the {word}", source="judged", split=split, positives={word: 1})
        others = [TOPICS[(number + step) % len(TOPICS)] for step in (1, 2, 3)]
        contents = {one.id: f"{one.title}\n{one.text}" for one in documents}
        if word == "river":
            others[0] = "long"
        queries.append(query)
        pairs.append(
            TrainingPair(
                query_id=query.id,
                query=query.text,
                source=query.source,
                split=split,
                positive_id=word,
                positive=contents[word],
                negative_ids=tuple(others),
                negatives=tuple(contents[one] for one in others),
            )
        )
    write_lines(folder.corpus, documents)
    write_lines(folder.queries, queries)
    write_lines(folder.pairs, pairs)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "run")


def weights(folder: RunFolder) -> dict[str, bytes]:
    """The weights of all checkpoints, and what is recorded of them."""
    target = folder.checkpoints / "embedder"
    kept = [*target.rglob("*.safetensors"), *target.glob("checkpoint-*/checkpoint.json"), target / "history.jsonl"]
    return {str(path.relative_to(target)): path.read_bytes() for path in kept if path.name != "trained.safetensors"}


def losses(folder: RunFolder) -> list[float]:
    lines = (folder.checkpoints / "embedder" / "history.jsonl").read_text().splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


class KilledError(Exception):
    """Stands for a kill: the step notices nothing of it beforehand."""


class KillsAt(Silent):
    """Kills the step at the nth report of progress in its training."""

    def __init__(self, reports: int) -> None:
        self.left = reports

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise KilledError


def test_training_raises_the_figure_and_measures_every_checkpoint(run: RunFolder, tiny_bert: Path) -> None:
    settings = changed(QUICK, {"epochs": 6})
    figures = train_embedder(run, tiny_bert, settings, seed=1, progress=Silent())
    found = losses(run)
    assert len(found) == 12
    assert sum(found[-4:]) < sum(found[:4])
    assert figures["development"] > figures["base_development"] + 0.1
    saved = checkpoints.saved(run.checkpoints / "embedder")
    assert [one.step for one in saved] == [2, 4, 6, 8, 10, 12]
    assert [one.epoch for one in saved] == [1, 2, 3, 4, 5, 6]
    best = checkpoints.best(saved)
    assert best is not None
    assert figures["best"] == best.name
    assert figures["development"] == best.development == max(one.development or 0 for one in saved)
    assert figures["rows"] == 8
    measure = embedder_measure(run, settings, seed=1)
    assert measure is not None
    assert measure(saved[-1].folder).value == saved[-1].development
    assert measure(run.checkpoints / "embedder" / "base").value == figures["base_development"]
    for one in saved:
        load_embedder("it", one.folder, "", Config(device="cpu", backend="torch", dtype="float32"))


def test_a_training_that_is_done_is_not_repeated_and_other_settings_begin_anew(run: RunFolder, tiny_bert: Path) -> None:
    figures = train_embedder(run, tiny_bert, changed(QUICK, {"epochs": 1}), seed=1, progress=Silent())
    before = weights(run)
    assert train_embedder(run, tiny_bert, changed(QUICK, {"epochs": 1}), seed=1, progress=KillsAt(0)) == figures
    train_embedder(run, tiny_bert, changed(QUICK, {"epochs": 1}), seed=2, progress=Silent())
    assert weights(run) != before


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_a_killed_training_goes_on_and_ends_as_if_undisturbed(tmp_path: Path, tiny_bert: Path, lora: bool) -> None:
    settings = changed(QUICK, {"lora.enabled": lora, "checkpoints_per_epoch": 2, "negatives": 2})
    undisturbed = write_run(tmp_path / "undisturbed")
    expected = train_embedder(undisturbed, tiny_bert, settings, seed=3, progress=Silent())

    killed = write_run(tmp_path / "killed")
    kills = 0
    for reports in (1, 3, 4, 6, 100):
        try:
            figures = train_embedder(killed, tiny_bert, settings, seed=3, progress=KillsAt(reports))
        except KilledError:
            kills += 1
            # What a kill in the middle of saving leaves over.
            partial = killed.checkpoints / "embedder" / "checkpoint-99"
            shutil.copytree(killed.checkpoints / "embedder" / "base", partial, dirs_exist_ok=True)
        else:
            break
    assert kills >= 3
    assert figures == expected
    assert weights(killed) == weights(undisturbed)
    assert not (killed.checkpoints / "embedder" / "checkpoint-99").exists()


@pytest.mark.crash
def test_a_kill_minus_nine_ends_as_if_undisturbed(tmp_path: Path, tiny_bert: Path) -> None:
    undisturbed = write_run(tmp_path / "undisturbed")
    expected = train_embedder(undisturbed, tiny_bert, QUICK, seed=0, progress=Silent())
    killed = write_run(tmp_path / "killed")
    script = f"""
        import os, signal, sys, warnings
        from pathlib import Path
        warnings.simplefilter("ignore")
        from shortlist_adapt.folder import RunFolder
        from shortlist_adapt.progress import Silent
        from shortlist_adapt.settings import from_json
        from shortlist_adapt.training.embedder import train_embedder
        from shortlist_adapt.training.settings import EmbedderTraining

        class Kills(Silent):
            left = 5  # one choice of a passage, the beginning, and three steps
            def advance(self, count=1, note=""):
                self.left -= 1
                if not self.left:
                    os.kill(os.getpid(), signal.SIGKILL)

        settings = from_json(EmbedderTraining, {to_json(QUICK)!r})
        train_embedder(RunFolder(Path(sys.argv[1])), Path(sys.argv[2]), settings, seed=0, progress=Kills())
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(killed.root), str(tiny_bert)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(checkpoints.saved(killed.checkpoints / "embedder")) == 1
    assert train_embedder(killed, tiny_bert, QUICK, seed=0, progress=Silent()) == expected
    assert weights(killed) == weights(undisturbed)


def test_training_ends_early_when_nothing_gets_better(run: RunFolder, tiny_bert: Path) -> None:
    settings = changed(QUICK, {"epochs": 9, "learning_rate": 0.0, "patience": 2})
    figures = train_embedder(run, tiny_bert, settings, seed=0, progress=Silent())
    assert figures["steps"] == 3 * 2  # the first checkpoint, and two that are not better
    assert figures["best"] == "checkpoint-2"


def test_a_run_without_development_queries_trains_to_the_end(run: RunFolder, tiny_bert: Path) -> None:
    from shortlist_adapt.records import read_lines

    kept = [one for one in read_lines(run.queries, TrainingQuery) if one.split is Split.TRAIN]
    write_lines(run.queries, kept)
    figures = train_embedder(run, tiny_bert, changed(QUICK, {"patience": 1}), seed=0, progress=Silent())
    assert (figures["best"], figures["development"], figures["base_development"]) == ("checkpoint-6", None, None)


def test_every_epoch_has_its_own_batches() -> None:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from shortlist_adapt.training.embedder_trainer import EpochBatches

    loader: Any = DataLoader(range(6), batch_sampler=EpochBatches(2), collate_fn=list)  # type: ignore[arg-type]
    prepared = Accelerator(cpu=True).prepare(loader)
    seen = []
    for epoch in range(3):
        prepared.set_epoch(epoch)  # as the trainer does
        seen += list(prepared)
    assert seen == [[number] for number in range(6)]


@pytest.mark.parametrize("lora", [False, True], ids=["all weights", "adapters"])
def test_qwen3_is_trained_with_its_instruction_and_cut_vectors(
    run: RunFolder, tiny_qwen3_embedding: Path, lora: bool
) -> None:
    settings = changed(
        QUICK,
        {
            "epochs": 5,
            "instruction": "Find the topic",
            "dimensions": [8],
            "lora.enabled": lora,
            "save_memory": True,
            "memory_gigabytes": 1e-6,
        },
    )
    train_embedder(run, tiny_qwen3_embedding, settings, seed=0, progress=Silent())
    assert len(losses(run)) == 10
    last = checkpoints.saved(run.checkpoints / "embedder")[-1]
    embedder = load_embedder("it", last.folder, "", Config(device="cpu", backend="torch", dtype="float32"))
    assert embedder.info.query_prompt == "Instruct: Find the topic\nQuery:"
    assert embedder.info.min_dimension == 16
    assert not list(last.folder.glob("adapter*"))


def test_a_rate_that_is_too_high_is_named_as_the_reason(run: RunFolder, tiny_bert: Path) -> None:
    settings = changed(QUICK, {"learning_rate": 1e30, "batch_queries": 2})
    with pytest.raises(AdaptError, match="lower learning rate"):
        train_embedder(run, tiny_bert, settings, seed=0, progress=Silent())


def test_bfloat16_trains_as_well(run: RunFolder, tiny_bert: Path) -> None:
    figures = train_embedder(
        run, tiny_bert, changed(QUICK, {"precision": "bfloat16", "epochs": 6}), seed=1, progress=Silent()
    )
    assert figures["development"] > figures["base_development"] + 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dimensions": [64]}, "32 dimensions"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"passage_tokens": 3}, "passages of 3"),
    ],
)
def test_settings_that_do_not_suit_the_model_are_refused(
    run: RunFolder, tiny_bert: Path, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        train_embedder(run, tiny_bert, changed(QUICK, values), seed=0, progress=Silent())


def test_the_cost_grows_with_the_work(run: RunFolder, tiny_bert: Path) -> None:
    def seconds(**values: Any) -> float:
        return embedder_cost(run, tiny_bert, changed(QUICK, values)).seconds

    assert seconds(epochs=300) > 5 * seconds(epochs=3) > 0
    assert embedder_cost(run, tiny_bert, QUICK).disk_bytes > 0


def test_cached_gradients_are_those_of_the_whole_batch(run: RunFolder, tiny_bert: Path) -> None:
    import torch

    from shortlist_adapt.training.batches import schedule
    from shortlist_adapt.training.contrastive import Collator, ContrastiveLoss
    from shortlist_adapt.training.embedder_folder import open_model
    from shortlist_adapt.training.embedder_inputs import read_rows
    from shortlist_adapt.training.served_texts import ServedTexts, read_base

    found = read_base(tiny_bert)
    model = open_model(found, "cpu")
    table = read_rows(run, ServedTexts(found), model, 512, Silent())
    batches = schedule([len(row.negatives) for row in table.rows], size=8, negatives=2, epochs=1, seed=0)
    made = Collator(table, batches)([0])
    columns = [
        {key.removeprefix(f"{name}_"): value for key, value in made.items() if key.startswith(f"{name}_")}
        for name in ("query", "document")
    ]
    gradients, values = [], []
    for kept in (10**9, 0):
        loss = ContrastiveLoss(
            model, table, batches, temperature=0.05, margin=0.1, dimensions=(32, 8), part_tokens=64, kept_tokens=kept
        )
        model.train()
        model.zero_grad()
        torch.manual_seed(4)  # dropout is the same in both
        value = loss([dict(column) for column in columns], made["label"])
        value.backward()
        values.append(float(value))
        gradients.append([one.grad.clone() for one in model.parameters() if one.grad is not None])
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert len(gradients[0]) == len(gradients[1]) > 10
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=1e-4)
    assert max(float(one.abs().max()) for one in gradients[0]) > 1e-3

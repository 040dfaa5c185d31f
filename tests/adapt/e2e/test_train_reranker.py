"""The training of rerankers, on tiny models of every family: what is learned, saved, resumed and served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shortlist_adapt.errors import AdaptError, InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.merging.merge import merge_reranker
from shortlist_adapt.merging.settings import MergeSettings
from shortlist_adapt.progress import Silent
from shortlist_adapt.records import Split, TrainingPair, write_lines
from shortlist_adapt.training import checkpoints
from shortlist_adapt.training.reranker import reranker_cost, train_reranker
from shortlist_adapt.training.reranker_inputs import YesNoPairs, arrays, open_pairs
from shortlist_adapt.training.reranker_scorer import Scorer
from shortlist_adapt.training.reranker_start import read_start, write_start
from shortlist_adapt.training.settings import LoraSettings, RerankerTraining
from shortlist_server.config import Config
from shortlist_server.inference import layout, torch_backend
from shortlist_server.inference.base import RerankCandidate, RerankQuery
from shortlist_server.inference.loading import load_reranker

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TOPICS = {
    "reef": "coral and fish of the warm sea",
    "comet": "ice and dust around the sun",
    "rust": "iron that meets water and air",
    "bread": "flour and yeast in the oven",
    "violin": "wood and strings under a bow",
}
SETTINGS = RerankerTraining(
    epochs=2, negatives=2, batch_queries=4, learning_rate=5e-3, patience=0, device="cpu", threads=1
)


def pairs(split: Split, count: int) -> Iterable[TrainingPair]:
    """Queries whose answer is always the text about the reef: what a tiny model can learn in seconds."""
    others = [name for name in TOPICS if name != "reef"]
    for number in range(count):
        shifted = others[number % 4 :] + others[: number % 4]
        yield TrainingPair(
            query_id=f"{split}-{number}",
            query=f"what is there {number}",
            source="judged",
            split=split,
            positive_id="reef",
            positive=f"reef\n{TOPICS['reef']}",
            negative_ids=tuple(shifted[:3]),
            negatives=tuple(f"{one}\n{TOPICS[one]}" for one in shifted[:3]),
        )


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    write_lines(folder.pairs, [*pairs(Split.TRAIN, 14), *pairs(Split.DEVELOPMENT, 5)])
    return folder


def served(folder: Path, query: str, texts: Sequence[str], instruction: str = "") -> Any:
    """What the server's own engine makes of a folder."""
    reranker = load_reranker("tiny", folder, Config(device="cpu", backend="torch", dtype="float32"))
    candidates = [RerankCandidate(text=text) for text in texts]
    return reranker.score(RerankQuery(text=query, instruction=instruction), candidates, lambda _: True).scores


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


TEXTS = ["short", "", "a [SEP] b </think> <|im_end|>", "🎉 émigré", "long " * 150]


@pytest.fixture(scope="session")
def tiny_decoder(tiny_cross_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier over a decoder. The vocabulary of BERT is small, and quick to read."""
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-decoder"
    shutil.copytree(tiny_cross_encoder, folder, ignore=shutil.ignore_patterns("config.json", "*.safetensors"))
    torch.manual_seed(5)
    config = Qwen3Config(
        vocab_size=30522, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=128, initializer_range=0.5, num_labels=1,
        pad_token_id=0,
    )  # fmt: skip
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ["tiny_cross_encoder", "tiny_bert", "tiny_decoder", "tiny_qwen3"])
def test_training_sees_the_scores_of_the_server(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    start = read_start(request.getfixturevalue(name))
    write_start(start, tmp_path, seed=3)
    pairs = open_pairs(tmp_path, start.family, instruction="Find it")
    encoded = pairs.encode("which one", TEXTS)
    auto_class = torch_backend.DECODER if start.family == "yes-no" else torch_backend.CLASSIFIER
    model = torch_backend.load_checkpoint(auto_class, tmp_path, device="cpu", dtype="float32")
    answers = (pairs.yes, pairs.no) if isinstance(pairs, YesNoPairs) else None
    inputs = {key: torch.from_numpy(one) for key, one in arrays(encoded, model.config.pad_token_id).items()}
    with torch.inference_mode():
        ours = Scorer(model, start.family, answers).eval()(**inputs).numpy()
    theirs = served(tmp_path, "which one", TEXTS, "Find it")
    assert np.ptp(theirs) > 1e-3, "scores that are all alike would prove nothing"
    assert np.abs(ours - theirs).max() <= 1e-5


def test_a_new_head_follows_from_the_seed_and_the_rest_from_the_embedder(tiny_bert: Path, tmp_path: Path) -> None:
    start = read_start(tiny_bert)
    assert start.new_head
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        write_start(start, tmp_path / name, seed=seed)
    assert same_weights(tmp_path / "one", tmp_path / "again")
    assert not torch.equal(
        weights(tmp_path / "one")["classifier.weight"], weights(tmp_path / "two")["classifier.weight"]
    )
    body = {f"bert.{name}": one for name, one in weights(tiny_bert).items() if not name.startswith("pooler")}
    made = weights(tmp_path / "one")
    assert all(torch.equal(made[name], one) for name, one in body.items() if name in made)
    assert len(body.keys() & made.keys()) > 20


def test_what_is_learned_ranks_the_answer_first(tiny_bert: Path, run: RunFolder) -> None:
    settings = RerankerTraining(
        epochs=2, negatives=3, batch_queries=2, learning_rate=5e-3, patience=0, device="cpu", threads=1
    )
    figures = train_reranker(run, tiny_bert, settings, seed=1, progress=Silent())
    best = run.checkpoints / "reranker" / figures["best"]
    assert max(one["development"] for one in figures["checkpoints"]) > 0.9
    texts = [f"{topic}\n{text}" for topic, text in TOPICS.items()]
    assert int(np.argmax(served(best, "what is there 3", texts))) == list(TOPICS).index("reef")
    assert figures["steps"] == 14 and figures["new_head"]
    history = [json.loads(line) for line in (run.checkpoints / "reranker" / "history.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in history if "loss" in line]
    assert losses[-1] < 0.7 * losses[0]


class Killed(BaseException):
    """Stands for the end of the process."""


class KillsAt(Silent):
    """Ends the training at a step, or at a line that is said."""

    def __init__(self, step: int = 0, line: str = "") -> None:
        self._left, self._line = step, line

    def advance(self, count: int = 1, note: str = "") -> None:
        self._left -= count
        if not self._line and self._left <= 0:
            raise Killed

    def say(self, text: str) -> None:
        if self._line and self._line in text:
            raise Killed


@pytest.mark.parametrize(("step", "line", "lora"), [(3, "", False), (0, "epoch 1.00", True)])
def test_a_killed_training_ends_as_an_undisturbed_one(
    tiny_cross_encoder: Path, run: RunFolder, tmp_path: Path, step: int, line: str, lora: bool
) -> None:
    """Checkpoints lie in the middle of epochs too: 4 steps an epoch, a checkpoint every 2."""
    settings = RerankerTraining(
        epochs=2, negatives=2, batch_queries=4, learning_rate=5e-3, patience=0, device="cpu", threads=1,
        checkpoints_per_epoch=2, batch_tokens=100, lora=LoraSettings(enabled=lora, rank=2),
    )  # fmt: skip
    undisturbed = RunFolder(tmp_path / "undisturbed")
    shutil.copytree(run.root, undisturbed.root)
    expected = train_reranker(undisturbed, tiny_cross_encoder, settings, seed=1, progress=Silent())
    with pytest.raises(Killed):
        train_reranker(run, tiny_cross_encoder, settings, seed=1, progress=KillsAt(step, line))
    partial = run.checkpoints / "reranker" / "checkpoint-7"
    partial.mkdir(exist_ok=True)
    (partial / "model.safetensors").write_text("half")
    assert train_reranker(run, tiny_cross_encoder, settings, seed=1, progress=Silent()) == expected
    assert [one["step"] for one in expected["checkpoints"]] == [2, 4, 6, 8]
    for one in checkpoints.saved(run.checkpoints / "reranker"):
        assert same_weights(one.folder, undisturbed.checkpoints / "reranker" / one.name), one.name
    histories = [(it.checkpoints / "reranker" / "history.jsonl").read_text() for it in (run, undisturbed)]
    assert histories[0] == histories[1]


def test_a_training_that_is_done_is_not_done_again_and_other_settings_begin_anew(
    tiny_cross_encoder: Path, run: RunFolder
) -> None:
    first = train_reranker(run, tiny_cross_encoder, SETTINGS, seed=1, progress=Silent())
    assert train_reranker(run, tiny_cross_encoder, SETTINGS, seed=1, progress=KillsAt(1)) == first
    newest = checkpoints.saved(run.checkpoints / "reranker")[-1].folder
    before = weights(newest)["classifier.weight"]
    train_reranker(run, tiny_cross_encoder, SETTINGS, seed=2, progress=Silent())
    assert len(checkpoints.saved(run.checkpoints / "reranker")) == 2
    assert not torch.equal(weights(newest)["classifier.weight"], before)


def test_training_stops_when_nothing_gets_better(tiny_cross_encoder: Path, run: RunFolder) -> None:
    settings = RerankerTraining(
        epochs=9, negatives=2, batch_queries=7, learning_rate=0.0, patience=2, device="cpu", threads=1
    )
    figures = train_reranker(run, tiny_cross_encoder, settings, seed=1, progress=Silent())
    assert [one["epoch"] for one in figures["checkpoints"]] == [1.0, 2.0, 3.0]
    assert figures["best"] == figures["checkpoints"][0]["name"]


def test_adapters_are_trained_alone_and_merged_into_every_checkpoint(tiny_qwen3: Path, run: RunFolder) -> None:
    settings = RerankerTraining(
        epochs=1, negatives=2, batch_queries=7, learning_rate=1e-2, device="cpu", threads=1,
        lora=LoraSettings(enabled=True, rank=4, dropout=0.0), save_memory=True,
    )  # fmt: skip
    figures = train_reranker(run, tiny_qwen3, settings, seed=1, progress=Silent())
    target = run.checkpoints / "reranker"
    trained, base = weights(target / figures["best"]), weights(target / "base")
    assert trained.keys() == base.keys(), "a checkpoint is a plain model"
    changed = {name for name in base if not torch.equal(trained[name], base[name])}
    assert changed and all("_proj" in name for name in changed)
    assert not any("embed" in name for name in changed)
    assert figures["checkpoints"][0]["development"] > 0, "the server's engine serves it"


def test_a_merged_reranker_is_chosen_by_its_final_figure_and_served(tiny_bert: Path, run: RunFolder) -> None:
    from sentence_transformers import CrossEncoder

    train_reranker(run, tiny_bert, SETTINGS, seed=1, progress=Silent())
    part = merge_reranker(run, MergeSettings(), SETTINGS, progress=Silent())
    kinds = {row["kind"] for row in part["rows"]}
    assert kinds == {"checkpoint", "average", "slerp"}, "a base whose head is new ranks at random"
    chosen = next(row for row in part["rows"] if row["name"] == part["chosen"])
    assert chosen["figure"] == max(row["figure"] for row in part["rows"])
    assert part["queries"] == 5 and part["measure"] == "final nDCG@10"
    model = run.model / "reranker"
    assert not list(model.glob("*.pt")) and not (model / "checkpoint.json").exists()
    texts = ["short", "coral and fish", "long " * 30]
    reference = CrossEncoder(str(model), device="cpu")
    theirs = reference.predict([("what is there", text) for text in texts], activation_fn=torch.nn.Identity())
    assert np.ptp(theirs) > 1e-3, "scores that are all alike would prove nothing"
    assert np.abs(served(model, "what is there", texts) - np.asarray(theirs)).max() <= 1e-5


def test_a_training_that_diverges_ends_with_the_reason(tiny_cross_encoder: Path, run: RunFolder) -> None:
    settings = RerankerTraining(
        epochs=3, negatives=2, batch_queries=4, learning_rate=1e30, warmup=0.0, device="cpu", threads=1
    )
    with pytest.raises(AdaptError, match="lower learning rate"):
        train_reranker(run, tiny_cross_encoder, settings, seed=1, progress=Silent())


def test_the_chat_template_of_an_embedder_is_not_taken_for_that_of_a_reranker(
    tiny_qwen3_embedding: Path, run: RunFolder, tmp_path: Path
) -> None:
    base = tmp_path / "embedder"
    shutil.copytree(tiny_qwen3_embedding, base)
    (base / "chat_template.jinja").write_text("{% for one in messages %}{{ one.content | trim }}{% endfor %}")
    (base / "README.md").write_text("license: apache-2.0")
    assert reranker_cost(run, base, SETTINGS).seconds > 0
    start = read_start(base)
    assert start.family == "decoder" and start.new_head
    target = tmp_path / "reranker"
    target.mkdir()
    write_start(start, target, seed=1)
    assert not layout.has_chat_template(target)
    assert (target / "README.md").is_file(), "the report names the licence of the base"


def test_an_estimate_grows_with_the_work(tiny_cross_encoder: Path, run: RunFolder) -> None:
    few, many = (
        reranker_cost(run, tiny_cross_encoder, RerankerTraining(epochs=epochs, device="cpu")) for epochs in (1, 1000)
    )
    assert many.seconds > 50 * few.seconds > 0
    assert many.disk_bytes > few.disk_bytes > 0


def test_without_pairs_or_a_model_to_train_nothing_begins(
    tiny_cross_encoder: Path, run: RunFolder, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"config\.json"):
        train_reranker(run, tmp_path, SETTINGS, seed=1, progress=Silent())
    write_lines(run.pairs, list(pairs(Split.DEVELOPMENT, 3)))
    with pytest.raises(InvalidInput, match="no pairs with negatives in the training split"):
        train_reranker(run, tiny_cross_encoder, SETTINGS, seed=1, progress=Silent())
    assert not run.checkpoints.exists()

"""The folders of checkpoints: which count, what is kept, when a training is over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shortlist_adapt.training import checkpoints


def write(folder: Path, step: int, *, complete: bool = True, figure: float | None = None) -> Path:
    """A checkpoint as a trainer leaves it."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        (path / name).write_text(f"{name} of {step}")
    if complete:
        made = checkpoints.mark_saved(path, step=step, epoch=step / 10)
        if figure is not None:
            checkpoints.note_development(made, figure)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_complete_checkpoints_count_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for step in (10, 100, 20):
        write(tmp_path, step)
    write(tmp_path, 200, complete=False)
    assert [one.step for one in checkpoints.saved(tmp_path)] == [10, 20, 100]
    assert [one.epoch for one in checkpoints.saved(tmp_path)] == [1.0, 2.0, 10.0]


def test_what_a_kill_left_goes_away_and_the_rest_stays(tmp_path: Path) -> None:
    target = tmp_path / "reranker"
    checkpoints.begin(target, "one")
    write(target, 10)
    write(target, 20, complete=False)
    checkpoints.begin(target, "one")
    assert names(target) == ["checkpoint-10", "training.json"]


def test_other_settings_begin_anew(tmp_path: Path) -> None:
    target = tmp_path / "reranker"
    assert not checkpoints.begin(target, "one")
    write(target, 10)
    assert not checkpoints.begin(target, "one")
    assert checkpoints.begin(target, "two")
    assert not checkpoints.begin(target, "three"), "there was nothing to lose"
    assert names(target) == ["training.json"]


def test_only_the_newest_keeps_the_state_of_the_trainer(tmp_path: Path) -> None:
    first, second = write(tmp_path, 10), write(tmp_path, 20)
    assert names(first) == ["checkpoint.json", "config.json", "model.safetensors"]
    assert "optimizer.pt" in names(second)


def test_a_copied_model_has_no_files_of_the_trainer(tmp_path: Path) -> None:
    source = write(tmp_path, 10)
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text("{}")
    checkpoints.copy_model(source, tmp_path / "copy")
    assert names(tmp_path / "copy") == ["1_Pooling", "config.json", "model.safetensors"]
    assert names(tmp_path / "copy" / "1_Pooling") == ["config.json"]


def test_a_base_that_was_half_written_is_written_again(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoints.write_base(tmp_path, fail)
    base = checkpoints.write_base(tmp_path, lambda path: (path / "whole").touch())
    assert names(base) == ["whole"]
    assert checkpoints.write_base(tmp_path, fail) == base, "a base that is there is not written again"


@pytest.mark.parametrize(
    ("figures", "patience", "over"),
    [
        ([], 2, False),
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.4], 2, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.5, 0.5], 2, True),
        ([0.5, 0.4, 0.4], 0, False),
        ([None, None, None], 1, False),
        ([0.5, 0.4], 1, True),
    ],
)
def test_a_training_is_over_when_the_last_figures_bring_nothing_better(
    figures: list[float | None], patience: int, over: bool
) -> None:
    assert checkpoints.should_stop(figures, patience) is over


def test_the_earliest_of_the_best_checkpoints_is_the_best(tmp_path: Path) -> None:
    for step, figure in ((10, 0.5), (20, 0.7), (30, 0.7), (40, None)):
        write(tmp_path, step, figure=figure)
    best = checkpoints.best(checkpoints.saved(tmp_path))
    assert best is not None and best.name == "checkpoint-20"
    assert checkpoints.best([]) is None


def test_the_history_has_losses_and_figures_by_step(tmp_path: Path) -> None:
    write(tmp_path, 10, figure=0.5)
    logged = [
        {"step": 5, "epoch": 0.5, "loss": 2.0, "learning_rate": 1e-5},
        {"step": 15, "epoch": 1.5, "loss": 1.0},
        {"step": 15, "epoch": 1.5, "train_runtime": 3.0},
    ]
    checkpoints.write_history(tmp_path, logged)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 5, "epoch": 0.5, "loss": 2.0},
        {"step": 10, "epoch": 1.0, "development": 0.5},
        {"step": 15, "epoch": 1.5, "loss": 1.0},
    ]

"""Merged folders, the candidates that are tried, and what is chosen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shortlist_adapt.development.figures import Figure
from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.merging.folders import merge_folders
from shortlist_adapt.merging.merge import merge, write_recipe
from shortlist_adapt.merging.settings import MergeSettings
from shortlist_adapt.merging.slerp import average, slerp_all
from shortlist_adapt.merging.sweep import recipe_of
from shortlist_adapt.progress import Silent
from shortlist_adapt.training import checkpoints

SETTINGS = MergeSettings(last=2, weights=(0.5, 1.0))


def write_model(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"of": folder.name}))
    return folder


def weights(folder: Path) -> Mapping[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def point(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y])


def test_every_file_of_weights_is_merged_and_the_last_folder_gives_the_rest(tmp_path: Path) -> None:
    first, second = (write_model(tmp_path / name, w=point(*at), n=torch.tensor([number])) for name, at, number in (
        ("a", (1.0, 0.0), 3), ("b", (0.0, 1.0), 5)
    ))  # fmt: skip
    for folder, value in ((first, 1.0), (second, 3.0)):
        (folder / "2_Dense").mkdir()
        save_file({"linear.weight": torch.tensor([value])}, folder / "2_Dense" / "model.safetensors")
    merge_folders([first, second], tmp_path / "merged", average)
    assert weights(tmp_path / "merged")["w"].tolist() == [0.5, 0.5]
    assert weights(tmp_path / "merged")["n"].tolist() == [5], "whole numbers are no weights"
    assert load_file(tmp_path / "merged" / "2_Dense" / "model.safetensors")["linear.weight"].tolist() == [2.0]
    assert json.loads((tmp_path / "merged" / "config.json").read_text()) == {"of": "b"}
    merge_folders([first], tmp_path / "merged", average)
    assert weights(tmp_path / "merged")["w"].tolist() == [1.0, 0.0], "a former result is replaced"


def test_the_number_format_is_that_of_the_base(tmp_path: Path) -> None:
    trained = write_model(tmp_path / "trained", w=point(1.0, 1 / 3))
    base = write_model(tmp_path / "base", w=point(0.0, 1.0).bfloat16())
    merge_folders([trained], tmp_path / "merged", slerp_all, like=base)
    merged = weights(tmp_path / "merged")["w"]
    assert merged.dtype == torch.bfloat16
    assert torch.equal(merged, point(1.0, 1 / 3).bfloat16())


def test_models_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    one = write_model(tmp_path / "one", w=point(1.0, 0.0))
    other = write_model(tmp_path / "other", v=point(1.0, 0.0))
    wide = write_model(tmp_path / "wide", w=torch.ones(3))
    (tmp_path / "empty").mkdir()
    for folders, message in (
        ([one, other], "only one of them has 'v'"),
        ([one, wide], "another shape"),
        ([tmp_path / "empty", one], "is missing"),
    ):
        with pytest.raises(InvalidInput, match=message):
            merge_folders(folders, tmp_path / "merged", average)
    assert not (tmp_path / "merged").exists()


def trained(tmp_path: Path, points: list[tuple[float, float]], base: tuple[float, float]) -> RunFolder:
    """A run whose embedder has a checkpoint for each point."""
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    target = folder.checkpoints / "embedder"
    checkpoints.begin(target, "some settings")
    write_model(target / "base", w=point(*base))
    for number, at in enumerate(points, start=1):
        made = write_model(target / f"checkpoint-{number}", w=point(*at))
        checkpoints.note_development(
            checkpoints.mark_saved(made, step=number, epoch=float(number)), nearness(made).value
        )
    return folder


MEASURED: list[str] = []


def nearness(model: Path, goal: tuple[float, float] = (0.8, 0.6)) -> Figure:
    """A figure that is best where the weights are at the goal."""
    MEASURED.append(model.name)
    value = 1.0 - float((weights(model)["w"] - point(*goal)).norm())
    return Figure(value=value, queries={"q1": value, "q2": value})


def test_the_ablation_is_kept_and_the_best_is_written(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(0.0, -1.0), (1.0, 0.0), (0.5, 1.0)], base=(0.0, 1.0))
    part = merge(folder, "embedder", SETTINGS, nearness, Silent())
    rows = {row["name"]: row for row in part["rows"]}
    assert list(rows) == [
        "base", "checkpoint-1", "checkpoint-2", "checkpoint-3", "average-last-2", "slerp-last-2", "slerp-last-2-at-0.5"
    ]  # fmt: skip
    assert rows["average-last-2"]["kind"] == "average"
    assert rows["slerp-last-2-at-0.5"]["kind"] == "slerp"
    assert part["chosen"] == max(rows, key=lambda name: rows[name]["figure"]) == "slerp-last-2"
    assert part["queries"] == 2 and part["measure"] == "dense nDCG@10"
    assert json.loads(folder.sweep.read_text()) == {"embedder": part}
    expected = slerp_all([point(1.0, 0.0), point(0.5, 1.0)])
    assert torch.allclose(weights(folder.model / "embedder")["w"].double(), expected, atol=1e-7)
    assert not (folder.cache / "merging" / "embedder").exists()


def test_every_row_can_be_made_again(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(0.0, -1.0), (1.0, 0.0), (0.5, 1.0)], base=(0.0, 1.0))
    rows = merge(folder, "embedder", SETTINGS, nearness, Silent())["rows"]
    target = folder.checkpoints / "embedder"
    saved = checkpoints.saved(target)
    for row in rows:
        recipe = recipe_of(row["name"], target / "base", saved, SETTINGS)
        made = write_recipe(recipe, target / "base", tmp_path / "again")
        assert nearness(made).value == pytest.approx(row["figure"], abs=1e-6), row["name"]
    with pytest.raises(KeyError):
        recipe_of("slerp-last-9", target / "base", saved, SETTINGS)


def test_of_equal_figures_a_merge_wins_over_a_checkpoint(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(1.0, 0.0), (2.0, 0.0)], base=(0.0, 1.0))
    same = Figure(value=0.5, queries={"q": 0.5})
    assert merge(folder, "embedder", SETTINGS, lambda _: same, Silent())["chosen"] == "slerp-last-2-at-0.5"


def test_the_strongest_checkpoints_are_merged_where_they_are_not_the_last(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(0.9, 0.5), (0.7, 0.7), (-1.0, 0.0)], base=(0.0, 1.0))
    part = merge(folder, "embedder", SETTINGS, nearness, Silent())
    assert part["chosen"] == "slerp-best-2"


def test_a_base_that_cannot_be_merged_is_left_out(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(1.0, 0.0), (0.5, 1.0)], base=(0.8, 0.6))
    part = merge(folder, "embedder", SETTINGS, nearness, Silent(), with_base=False)
    assert [row["kind"] for row in part["rows"]] == ["checkpoint", "checkpoint", "average", "slerp"]


def test_a_single_checkpoint_is_merged_with_the_base_alone(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(1.0, 0.0)], base=(0.0, 1.0))
    part = merge(folder, "embedder", MergeSettings(weights=(0.6,)), nearness, Silent())
    assert [row["name"] for row in part["rows"]] == ["base", "checkpoint-1", "checkpoint-1-at-0.6"]
    assert part["chosen"] == "checkpoint-1-at-0.6"


def test_without_development_queries_the_last_checkpoints_are_merged_unmeasured(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(0.0, 2.0), (1.0, 0.0), (0.0, 1.0)], base=(0.0, 1.0))
    part = merge(folder, "embedder", SETTINGS, None, Silent())
    assert part["rows"] == [
        {"name": "slerp-last-2", "kind": "slerp", "figure": None, "detail": "checkpoint-2, checkpoint-3"}
    ]
    assert weights(folder.model / "embedder")["w"].tolist() == pytest.approx([0.5**0.5] * 2)


def test_a_merge_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    folder = trained(tmp_path, [(1.0, 0.0), (0.5, 1.0)], base=(0.0, 1.0))
    first = merge(folder, "embedder", SETTINGS, nearness, Silent())
    MEASURED.clear()
    assert merge(folder, "embedder", SETTINGS, nearness, Silent()) == first
    assert not MEASURED
    merge(folder, "embedder", MergeSettings(last=2, weights=(0.3,)), nearness, Silent())
    assert MEASURED


def test_a_merge_needs_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no checkpoints: train the reranker first"):
        merge(RunFolder(tmp_path), "reranker", SETTINGS, None, Silent())

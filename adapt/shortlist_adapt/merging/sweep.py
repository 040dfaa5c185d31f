"""What merging tries, and how each does on the development split.

First the base, the checkpoints and their merges; then the best of these at several weights between it and the base.
Every candidate is a complete model folder while it is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from shortlist_adapt.development.figures import Figure
from shortlist_adapt.merging.settings import MergeSettings
from shortlist_adapt.progress import Progress
from shortlist_adapt.training.checkpoints import Checkpoint

Measure = Callable[[Path], Figure]
"""Measures a model folder on the development split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a candidate is made.

    Attributes:
        kind: "base", "checkpoint", "average" or "slerp".
        folders: what it is made of.
        base_weight: weight of the trained model between the base (0) and itself (1).
        detail: the recipe in words.
    """

    name: str
    kind: str
    folders: tuple[Path, ...]
    base_weight: float = 1.0
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A candidate with its figure; None where there are no development queries."""

    recipe: Recipe
    figure: Figure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """All candidates in the order in which they were tried, and the best of them."""

    rows: tuple[Row, ...]
    chosen: Recipe


def sweep(
    base: Path | None,
    checkpoints: Sequence[Checkpoint],
    settings: MergeSettings,
    measure: Measure | None,
    build: Callable[[Recipe], Path],
    progress: Progress,
) -> Sweep:
    """Measures the candidates; of equal figures, a merge of more models wins.

    Args:
        base: the model as training found it; None where it cannot be merged, since its head is new.
        checkpoints: at least one, oldest first.
        measure: None without development queries; then the merge of the last checkpoints is chosen unmeasured.
        build: makes a candidate's folder.
    """
    first = first_recipes(base, checkpoints, settings)
    if measure is None:
        merged = [recipe for recipe in first if recipe.kind == "slerp"] or first[-1:]
        return Sweep(rows=(Row(recipe=merged[0], figure=None),), chosen=merged[0])
    rows: list[Row] = []

    def take(recipes: Sequence[Recipe]) -> None:
        for recipe in recipes:
            figure = measure(build(recipe))
            rows.append(Row(recipe=recipe, figure=figure))
            progress.say(f"{recipe.name}: {figure.value:.4f}{f' ({recipe.detail})' if recipe.detail else ''}")

    take(first)
    trained = best([row for row in rows if row.recipe.kind in ("slerp", "checkpoint")])
    if base is not None:
        take([towards_base(trained.recipe, weight) for weight in settings.weights if weight < 1])
    return Sweep(rows=tuple(rows), chosen=best(rows).recipe)


def first_recipes(base: Path | None, checkpoints: Sequence[Checkpoint], settings: MergeSettings) -> list[Recipe]:
    """The base, each checkpoint, and the merges of several checkpoints: the last ones, and the best ones."""
    recipes = [] if base is None else [Recipe(name="base", kind="base", folders=(base,), detail="before training")]
    recipes += [
        Recipe(name=one.name, kind="checkpoint", folders=(one.folder,), detail=f"epoch {one.epoch:.2f}")
        for one in checkpoints
    ]
    last = tuple(checkpoints[-settings.last :])
    if len(last) < 2:
        return recipes
    recipes += [_of(last, "average", f"average-last-{len(last)}"), _of(last, "slerp", f"slerp-last-{len(last)}")]
    measured = [one for one in checkpoints if one.development is not None]
    ranked = sorted(measured, key=lambda one: (-(one.development or 0.0), one.step))[: len(last)]
    strongest = tuple(sorted(ranked, key=lambda one: one.step))
    if len(strongest) == len(last) and strongest != last:
        recipes.append(_of(strongest, "slerp", f"slerp-best-{len(strongest)}"))
    return recipes


def towards_base(recipe: Recipe, weight: float) -> Recipe:
    """The recipe with its result moved towards the base."""
    return Recipe(
        name=f"{recipe.name}-at-{weight:g}",
        kind="slerp",
        folders=recipe.folders,
        base_weight=weight,
        detail=f"{weight:g} of the way from the base to {recipe.name}",
    )


def recipe_of(name: str, base: Path | None, checkpoints: Sequence[Checkpoint], settings: MergeSettings) -> Recipe:
    """The recipe of a row of ``sweep.json``. Arguments: see ``sweep``. Raises ``KeyError`` for an unknown name."""
    known = {recipe.name: recipe for recipe in first_recipes(base, checkpoints, settings)}
    for recipe in list(known.values()):
        known |= {one.name: one for one in (towards_base(recipe, weight) for weight in settings.weights)}
    return known[name]


def best(rows: Sequence[Row]) -> Row:
    """The row with the best figure; of equal ones a merge of more models, then the first."""

    def key(row: Row) -> tuple[float, int]:
        merged = len(row.recipe.folders) + (row.recipe.base_weight < 1)
        return (row.figure.value if row.figure else 0.0, merged)

    return max(rows, key=key)


def _of(checkpoints: Sequence[Checkpoint], kind: str, name: str) -> Recipe:
    names = ", ".join(one.name for one in checkpoints)
    return Recipe(name=name, kind=kind, folders=tuple(one.folder for one in checkpoints), detail=names)

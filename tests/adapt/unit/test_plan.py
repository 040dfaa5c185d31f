"""The plan of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from shortlist_adapt.errors import InvalidInput
from shortlist_adapt.folder import RunFolder
from shortlist_adapt.plan import Plan, begin, read_plan, with_options, write_plan


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def test_a_run_begins_once(folder: RunFolder) -> None:
    plan = begin(folder, "books", seed=3)
    assert (plan.collection, plan.seed) == ("books", 3)
    assert begin(folder, "books") == plan == read_plan(folder)
    with pytest.raises(InvalidInput, match="has a run of the collection 'books'; take another folder"):
        begin(folder, "films")
    with pytest.raises(InvalidInput, match="has a run with the seed 3"):
        begin(folder, "books", seed=4)


def test_options_of_a_step_stay_in_the_plan(folder: RunFolder) -> None:
    begin(folder, "books")
    assert with_options(folder, "mining", {"negatives": 3}).mining.negatives == 3
    assert with_options(folder, "mining", {}).mining.negatives == 3
    with pytest.raises(InvalidInput, match=r"mining\.negatives: 0 is not between 1 and 100"):
        with_options(folder, "mining", {"negatives": 0})
    assert read_plan(folder).mining.negatives == 3


def test_paths_survive(folder: RunFolder) -> None:
    folder.prepare()
    plan = Plan(collection="books").changed({"synthesis.judged": (Path("/a"),)})
    write_plan(folder, plan)
    assert read_plan(folder) == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"plan\.json cannot be read"),
        ("[]", r"plan\.json: the settings: not a JSON object"),
        ("{}", r"plan\.json: no collection is named"),
        ('{"collection": "books", "mining": {"depths": 1}}', r"plan\.json: mining\.depths is no setting"),
    ],
)
def test_a_malformed_plan_is_refused(folder: RunFolder, text: str, message: str) -> None:
    folder.prepare()
    folder.plan.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_plan(folder)


def test_a_folder_without_a_plan_says_how_to_begin(folder: RunFolder) -> None:
    with pytest.raises(InvalidInput, match="has no run: begin one"):
        read_plan(folder)

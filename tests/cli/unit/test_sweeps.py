"""Sweeps as they are written, and what they ask of a search."""

import pytest

from shortlist import Candidates, Fusion, Rerank, SearchDefaults
from shortlist_cli.evaluation.settings import RANKINGS, InvalidSweep, Settings, parse_sweeps
from shortlist_cli.evaluation.subject import warn_few_candidates


def test_several_sweeps_multiply() -> None:
    labels = [one.label for one in parse_sweeps(["rerank.weight=0,0.3", "candidates.exact=true", "rerank.depth=20,50"])]
    assert labels == [
        "rerank.weight=0, candidates.exact=true, rerank.depth=20",
        "rerank.weight=0, candidates.exact=true, rerank.depth=50",
        "rerank.weight=0.3, candidates.exact=true, rerank.depth=20",
        "rerank.weight=0.3, candidates.exact=true, rerank.depth=50",
    ]


def test_settings_become_those_of_the_client() -> None:
    (one,) = parse_sweeps(["mode=dense", "candidates=50", "fusion.dense_weight=0.4", "rerank.weight=1"])
    assert one.defaults() == SearchDefaults(
        mode="dense",
        candidates=Candidates(dense=50, lexical=50),
        fusion=Fusion(dense_weight=0.4),
        rerank=Rerank(weight=1.0),
    )


def test_the_candidates_of_one_index_go_before_those_of_both() -> None:
    for sweeps in (["candidates.dense=10", "candidates=50"], ["candidates=50", "candidates.dense=10"]):
        (one,) = parse_sweeps(sweeps)
        assert one.defaults().candidates == Candidates(dense=10, lexical=50)


def test_every_setting_is_there_once_and_has_a_label_of_its_own() -> None:
    labels = [one.label for one in parse_sweeps(["rerank.weight=0.5,0.50,0.1234567,0.12345671,1.0"])]
    assert labels == [f"rerank.weight={value}" for value in ("0.5", "0.1234567", "0.12345671", "1")]


def test_a_ranking_takes_only_the_settings_that_can_change_it() -> None:
    (weighted,) = parse_sweeps(["rerank.weight=1"])
    same = [ranking for ranking in RANKINGS if weighted.search(ranking) == Settings().search(ranking)]
    assert same == ["dense", "lexical", "fused"]
    (fused,) = parse_sweeps(["fusion.dense_weight=1"])
    assert [r for r in RANKINGS if fused.search(r) == Settings().search(r)] == ["dense", "lexical"]


def test_the_first_stage_is_the_collections_own_unless_the_mode_is_swept() -> None:
    assert Settings().search("fused")["mode"] is None
    (one,) = parse_sweeps(["mode=dense"])
    assert one.search("fused")["mode"] == "dense"


def test_candidates_that_cannot_change_a_ranking_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    warn_few_candidates(parse_sweeps(["candidates=100,200", "rerank.depth=10"]))
    assert capsys.readouterr().err == ""
    warn_few_candidates(parse_sweeps(["candidates.dense=20,50,200"]))
    assert "candidates=20 changes only the times" in capsys.readouterr().err


def test_no_settings_are_the_defaults() -> None:
    assert Settings().label == "defaults"
    assert Settings().defaults() == SearchDefaults()


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ("rerank.wait=1", "with a path of"),
        ("rerank.weight", "is not PATH=VALUE"),
        ("rerank.depth=0.5", "does not take these values"),
        ("candidates.exact=maybe", "does not take these values"),
    ],
)
def test_a_sweep_that_cannot_be_read_says_why(sweep: str, message: str) -> None:
    with pytest.raises(InvalidSweep, match=message):
        parse_sweeps([sweep])


def test_a_path_is_swept_once() -> None:
    with pytest.raises(InvalidSweep, match="swept twice"):
        parse_sweeps(["rerank.depth=1", "rerank.depth=2"])

"""Progress where there is no terminal: a line for each part, and for what a step says."""

from __future__ import annotations

import pytest

from shortlist_adapt.commands import showing
from shortlist_adapt.progress import Progress


def test_a_part_and_a_remark_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with showing.shown() as progress:
        told: Progress = progress
        told.begin("searching", 1200, "searches")
        told.advance(10)
        told.say("two were odd")
        told.begin("thinking")
        told.advance(1, "loss 0.4")
    assert capsys.readouterr().err == "searching: 1,200 searches\ntwo were odd\nthinking\n"


def test_a_long_part_says_how_far_it_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(showing, "LINE_SECONDS", 0.0)
    with showing.shown() as progress:
        progress.begin("training", 40, "steps")
        progress.advance(10, "loss 0.41")
        progress.advance(10)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "training: 10 of 40 steps, loss 0.41",
        "training: 20 of 40 steps",
    ]


def test_only_the_bars_of_the_last_parts_stay() -> None:
    with showing.shown() as progress:
        for number in range(20):
            progress.begin(f"part {number}", 3)
        bars = [task.description for task in progress._bar.tasks]
    assert bars == [f"part {number}" for number in range(14, 20)]

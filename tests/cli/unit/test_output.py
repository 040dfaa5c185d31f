"""What commands print is for people to read, whatever is in it."""

from __future__ import annotations

import pytest

from shortlist import ExplainedTexts, RerankedPassage
from shortlist_cli.commands.explanation import _print_texts
from shortlist_cli.output import note, print_table, progress_bar

HOSTILE = "a\x1b[31mb\x07"


def test_control_characters_are_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["id"], [[HOSTILE]])
    note(HOSTILE)
    with progress_bar() as bar:
        note(HOSTILE, above=bar)
    shown = capsys.readouterr()
    assert shown.out.splitlines() == ["id", "a\\x1b[31mb\\x07"]
    assert shown.err.splitlines() == ["a\\x1b[31mb\\x07"] * 2


def test_neither_are_those_of_the_texts_that_models_read(capsys: pytest.CaptureFixture[str]) -> None:
    passage = RerankedPassage(stage=1, id=HOSTILE, ordinal=0, text=HOSTILE, token_vectors=0)
    _print_texts(ExplainedTexts(query=HOSTILE, passages=(passage,)))
    shown = capsys.readouterr().out
    assert shown.count("a\\x1b[31mb\\x07") == 3
    assert "\x1b" not in shown

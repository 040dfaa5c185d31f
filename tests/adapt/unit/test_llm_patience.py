"""When the step gives up on a model that does not answer."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from shortlist_adapt.synthesis.llm.asking import Outcome
from shortlist_adapt.synthesis.llm.chat import EndpointFailed
from shortlist_adapt.synthesis.llm.patience import Patience
from shortlist_adapt.synthesis.llm.screening import Reason

ANSWERED, SILENT, HALF, REFUSED, EMPTY = "answered", "silent", "half", "refused", "empty"


def outcome(what: str) -> Outcome:
    made = Outcome(document_id=what, calls={ANSWERED: 2, HALF: 1}.get(what, 0))
    if what in {SILENT, HALF}:
        made.reject(Reason.UNANSWERED, "no answer in 5 seconds")
    elif what == REFUSED:
        made.reject(Reason.NOT_TAKEN, "too long")
    elif what == EMPTY:
        made.reject(Reason.NO_TEXT)
    return made


def follow(outcomes: Iterable[str]) -> None:
    patience = Patience()
    for what in outcomes:
        patience.note(outcome(what))
    patience.end()


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [EMPTY] * 30,
        [ANSWERED] * 30,
        [ANSWERED, *[SILENT] * 9, ANSWERED],
        [*[SILENT] * 9, ANSWERED],
        [ANSWERED, SILENT, SILENT],
        [ANSWERED, *[REFUSED] * 30],
        [ANSWERED, *[SILENT] * 9, REFUSED, *[SILENT] * 9, ANSWERED],
    ],
)
def test_it_goes_on_while_there_are_answers(outcomes: list[str]) -> None:
    follow(outcomes)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ([SILENT], "no answer in 5 seconds; 1 document in a row"),
        ([REFUSED, EMPTY], "too long; 1 document in a row"),
        ([ANSWERED, *[SILENT] * 10, ANSWERED], "; 10 documents in a row"),
        ([ANSWERED, *[HALF] * 10], "; 10 documents in a row"),
        ([ANSWERED, SILENT, SILENT, SILENT], "; 3 documents in a row"),
        ([*[REFUSED] * 10, ANSWERED], "too long; 10 documents in a row"),
        ([*[SILENT, REFUSED] * 5, ANSWERED], "; 10 documents in a row"),
        ([ANSWERED, *[SILENT] * 5, EMPTY, *[SILENT] * 5], "; 10 documents in a row"),
    ],
)
def test_it_gives_up_on_an_endpoint_that_is_away(outcomes: list[str], message: str) -> None:
    with pytest.raises(EndpointFailed, match=message):
        follow(outcomes)

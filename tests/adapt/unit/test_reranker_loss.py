"""The loss of a batch of queries against a naive one."""

from __future__ import annotations

import math

import pytest
import torch

from shortlist_adapt.training.reranker_trainer import RerankerLoss

PRESENT = torch.tensor([[True, True, True], [True, True, False], [True, False, False]])
SCORES = torch.tensor([0.5, 2.0, -1.0, 1.5, 0.25, 3.0], dtype=torch.float64)
GROUPS = [[0.5, 2.0, -1.0], [1.5, 0.25], [3.0]]


def listwise() -> float:
    losses = [-math.log(math.exp(group[0]) / sum(map(math.exp, group))) for group in GROUPS]
    return sum(losses) / len(losses)


def yes_no() -> float:
    def likelihood(score: float, right: bool) -> float:
        yes = 1 / (1 + math.exp(-score))
        return yes if right else 1 - yes

    losses = [-math.log(likelihood(score, place == 0)) for group in GROUPS for place, score in enumerate(group)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("weight", "other"), [(1.0, 0.0), (0.0, 1.0), (1.0, 0.1)])
def test_it_is_the_weighted_sum_of_both_losses(weight: float, other: float) -> None:
    scores = SCORES.clone().requires_grad_()
    loss = RerankerLoss(listwise=weight, yes_no=other)(scores, PRESENT)
    assert float(loss.detach()) == pytest.approx(weight * listwise() + other * yes_no(), abs=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None and float(scores.grad[0]) < 0, "a higher score of the answer is better"


def test_a_shift_of_all_scores_changes_only_the_calibrating_part() -> None:
    both, alone = RerankerLoss(listwise=1.0, yes_no=0.1), RerankerLoss(listwise=1.0, yes_no=0.0)
    assert float(alone(SCORES + 5, PRESENT)) == pytest.approx(float(alone(SCORES, PRESENT)), abs=1e-5)
    assert float(both(SCORES + 5, PRESENT)) > float(both(SCORES, PRESENT)) + 0.1

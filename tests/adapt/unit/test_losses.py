"""The losses against naive references: plain loops over single numbers, in float64."""

from __future__ import annotations

import math

import pytest
import torch

from shortlist_adapt.training.losses import improved_info_nce, listwise_cross_entropy, yes_no_likelihood

Vector = list[float]


def cosine(a: Vector, b: Vector) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def naive_info_nce(
    queries: list[Vector],
    documents: list[list[Vector]],
    related: list[list[list[bool]]],
    temperature: float,
    margin: float,
) -> float:
    """The formula of the report, term by term."""
    total = 0.0
    for i, query in enumerate(queries):
        positive = documents[i][0]
        first = cosine(query, positive)
        z = math.exp(first / temperature)

        def term(score: float, masked: bool, limit: float = first + margin) -> float:
            return 0.0 if masked or score > limit else math.exp(score / temperature)

        for c, negative in enumerate(documents[i][1:], start=1):
            z += term(cosine(query, negative), related[i][i][c])
        for j in range(len(queries)):
            if j == i:
                continue
            z += term(cosine(query, queries[j]), related[i][j][0])
            for c, document in enumerate(documents[j]):
                z += term(cosine(positive, document), related[i][j][c])
                z += term(cosine(query, document), related[i][j][c])
        total -= math.log(math.exp(first / temperature) / z)
    return total / len(queries)


def random_batch(seed: int, rows: int, per_row: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch in which some texts are near each other, so that the mask has something to leave out."""
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(rows, 6, generator=generator)
    documents = torch.randn(rows, per_row, 6, generator=generator) + 0.7 * queries[:, None]
    if rows > 1:
        queries[1] = queries[0] + 0.05
        documents[1, 0] = documents[0, 0]
    related = torch.rand(rows, rows, per_row, generator=generator) < 0.15
    return queries, documents, related


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rows", "per_row"), [(1, 1), (1, 4), (2, 1), (7, 3), (16, 2)])
@pytest.mark.parametrize("temperature", [0.02, 0.05, 1.0])
def test_info_nce_is_the_formula_of_the_report(seed: int, rows: int, per_row: int, temperature: float) -> None:
    queries, documents, related = random_batch(seed, rows, per_row)
    naive = naive_info_nce(queries.tolist(), documents.tolist(), related.tolist(), temperature, 0.1)
    exact = improved_info_nce(queries.double(), documents.double(), related=related, temperature=temperature)
    assert exact.item() == pytest.approx(naive, rel=1e-9, abs=1e-9)
    single = improved_info_nce(queries, documents, related=related, temperature=temperature)
    # A cosine in float32 is off by up to 1e-7, which the temperature enlarges.
    assert single.item() == pytest.approx(naive, rel=1e-5, abs=1e-6 + 2e-7 / temperature)


def test_info_nce_is_the_formula_to_a_millionth_in_its_gradient() -> None:
    queries, documents, related = random_batch(3, 5, 3)
    queries.requires_grad_()
    improved_info_nce(queries, documents, related=related, temperature=0.05).backward()  # type: ignore[no-untyped-call]
    step = 1e-5
    for row, column in [(0, 0), (1, 3), (4, 5)]:
        values = []
        for sign in (1, -1):
            moved = [[float(value) for value in line] for line in queries.tolist()]
            moved[row][column] += sign * step
            values.append(naive_info_nce(moved, documents.tolist(), related.tolist(), 0.05, 0.1))
        assert queries.grad is not None
        assert queries.grad[row, column].item() == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-4)


def test_a_text_above_the_positive_by_more_than_the_margin_is_left_out() -> None:
    query = torch.tensor([[1.0, 0.0]])
    positive = torch.tensor([0.6, 0.8])
    near, far = torch.tensor([0.69, math.sqrt(1 - 0.69**2)]), torch.tensor([0.71, math.sqrt(1 - 0.71**2)])
    related = torch.zeros(1, 1, 2, dtype=torch.bool)
    counted, left_out = (
        improved_info_nce(query, torch.stack([positive, one])[None], related=related, temperature=0.1)
        for one in (near, far)
    )
    assert counted.item() == pytest.approx(math.log(1 + math.exp(0.9)), abs=1e-5)
    assert left_out.item() == 0.0


def test_the_same_document_in_two_rows_is_no_negative() -> None:
    queries, documents, _ = random_batch(0, 2, 1)
    same = torch.ones(2, 2, 1, dtype=torch.bool)
    assert improved_info_nce(queries, documents, related=same, temperature=0.05).item() == 0.0
    other = torch.zeros(2, 2, 1, dtype=torch.bool)
    assert improved_info_nce(queries, documents, related=other, temperature=0.05).item() > 0.5


def test_half_precision_is_computed_in_full() -> None:
    queries, documents, related = random_batch(1, 6, 2)
    half = improved_info_nce(queries.bfloat16(), documents.bfloat16(), related=related, temperature=0.02)
    full = improved_info_nce(
        queries.bfloat16().float(), documents.bfloat16().float(), related=related, temperature=0.02
    )
    assert half.dtype == torch.float32
    assert half.item() == full.item()


def test_the_likelihood_is_that_of_a_softmax_over_yes_and_no() -> None:
    generator = torch.Generator().manual_seed(0)
    no, yes = torch.randn(2, 40, generator=generator) * 5
    labels = (torch.rand(40, generator=generator) < 0.5).float()
    naive = 0.0
    for n, y, label in zip(no.tolist(), yes.tolist(), labels.tolist(), strict=True):
        naive -= math.log(math.exp(y if label else n) / (math.exp(y) + math.exp(n))) / 40
    assert yes_no_likelihood(yes - no, labels).item() == pytest.approx(naive, abs=1e-6)
    assert yes_no_likelihood(torch.tensor([-200.0]), torch.tensor([1.0])).item() == pytest.approx(200)


def test_listwise_cross_entropy_is_that_of_the_positive() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(9, 5, generator=generator) * 3
    present = torch.rand(9, 5, generator=generator) < 0.7
    present[:, 0] = True
    naive = 0.0
    for line, there in zip(scores.tolist(), present.tolist(), strict=True):
        z = sum(math.exp(score) for score, one in zip(line, there, strict=True) if one)
        naive -= math.log(math.exp(line[0]) / z) / 9
    assert listwise_cross_entropy(scores, present).item() == pytest.approx(naive, abs=1e-6)
    everything = torch.ones(9, 5, dtype=torch.bool)
    assert listwise_cross_entropy(scores).item() == listwise_cross_entropy(scores, everything).item()

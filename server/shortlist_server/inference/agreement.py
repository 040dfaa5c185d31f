"""Whether a converted model may stand for the original: vectors by their cosine, rerankers by raw scores and order.

A reranker's probabilities cannot be compared: the sigmoids of logits beyond ten are all equal, however far apart the
logits are. The texts compared here differ from those on which int8 measures its ranges. Measured: tiny classifiers of
random weights, which int8 reorders, have errors of 0.11 to 0.25; all-MiniLM-L6-v2, trained as a reranker for minutes,
has 0.06 and a rank correlation of 0.95. Pure functions; any thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MIN_COSINE = 0.99
"""Least mean cosine between an embedder's vectors and the original's."""

MAX_ERROR = 0.1
"""Largest root-mean-square error of raw scores, relative to the spread of one query's scores."""

MIN_RANK_CORRELATION = 0.9
"""Least rank correlation (Spearman's) of one query's order. Exchanging two neighbours among eight texts gives 0.976."""

RANKED_TEXTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "how does a vaccine protect against a virus",
        (
            "A vaccine shows the immune system a harmless part of a virus. It forms antibodies and memory cells, which"
            " recognise the real virus later and stop it before it spreads.",
            "Vaccination trains the body: after the second dose most people have enough antibodies to prevent illness.",
            "Vaccines must be kept cold on their way to a clinic. A broken cold chain makes a shipment useless.",
            "A computer virus copies itself into other programs; an antivirus scanner compares files with signatures.",
            "Antibiotics kill bacteria but do nothing against viruses such as influenza.",
            "The clinic is open from nine to five on weekdays and closed on public holidays.",
            "Stir the flour into the melted butter, then add the milk slowly while whisking.",
            "Shares in the shipping company rose four percent after it reported higher profits.",
        ),
    ),
    (
        "python read a csv file into a list of dictionaries",
        (
            "import csv\nwith open('data.csv', newline='') as file:\n    rows = list(csv.DictReader(file))",
            "csv.DictReader maps each row of a CSV file to a dictionary whose keys come from the first line.",
            "csv.writer turns rows into delimited text; call writerow for each row you want to write.",
            "json.load reads a JSON document from a file and returns dictionaries and lists.",
            "A dictionary maps keys to values; looking a key up takes constant time on average.",
            "Pythons are large snakes that kill their prey by constriction.",
            "The museum lists its paintings by year, painter and country.",
            "Rain is expected in the north, with strong winds along the coast.",
        ),
    ),
    (
        "penalty for cancelling the rental contract early",
        (
            "If the tenant ends the lease before its term, a fee of two months' rent is due within thirty days.",
            "Early termination: the tenant may leave after six months and then pays one month's rent as compensation.",
            "The contract renews for twelve months unless either party gives notice in writing.",
            "Rent is payable on the first day of each month by bank transfer.",
            "A penalty kick is awarded when a defender fouls an attacker inside the box.",
            "Subscribers can cancel the newsletter at any time, free of charge.",
            "The apartment has two bedrooms, a balcony and a view of the harbour.",
            "Water boils at a lower temperature on a mountain because the air pressure is lower.",
        ),
    ),
    (
        "when was the telescope that orbits the earth launched",
        (
            "The Hubble Space Telescope was launched into low Earth orbit on 24 April 1990 aboard Discovery.",
            "Hubble was carried into orbit by a space shuttle in 1990 and has been serviced five times.",
            "Galileo pointed a telescope at Jupiter in 1610 and saw four moons circling it.",
            "The James Webb telescope observes in the infrared from a point beyond the orbit of the Moon.",
            "The Earth takes about 365.25 days to travel once around the Sun.",
            "The company launched its new telephone in the spring and sold a million within a week.",
            "Soak the beans overnight, drain them, and simmer for an hour until tender.",
            "The committee adjourned without a vote and will meet again in October.",
        ),
    ),
)
"""For each query: texts that answer it, texts that only share its words or subject, and unrelated texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Whether a converted model agrees with the original well enough, and the figures in words."""

    holds: bool
    detail: str


def vector_agreement(reference: Floats, other: Floats) -> Agreement:
    """Compares vectors of the same texts, each of shape (texts, dimension) and norm 1. NaN agrees with nothing."""
    cosine = float((reference * other).sum(axis=1).mean())
    return Agreement(holds=cosine >= MIN_COSINE, detail=f"mean cosine {cosine:.4f}")


def rank_agreement(reference: Sequence[Floats], other: Sequence[Floats]) -> Agreement:
    """Compares raw scores: for each query those of its texts. NaN agrees with nothing.

    The error is the root of the mean square difference, relative to the median spread (standard deviation) of one
    query's scores. The rank correlation is the lowest of any query. A query whose texts all have the same score in the
    original counts 1, because it has no order to lose.
    """
    spread = float(np.median([scores.std() for scores in reference]))
    differences = np.concatenate(reference) - np.concatenate(other)
    error = float(np.sqrt(np.mean(np.square(differences, dtype=np.float64)))) / max(spread, 1e-9)
    correlation = min(_correlation(one, two) for one, two in zip(reference, other, strict=True))
    return Agreement(
        holds=error <= MAX_ERROR and correlation >= MIN_RANK_CORRELATION,
        detail=f"raw scores differ by {error:.3f} of their spread, rank correlation {correlation:.3f}",
    )


def _correlation(reference: Floats, other: Floats) -> float:
    """Spearman's rank correlation; equal scores share a rank."""
    first, second = _ranks(reference), _ranks(other)
    if first.std() == 0:
        return 1.0
    if second.std() == 0 or not np.isfinite(other).all():
        return -1.0
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(scores: Floats) -> NDArray[np.float64]:
    lower = (scores[:, None] > scores[None, :]).sum(axis=1)
    return np.asarray(lower + ((scores[:, None] == scores[None, :]).sum(axis=1) - 1) / 2, dtype=np.float64)

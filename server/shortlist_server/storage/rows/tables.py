"""The tables of a generation, by name. Generation 1 has the names without a number."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Names for SQL; made from a number alone, so they are safe to insert into a statement."""

    passages: str
    vectors: str
    token_vectors: str
    passages_by_key: str


def tables_of(generation: int) -> Tables:
    """The tables of a generation."""
    suffix = "" if generation == 1 else f"_{int(generation)}"
    return Tables(
        passages=f"passages{suffix}",
        vectors=f"vectors{suffix}",
        token_vectors=f"token_vectors{suffix}",
        passages_by_key=f"passages{suffix}_by_key",
    )

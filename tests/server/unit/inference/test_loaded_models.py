"""The catalog of a running server: published models come and go, the others stay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from shortlist_server.domain import LATE_INTERACTION, NO_MODEL
from shortlist_server.errors import ModelNotFound, Unavailable
from shortlist_server.inference.base import PassageText
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.late_interaction import LateInteraction
from shortlist_server.inference.loaded_models import LoadedModels
from shortlist_server.inference.services import ScheduledEmbedder, ScheduledReranker
from shortlist_server.observe.observer import Observer


@pytest.fixture
def models() -> Iterator[LoadedModels]:
    catalog = LoadedModels([ScheduledEmbedder(HashingEmbedder("own", 64))], {}, NO_MODEL)
    yield catalog
    catalog.close()


def embedder(name: str = "words@1") -> ScheduledEmbedder:
    return ScheduledEmbedder(HashingEmbedder(name, 32))


def test_a_model_is_found_from_its_addition_to_its_removal(models: LoadedModels) -> None:
    added = embedder()
    models.add(added, Observer())
    assert models.embedder("words@1") is models.find("words@1") is added
    assert (models.embedder_names, models.default_embedder) == (("own", "words@1"), "own")
    assert models.remove("words@1") is added
    assert models.remove("words@1") is None
    with pytest.raises(ModelNotFound, match="'shortlist models load words@1'"):
        models.embedder("words@1")
    assert models.embedder_names == ("own",)
    added.close()


def test_late_interaction_comes_with_the_first_embedder_that_gives_token_vectors(models: LoadedModels) -> None:
    assert not list(models.reranker_names)
    models.add(embedder(), Observer())
    assert models.reranker_names == (LATE_INTERACTION,)
    assert models.default_reranker == NO_MODEL
    first = models.reranker(LATE_INTERACTION)
    models.add(embedder("words@2"), Observer())
    assert models.reranker(LATE_INTERACTION) is first


def test_a_name_is_given_once(models: LoadedModels) -> None:
    second = embedder("own")
    with pytest.raises(ValueError, match="'own' is loaded"):
        models.add(second, Observer())
    second.close()


def test_a_reranker_is_added_under_its_own_name(models: LoadedModels) -> None:
    added = ScheduledReranker(LateInteraction())
    models.add(added, Observer())
    assert models.reranker(added.info.name) is added


def test_a_model_that_was_loaded_too_late_is_closed(models: LoadedModels) -> None:
    models.close()
    late = embedder()
    with pytest.raises(Unavailable, match="stopping"):
        models.add(late, Observer())
    passage = PassageText(start=0, end=1, content="a", tokens=1)
    with pytest.raises(Unavailable, match="unloaded"):
        asyncio.run(late.embed_passages([passage], dimension=32, token_vectors=False))

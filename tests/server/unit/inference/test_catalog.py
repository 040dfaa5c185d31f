"""What a server loads for its settings."""

from __future__ import annotations

import subprocess
import sys

import pytest

from shortlist_server.config import Config
from shortlist_server.domain import LATE_INTERACTION, NO_MODEL
from shortlist_server.errors import InvalidArgument, ModelMismatch, ModelNotFound
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.hashing import HashingEmbedder


def test_the_first_embedder_is_the_default_and_late_interaction_comes_with_it() -> None:
    models = load_models(Config(embedders=("hashing", "wide=hashing:512")))
    assert models.default_embedder == "hashing"
    assert models.default_reranker == LATE_INTERACTION
    assert models.embedder("wide").info.dimension == 512
    assert models.embedder("wide").info.revision != models.embedder("hashing").info.revision
    assert models.reranker(LATE_INTERACTION).info.uses_token_vectors
    models.close()
    models.close()


def test_without_embedders_there_is_no_reranker_by_default() -> None:
    models = load_models(Config(embedders=(NO_MODEL,)))
    assert (models.default_embedder, models.default_reranker) == (NO_MODEL, NO_MODEL)


def test_no_reranking_can_be_the_default() -> None:
    models = load_models(Config(embedders=("hashing",), rerankers=(NO_MODEL,)))
    assert models.default_reranker == NO_MODEL
    assert models.reranker(LATE_INTERACTION)
    models.close()


def test_a_name_that_is_not_loaded_is_refused_with_those_that_are() -> None:
    models = load_models(Config(embedders=("hashing",)))
    with pytest.raises(ModelNotFound, match="hashing"):
        models.embedder("other")
    with pytest.raises(ModelNotFound, match=LATE_INTERACTION):
        models.reranker("other")
    models.close()


def test_of_several_revisions_under_one_name_the_first_is_current_and_each_can_be_had() -> None:
    models = load_models(Config(embedders=("it=hashing:64:2", "it=hashing:64", "other=hashing")))
    assert list(models.embedder_names) == ["it", "other"]
    assert [one.info.revision for one in models.embedders()] == ["hashing-2-64", "hashing-1-64", "hashing-1-256"]
    assert models.embedder("it").info.revision == "hashing-2-64"
    for revision in ("hashing-2-64", "hashing-1-64"):
        assert models.embedder("it", revision).info.revision == revision
    with pytest.raises(ModelMismatch, match=r"revision hashing-1-25 of embedder 'it'.*hashing-2-64") as refusal:
        models.embedder("it", "hashing-1-256")
    assert refusal.value.metadata["stored_revision"] == "hashing-1-256"
    models.close()


def test_each_variant_of_the_hashing_embedder_has_vectors_of_its_own() -> None:
    one, same, other = (HashingEmbedder("it", 64, variant) for variant in (1, 1, 2))
    first, second, third = (
        engine.embed_passages(["a few words"], token_vectors=False)[0].vector for engine in (one, same, other)
    )
    assert first @ second == pytest.approx(1)
    assert abs(first @ third) < 0.5


@pytest.mark.parametrize(
    "entry",
    ["=folder", "name=", "hashing:x", "hashing:8", "hashing:5000", "hashing:64:0", "hashing:64:256", "hashing:64:1:1"],
)
def test_an_entry_that_cannot_be_read_is_refused(entry: str) -> None:
    with pytest.raises(InvalidArgument):
        load_models(Config(embedders=(entry,)))


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="two embedders"):
        load_models(Config(embedders=("hashing", "hashing:512", "hashing")))
    with pytest.raises(InvalidArgument, match="are the same model"):
        load_models(Config(embedders=("it=hashing", "it=hashing:256")))


def test_importing_the_catalog_loads_no_model_runtime() -> None:
    code = (
        "import sys, shortlist_server.inference.catalog;"
        "sys.exit(bool({'torch', 'transformers', 'onnxruntime', 'onnx', 'tokenizers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""What torch computes: pooled where it runs, and near float32 in every number format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.inference.agreement import MIN_COSINE, vector_agreement
from shortlist_server.inference.base import QueryText
from shortlist_server.inference.catalog import schedule
from shortlist_server.inference.encoder import Floats, Ids, TransformerEmbedder
from shortlist_server.inference.hashing import HashingEmbedder
from shortlist_server.inference.loading import load_embedder
from shortlist_server.inference.pooling import Pooling
from shortlist_server.inference.precedence import Precedence
from shortlist_server.inference.torch_backend import ENCODER, TorchTransformer
from shortlist_server.observe.observer import Observer

from .conftest import embedded

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

TEXTS = ["Beijing is the capital of China.", "", "gravity", "émigré 🎉", "word " * 60]


def config(dtype: str = "float32") -> Config:
    return Config(device="cpu", backend="torch", dtype=dtype)


@pytest.mark.parametrize("pooling", ["mean", "cls", "lasttoken"])
def test_what_is_pooled_on_the_device_is_what_would_be_pooled_behind_it(tiny_bert: Path, pooling: str) -> None:
    forward = TorchTransformer(ENCODER, tiny_bert, device="cpu", dtype="float32", threads=1)
    ids = np.arange(1, 25, dtype=np.int64).reshape(3, 8)
    mask = np.array([[1] * 8, [1] * 3 + [0] * 5, [1] + [0] * 7], dtype=np.int64)
    expected = Pooling(modes=(pooling,)).pool(forward.run(ids, mask), mask)
    assert np.abs(forward.run_pooled(ids, mask, pooling) - expected).max() <= 1e-5


def test_the_hidden_states_of_a_decoder_stay_on_the_device(
    tiny_qwen3_embedding: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = load_embedder("it", tiny_qwen3_embedding, "", config())
    before = embedded(embedder, TEXTS, token_vectors=True)

    def run(self: TorchTransformer, ids: Ids, mask: Ids, segments: Ids | None = None) -> Floats:
        raise AssertionError("all hidden states were copied")

    monkeypatch.setattr(TorchTransformer, "run", run)
    after = embedded(embedder, TEXTS, token_vectors=True)
    assert all(np.array_equal(one.vector, other.vector) for one, other in zip(before, after, strict=True))
    (query,) = embedder.embed_queries([QueryText(text="a query")])
    assert query.token_vectors is None


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_qwen3_embedding"])
def test_bfloat16_is_within_the_tolerance_that_machines_of_one_revision_have(
    request: pytest.FixtureRequest, model: str
) -> None:
    folder = request.getfixturevalue(model)
    exact, short = (load_embedder("it", folder, "", config(dtype)) for dtype in ("float32", "bfloat16"))
    assert exact.info.revision == short.info.revision
    assert (exact.info.number_format, short.info.number_format) == ("float32", "bfloat16")
    vectors = [np.array([one.vector for one in embedded(it, TEXTS)]) for it in (exact, short)]
    assert not np.array_equal(vectors[0], vectors[1])
    assert vector_agreement(*vectors).holds, f"mean cosine under {MIN_COSINE}"


def test_a_device_with_memory_gets_larger_batches_of_passages() -> None:
    engine = HashingEmbedder("it", 64)
    engine.batch_tokens = 32_768
    service = schedule(engine, config(), Observer(), Precedence(), "it")
    service.close()
    limits = service._passages._limits
    assert (limits.batch_cost, limits.batch_items) == (32_768, 1024)


def test_an_embedder_of_a_cpu_has_no_size_of_batches_of_its_own(tiny_bert: Path) -> None:
    embedder = load_embedder("it", tiny_bert, "", config())
    assert isinstance(embedder, TransformerEmbedder)
    assert embedder.batch_tokens == 0

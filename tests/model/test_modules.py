"""Module stacks of sentence-transformers, on tiny checkpoints that it saves itself: served with its vectors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.base import Embedder, QueryText
from shortlist_server.inference.loading import load_embedder

from .conftest import embedded

pytestmark = [
    pytest.mark.model,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TEXTS = [
    "What is the capital of China?",
    "",
    "🎉👩‍👩‍👧‍👦 émigré ﬁ",
    "a [SEP] in the middle and [PAD] too",
    "word " * 500,
    "gravity",
]
PROMPT = "Represent the query for retrieval: "
CLOSE = 1e-5


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def load(folder: Path, exports: Path, backend: str = "torch") -> Embedder:
    return load_embedder("it", folder, "", Config(device="cpu", backend=backend, dtype="float32", data_dir=exports))


def save(folder: Path, modules: Sequence[Any], prompts: dict[str, str] | None = None) -> Any:
    """Has sentence-transformers save the modules, and reads them again: the reference."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=list(modules), prompts=prompts, device="cpu").save(str(folder))
    return SentenceTransformer(str(folder), device="cpu")


def difference(embedder: Embedder, reference: Any, query_prompt: str = "", passage_prompt: str = "") -> float:
    """The largest between our vectors and the reference's, of queries and of passages."""
    queries = [one.vector for one in embedder.embed_queries([QueryText(text=text) for text in TEXTS])]
    passages = [one.vector for one in embedded(embedder, TEXTS)]
    expected = [
        reference.encode(TEXTS, prompt=prompt, normalize_embeddings=True) for prompt in (query_prompt, passage_prompt)
    ]
    # Where the reference makes nothing of a text, we give a direction; a test of its own is about that.
    for ours, theirs in zip((queries, passages), expected, strict=True):
        theirs[~theirs.any(axis=1)] = ours[TEXTS.index("")]
    return max(
        float(np.abs(np.stack(ours) - theirs).max()) for ours, theirs in zip((queries, passages), expected, strict=True)
    )


def copy_tokenizer(minilm: Path, folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(minilm / name, folder / name)


def dense(width: int, out: int, activation: str = "Tanh", **changes: Any) -> Any:
    import torch
    from sentence_transformers import models

    torch.manual_seed(width + out)
    return models.Dense(width, out, activation_function=getattr(torch.nn, activation)(), **changes)


@pytest.fixture
def transformer(tiny_bert: Path) -> Any:
    from sentence_transformers import models

    return models.Transformer(str(tiny_bert))


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize(
    "modes",
    [
        "cls",
        "max",
        "mean",
        "mean_sqrt_len_tokens",
        "weightedmean",
        "lasttoken",
        ("max", "cls"),
        ("weightedmean", "max"),
    ],
    ids=str,
)
def test_every_pooling_has_the_references_vectors(
    transformer: Any, tmp_path: Path, exports: Path, modes: Any, backend: str
) -> None:
    from sentence_transformers import models

    reference = save(tmp_path, [transformer, models.Pooling(64, pooling_mode=modes)])
    embedder = load(tmp_path, exports, backend)
    assert embedder.info.dimension == (64 if isinstance(modes, str) else 128)
    assert difference(embedder, reference) <= CLOSE


def test_the_older_form_of_a_pooling_file_puts_modes_in_a_fixed_order(
    transformer: Any, tmp_path: Path, exports: Path
) -> None:
    from sentence_transformers import SentenceTransformer, models

    save(tmp_path, [transformer, models.Pooling(64)])
    flags = {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True, "pooling_mode_cls_token": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **flags}))
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    assert difference(load(tmp_path, exports), reference) <= CLOSE


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("mode", ["cls", "mean", "weightedmean", "max", "lasttoken"])
def test_a_prompt_is_left_out_of_pooling_where_the_files_say_so(
    transformer: Any, tmp_path: Path, exports: Path, mode: Any, backend: str
) -> None:
    from sentence_transformers import models

    pooling = models.Pooling(64, pooling_mode=mode, include_prompt=False)
    reference = save(tmp_path, [transformer, pooling], {"query": PROMPT, "document": ""})
    embedder = load(tmp_path, exports, backend)
    assert difference(embedder, reference, PROMPT) <= CLOSE
    reference.set_pooling_include_prompt(True)
    if mode != "lasttoken":
        assert difference(embedder, reference, PROMPT) > 1e-3


@pytest.mark.parametrize(
    "head",
    [
        lambda: [dense(64, 32)],
        lambda: [dense(64, 256, "Identity", bias=False), dense(256, 64, "Identity", bias=False)],
        lambda: [dense(64, 48, "ReLU"), dense(48, 48, "GELU"), dense(48, 16, "SiLU"), dense(16, 16, "Sigmoid")],
        lambda: [dense(64, 64, use_residual=True), dense(64, 32, use_residual=True)],
    ],
    ids=["tanh", "two as in EmbeddingGemma", "activations", "residual"],
)
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_dense_layers_have_the_references_vectors(
    transformer: Any, tmp_path: Path, exports: Path, head: Callable[[], list[Any]], backend: str
) -> None:
    from sentence_transformers import models

    layers = head()
    reference = save(tmp_path, [transformer, models.Pooling(64), models.Normalize(), *layers, models.Dropout(0.5)])
    embedder = load(tmp_path, exports, backend)
    assert embedder.info.dimension == layers[-1].out_features
    assert not embedder.info.token_vectors
    assert difference(embedder, reference) <= CLOSE


def test_dense_weights_in_half_precision_are_read(transformer: Any, tmp_path: Path, exports: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from sentence_transformers import SentenceTransformer, models

    save(tmp_path, [transformer, models.Pooling(64), dense(64, 32)])
    weights = tmp_path / "2_Dense" / "model.safetensors"
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in load_file(weights).items()}, weights)
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    assert difference(load(tmp_path, exports), reference) <= CLOSE


def test_another_dense_layer_is_another_revision(transformer: Any, tmp_path: Path, exports: Path) -> None:
    from safetensors.numpy import load_file, save_file
    from sentence_transformers import models

    save(tmp_path, [transformer, models.Pooling(64), dense(64, 32)])
    before = load(tmp_path, exports).info.revision
    weights = tmp_path / "2_Dense" / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    assert load(tmp_path, exports).info.revision != before


def test_vectors_are_cut_where_the_files_say_so(transformer: Any, tmp_path: Path, exports: Path) -> None:
    from sentence_transformers import SentenceTransformer, models

    save(tmp_path, [transformer, models.Pooling(64), models.Normalize()])
    settings = tmp_path / "config_sentence_transformers.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"truncate_dim": 24}))
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    embedder = load(tmp_path, exports)
    assert embedder.info.dimension == 24
    assert difference(embedder, reference) <= CLOSE


@pytest.mark.parametrize("backend", ["torch", "onnx"])
@pytest.mark.parametrize("settings", ["sentence_bert_config.json", "sentence_xlm-roberta_config.json"])
def test_a_transformer_in_a_folder_of_its_own_is_served_with_its_settings(
    transformer: Any, tmp_path: Path, exports: Path, settings: str, backend: str
) -> None:
    from sentence_transformers import SentenceTransformer, models

    save(tmp_path, [transformer, models.Pooling(64)])
    own = tmp_path / "0_Transformer"
    own.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.move(tmp_path / name, own / name)
    (tmp_path / "sentence_bert_config.json").unlink()
    (own / settings).write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    embedder = load(tmp_path, exports, backend)
    assert embedder.info.max_tokens == reference.max_seq_length == 24
    assert difference(embedder, reference) <= CLOSE
    before = embedder.info.revision
    (own / settings).write_text(json.dumps({"max_seq_length": 25, "do_lower_case": False}))
    assert load(tmp_path, exports, backend).info.revision != before


@pytest.fixture
def static(minilm: Path) -> Any:
    import torch
    from sentence_transformers import models
    from tokenizers import Tokenizer

    torch.manual_seed(5)
    return models.StaticEmbedding(Tokenizer.from_file(str(minilm / "tokenizer.json")), embedding_dim=32)


@pytest.mark.parametrize("normalized", [True, False])
def test_a_static_model_has_the_references_vectors(
    static: Any, tmp_path: Path, exports: Path, normalized: bool
) -> None:
    from sentence_transformers import models

    reference = save(tmp_path, [static, *([models.Normalize()] if normalized else [])], {"query": PROMPT})
    # Saved without truncation, as these models are used.
    embedder = load(tmp_path, exports)
    assert not embedder.info.token_vectors
    assert embedder.render_query(QueryText(text="owl")) == f"{PROMPT}owl"
    reference.tokenizer.no_truncation()
    assert difference(embedder, reference, PROMPT) <= CLOSE


def test_a_text_of_which_a_static_model_knows_nothing_has_a_direction(
    static: Any, tmp_path: Path, exports: Path
) -> None:
    save(tmp_path, [static])
    embedder = load(tmp_path, exports)
    (nothing, something) = embedded(embedder, ["\u200b", "owl"])
    assert nothing.tokens == 0
    assert float(np.linalg.norm(nothing.vector)) == 1.0
    assert np.array_equal(nothing.vector, embedder.embed_queries([QueryText(text=" ")])[0].vector)
    assert float(nothing.vector @ something.vector) < 0.9


def test_a_static_model_of_model2vec_has_the_references_vectors(static: Any, tmp_path: Path, exports: Path) -> None:
    from safetensors.numpy import save_file
    from sentence_transformers import SentenceTransformer, models

    save(tmp_path, [static, models.Normalize()])
    random = np.random.default_rng(3)
    save_file(
        {
            "embeddings": random.normal(size=(500, 24)).astype(np.float16),
            "mapping": random.integers(0, 500, size=30522),
            "weights": random.uniform(size=30522).astype(np.float64),
        },
        tmp_path / "model.safetensors",
    )
    reference = SentenceTransformer(str(tmp_path), device="cpu")
    reference.tokenizer.no_truncation()
    # The reference rounds the table to its number format, half precision here.
    assert difference(load(tmp_path, exports), reference) <= 1e-3


def test_a_static_table_of_another_tokenizer_is_refused(static: Any, tmp_path: Path, exports: Path) -> None:
    from safetensors.numpy import save_file

    save(tmp_path, [static])
    save_file({"embedding.weight": np.ones((100, 32), dtype=np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json has 30522 tokens but .* 100 rows"):
        load(tmp_path, exports)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_the_encoder_of_t5_has_the_references_vectors(
    minilm: Path, tmp_path: Path, exports: Path, backend: str
) -> None:
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(17)
    config = T5Config(
        vocab_size=30522, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )
    checkpoint = tmp_path / "t5"
    T5ForConditionalGeneration(config).save_pretrained(checkpoint)
    copy_tokenizer(minilm, checkpoint)
    modules = [models.Transformer(str(checkpoint), max_seq_length=64), models.Pooling(64), dense(64, 32, "Identity")]
    save(tmp_path / "whole", [*modules, models.Normalize()])
    for name in ("model.safetensors", "config.json"):  # with the decoder, which the reference did not save
        shutil.copy(checkpoint / name, tmp_path / "whole" / name)
    reference = SentenceTransformer(str(tmp_path / "whole"), device="cpu")
    assert difference(load(tmp_path / "whole", exports, backend), reference) <= CLOSE


def test_embeddinggemma_has_the_references_vectors(minilm: Path, tmp_path: Path, exports: Path) -> None:
    import torch
    from sentence_transformers import models
    from transformers import Gemma3TextConfig, Gemma3TextModel

    torch.manual_seed(19)
    config = Gemma3TextConfig(
        vocab_size=30522,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        use_bidirectional_attention=True,
        initializer_range=0.2,
    )
    checkpoint = tmp_path / "gemma"
    Gemma3TextModel(config).save_pretrained(checkpoint)
    copy_tokenizer(minilm, checkpoint)
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    layers = [dense(64, 256, "Identity", bias=False), dense(256, 64, "Identity", bias=False)]
    modules = [models.Transformer(str(checkpoint), max_seq_length=64), models.Pooling(64), *layers, models.Normalize()]
    reference = save(tmp_path / "whole", modules, prompts)
    embedder = load(tmp_path / "whole", exports)
    assert difference(embedder, reference, prompts["query"], prompts["document"]) <= CLOSE


def test_a_mistral_that_takes_instructions_has_the_references_vectors(
    minilm: Path, tmp_path: Path, exports: Path
) -> None:
    import torch
    from sentence_transformers import models
    from transformers import MistralConfig, MistralModel

    torch.manual_seed(23)
    config = MistralConfig(
        vocab_size=30522,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=None,
        initializer_range=0.2,
    )
    checkpoint = tmp_path / "mistral"
    MistralModel(config).save_pretrained(checkpoint)
    copy_tokenizer(minilm, checkpoint)
    prompt = "Instruct: Find the passage\nQuery: "
    modules = [models.Transformer(str(checkpoint)), models.Pooling(64, pooling_mode="lasttoken")]
    reference = save(tmp_path / "whole", modules, {"web_search_query": prompt})
    embedder = load(tmp_path / "whole", exports)
    assert embedder.render_query(QueryText(text="owl")) == f"[CLS]{prompt}owl[SEP]"
    assert (
        embedder.render_query(QueryText(text="owl", instruction="Find it")) == "[CLS]Instruct: Find it\nQuery: owl[SEP]"
    )
    assert embedder.info.takes_instruction
    assert not embedder.info.token_vectors
    assert difference(embedder, reference, prompt) <= CLOSE

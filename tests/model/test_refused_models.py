"""What cannot be served as its makers meant it is refused by the file's name, and never computed otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.base import Embedder
from shortlist_server.inference.embedder_layout import read_embedder
from shortlist_server.inference.loading import load_embedder, load_reranker

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

POOLING = ("1_Pooling", "sentence_transformers.models.Pooling")
NORMALIZE = ("2_Normalize", "sentence_transformers.models.Normalize")


@pytest.fixture
def folder(tiny_bert: Path, tmp_path: Path) -> Path:
    """A folder of a model that is served: a transformer, the mean, no normalisation."""
    target = tmp_path / "model"
    shutil.copytree(tiny_bert, target)
    write(target / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True})
    write_modules(target, POOLING)
    return target


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_modules(
    folder: Path, *behind: tuple[str, str], first: str = "sentence_transformers.models.Transformer"
) -> None:
    modules = [("", first), *behind]
    write(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)],
    )


def load(folder: Path) -> Embedder:
    return load_embedder("it", folder, str(folder), Config(device="cpu", backend="torch"))


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan", "maxsim"])
def test_vectors_that_are_not_compared_by_cosine_are_refused(folder: Path, similarity: str) -> None:
    write(folder / "config_sentence_transformers.json", {"similarity_fn_name": similarity})
    with pytest.raises(ModelNotFound, match=rf"config_sentence_transformers\.json.*{similarity}.*made for cosine"):
        load(folder)


def test_a_model_that_is_known_for_the_dot_product_is_refused_unless_its_files_say_cosine(folder: Path) -> None:
    known = folder.rename(folder.with_name("multi-qa-mpnet-base-dot-v1"))
    with pytest.raises(ModelNotFound, match=r"card demands 'dot'.*set similarity_fn_name"):
        load(known)
    write(known / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    assert load(known).info.dimension == 64


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "cosine", None])
def test_vectors_of_length_one_are_served_where_the_order_is_that_of_the_cosine(
    folder: Path, similarity: str | None
) -> None:
    write_modules(folder, POOLING, NORMALIZE)
    write(folder / "config_sentence_transformers.json", {"similarity_fn_name": similarity})
    assert load(folder).info.dimension == 64


def test_the_manhattan_distance_is_refused_of_vectors_of_length_one_too(folder: Path) -> None:
    write_modules(folder, POOLING, NORMALIZE)
    write(folder / "config_sentence_transformers.json", {"similarity_fn_name": "manhattan"})
    with pytest.raises(ModelNotFound, match="manhattan"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_a_models_own_is_refused_for_a_known_architecture(folder: Path, file: str) -> None:
    settings = json.loads((folder / file).read_text())
    write(folder / file, settings | {"auto_map": {"AutoModel": "modeling_bert.OwnBertModel"}})
    with pytest.raises(ModelNotFound, match=rf"{file} names code of its own \(auto_map: AutoModel: modeling_bert\.Own"):
        load(folder)


def test_a_model_with_an_adapter_is_refused(folder: Path) -> None:
    write(folder / "adapter_config.json", {"peft_type": "LORA"})
    with pytest.raises(ModelNotFound, match=r"adapter_config\.json belongs to an adapter.*merge_and_unload"):
        load(folder)


def test_a_reranker_with_code_of_its_own_is_refused(tiny_cross_encoder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_cross_encoder, folder)
    settings = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", settings | {"auto_map": {"AutoModelForSequenceClassification": "modeling.Own"}})
    with pytest.raises(ModelNotFound, match=r"config\.json names code of its own.*take auto_map out of a copy"):
        load_reranker("it", folder, Config(device="cpu", backend="torch"))


@pytest.mark.parametrize("kind", ["custom_st.Transformer", "modeling.Transformer", "", "torch.nn.Linear"])
def test_a_module_that_is_not_sentence_transformers_own_is_refused(folder: Path, kind: str) -> None:
    write_modules(folder, POOLING, first=kind)
    with pytest.raises(ModelNotFound, match=r"modules\.json names a class of its own"):
        load(folder)


@pytest.mark.parametrize(
    "kind",
    ["LayerNorm", "CNN", "LSTM", "WeightedLayerPooling", "WordWeights", "SpladePooling", "SparseAutoEncoder", "Router"],
)
def test_a_module_that_is_not_known_is_refused_by_its_name(folder: Path, kind: str) -> None:
    write_modules(folder, POOLING, ("2_It", f"sentence_transformers.models.{kind}"))
    with pytest.raises(ModelNotFound, match=rf"modules\.json asks for a module {kind}, which is not served"):
        load(folder)


@pytest.mark.parametrize("kind", ["WordEmbeddings", "BoW", "CLIPModel", "Asym", "Router", "MLMTransformer"])
def test_a_model_that_begins_with_something_else_is_refused_by_its_name(folder: Path, kind: str) -> None:
    write_modules(folder, POOLING, first=f"sentence_transformers.models.{kind}")
    with pytest.raises(ModelNotFound, match=rf"modules\.json begins with {kind}"):
        load(folder)


def test_a_model_without_pooling_is_refused(folder: Path) -> None:
    write_modules(folder, NORMALIZE)
    with pytest.raises(ModelNotFound, match=r"modules\.json has Normalize behind Transformer, where Pooling"):
        load(folder)


@pytest.mark.parametrize("place", ["/etc", "../other", "a/../../b"])
def test_a_module_outside_the_folder_is_refused(folder: Path, place: str) -> None:
    write_modules(folder, (place, POOLING[1]))
    with pytest.raises(ModelNotFound, match="not inside the model's folder"):
        load(folder)


@pytest.mark.parametrize(
    "modes", [{"pooling_mode": "median"}, {"pooling_mode_median_tokens": True}, {"pooling_mode": []}]
)
def test_a_pooling_that_is_not_known_is_refused(folder: Path, modes: dict[str, Any]) -> None:
    write(folder / "1_Pooling" / "config.json", modes)
    with pytest.raises(ModelNotFound, match=r"1_Pooling.config\.json asks for the pooling"):
        load(folder)


@pytest.mark.parametrize("module", ["Normalize", "Dense"])
def test_a_model_of_many_vectors_a_text_is_refused(folder: Path, module: str) -> None:
    write_modules(folder, POOLING, ("2_It", f"sentence_transformers.models.{module}"))
    write(folder / "2_It" / "config.json", {"module_input_name": "token_embeddings"})
    with pytest.raises(ModelNotFound, match=r"2_It.config\.json works on token_embeddings"):
        load(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"transformer_task": "fill-mask"},
        {"module_output_name": "sentence_embedding"},
        {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}},
        {"query_length": 32},
        {"processing_kwargs": {"text": {"max_length": 8}}},
        {"tokenizer_args": {"padding_side": "left"}},
        {"config_kwargs": {"num_hidden_layers": 1}},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_transformer_that_gives_something_else_is_refused(folder: Path, settings: dict[str, Any]) -> None:
    write(folder / "sentence_bert_config.json", settings)
    with pytest.raises(ModelNotFound, match=rf"sentence_bert_config\.json sets {next(iter(settings))}"):
        load(folder)


def linear(**changes: Any) -> dict[str, Any]:
    return {"linear.weight": np.ones((32, 64), np.float32), "linear.bias": np.ones(32, np.float32), **changes}


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.Hardswish"}, linear(), "asks for the activation"),
        ({"activation_function": "mine.Tanh"}, linear(), "asks for the activation mine.Tanh"),
        ({"module_output_name": "other"}, linear(), "names an output of its own"),
        ({}, linear(**{"linear.weight": np.ones((32, 48), np.float32)}), r"for vectors of 64 dimensions.*\[32, 48\]"),
        ({}, {"other": np.ones((32, 64), np.float32)}, "'linear.weight' .*lacks it"),
        ({"bias": False}, linear(), "another bias"),
        ({}, linear(**{"linear.bias": np.ones(31, np.float32)}), "another bias"),
        ({}, linear(**{"linear.weight": np.full((32, 64), np.nan, np.float32)}), "not finite"),
        ({"use_residual": True}, linear(), "'residual.weight'"),
    ],
)
def test_a_dense_layer_that_is_damaged_or_not_known_is_refused(
    folder: Path, config: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    from safetensors.numpy import save_file

    write_modules(folder, POOLING, ("2_Dense", "sentence_transformers.models.Dense"))
    write(folder / "2_Dense" / "config.json", {"in_features": 64, "out_features": 32, **config})
    save_file(tensors, folder / "2_Dense" / "model.safetensors")
    with pytest.raises(ModelNotFound, match=f"2_Dense.*{message}"):
        load(folder)


def test_pickled_dense_weights_are_not_read(folder: Path) -> None:
    write_modules(folder, POOLING, ("2_Dense", "sentence_transformers.models.Dense"))
    write(folder / "2_Dense" / "config.json", {"in_features": 64, "out_features": 32})
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelNotFound, match=r"2_Dense.model\.safetensors is missing.*pickled weights can run code"):
        load(folder)


def test_prompts_that_fill_the_window_are_refused(folder: Path) -> None:
    write(folder / "config_sentence_transformers.json", {"prompts": {"query": "word " * 100}})
    with pytest.raises(ModelNotFound, match=r"prompts of .* take 102 of the 128 tokens"):
        load(folder)


@pytest.mark.parametrize("dimension", [0, -3, "24"])
def test_a_cut_to_no_dimensions_is_refused(folder: Path, dimension: Any) -> None:
    write(folder / "config_sentence_transformers.json", {"truncate_dim": dimension})
    with pytest.raises(ModelNotFound, match="truncate_dim"):
        load(folder)


@pytest.mark.parametrize("file", ["config.json", "modules.json", "sentence_bert_config.json"])
@pytest.mark.parametrize("content", ["5", '"text"', "null"])
def test_a_file_of_another_kind_of_json_is_named(folder: Path, file: str, content: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(ModelNotFound, match=file.replace(".", r"\.")):
        load(folder)


def test_any_value_of_a_setting_is_read_or_refused_by_a_files_name(folder: Path) -> None:
    write_modules(folder, POOLING, NORMALIZE)
    write(folder / "2_Normalize" / "config.json", {"module_input_name": "sentence_embedding"})
    write(
        folder / "config_sentence_transformers.json", {"similarity_fn_name": None, "truncate_dim": None, "prompts": {}}
    )
    names = ("max_seq_length", "do_lower_case", "modality_config", "query_length", "model_args")
    write(
        folder / "sentence_bert_config.json",
        {**dict.fromkeys(names), "transformer_task": "feature-extraction"},
    )
    values: tuple[Any, ...] = (5, 1e30, "x", [], [1], {}, {"a": 1}, {"text": 5}, None, True)
    read = refused = 0
    for file in set(folder.rglob("*.json")) - {folder / "tokenizer.json"}:
        settings = json.loads(file.read_text())
        entries = settings if isinstance(settings, dict) else dict(enumerate(settings))
        for key in entries:
            for value in values:
                changed = {**entries, key: value}
                write(file, changed if isinstance(settings, dict) else list(changed.values()))
                try:
                    read_embedder(folder)
                    read += 1
                except ModelNotFound as error:
                    assert ".json" in str(error)
                    refused += 1
        write(file, settings)
    assert read > 100
    assert refused > 50


@pytest.mark.parametrize(
    ("config", "causal"),
    [
        ({"model_type": "mistral"}, True),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, False),
        ({"model_type": "llama", "is_causal": False}, False),
        ({"model_type": "bert"}, False),
    ],
)
def test_whether_tokens_see_what_follows_them_is_read_from_the_files(
    folder: Path, config: dict[str, Any], causal: bool
) -> None:
    settings = json.loads((folder / "config.json").read_text())
    write(folder / "config.json", settings | config)
    assert read_embedder(folder).causal == causal

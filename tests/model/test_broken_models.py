"""Weights and settings that cannot be right are refused at the start, with the name of the file at fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortlist_server.config import Config
from shortlist_server.errors import ModelNotFound
from shortlist_server.inference.catalog import load_models
from shortlist_server.inference.loading import load_embedder, load_reranker

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Tensors = dict[str, Any]


@pytest.fixture
def encoder(tiny_bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bert, tmp_path / "encoder"))


@pytest.fixture
def classifier(tiny_bert: Path, tmp_path: Path) -> Path:
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "classifier"))
    torch.manual_seed(13)
    config = BertConfig.from_pretrained(folder, num_labels=1)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def decoder(tiny_qwen3: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_qwen3, tmp_path / "decoder"))


def embed(folder: Path, **settings: Any) -> None:
    load_embedder("it", folder, "", Config(**({"device": "cpu", "backend": "torch"} | settings)))


def rerank(folder: Path, **settings: Any) -> None:
    load_reranker("it", folder, Config(**({"device": "cpu", "backend": "torch"} | settings)))


def change_weights(folder: Path, change: Callable[[Tensors], None]) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = {name: np.array(value) for name, value in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, file: str = "config.json", **changes: Any) -> None:
    path = folder / file
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(settings | changes))


def test_the_folders_are_served_as_they_are(encoder: Path, classifier: Path, decoder: Path) -> None:
    embed(encoder)
    rerank(classifier)
    rerank(decoder)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_weights_that_are_not_finite_are_refused(encoder: Path, tmp_path: Path, number: float, backend: str) -> None:
    def damage(tensors: Tensors) -> None:
        tensors["encoder.layer.1.output.dense.weight"][3, 5] = number

    change_weights(encoder, damage)
    with pytest.raises(ModelNotFound, match=r"model\.safetensors has values in .*layer\.1.* that are not finite"):
        embed(encoder, backend=backend, data_dir=tmp_path)


def test_a_rerankers_weights_that_are_not_finite_are_refused(classifier: Path, decoder: Path) -> None:
    def damage(tensors: Tensors) -> None:
        next(iter(tensors.values())).flat[0] = np.nan

    for folder in (classifier, decoder):
        change_weights(folder, damage)
        with pytest.raises(ModelNotFound, match=r"model\.safetensors has values in .* that are not finite"):
            rerank(folder)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_config_with_fewer_or_more_layers_than_weights_is_refused(
    encoder: Path, tmp_path: Path, layers: int, backend: str
) -> None:
    change_config(encoder, num_hidden_layers=layers)
    with pytest.raises(ModelNotFound, match=r"not those of its config\.json.*encoder\.layer\.[12]"):
        embed(encoder, backend=backend, data_dir=tmp_path)


@pytest.mark.parametrize("layers", [1, 5])
def test_a_rerankers_config_with_fewer_or_more_layers_than_weights_is_refused(
    classifier: Path, decoder: Path, layers: int
) -> None:
    for folder in (classifier, decoder):
        change_config(folder, num_hidden_layers=layers, layer_types=None)
        with pytest.raises(ModelNotFound, match=r"not those of its config\.json"):
            rerank(folder)


def test_weights_that_the_config_leaves_out_are_refused(decoder: Path) -> None:
    def add_bias(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.q_proj.bias"] = np.ones(64, dtype=np.float32)

    change_weights(decoder, add_bias)
    with pytest.raises(ModelNotFound, match=r"q_proj\.bias.* have no place in that model"):
        rerank(decoder)


def test_a_tokenizer_of_more_tokens_than_the_reranker_knows_is_refused(decoder: Path) -> None:
    change_config(decoder, vocab_size=2000)
    with pytest.raises(ModelNotFound, match=r"tokenizer\.json has 151669 tokens but the model .* knows 2000"):
        rerank(decoder)


def test_a_head_for_another_task_is_no_fault(classifier: Path, encoder: Path) -> None:
    def add_head(tensors: Tensors) -> None:
        tensors["cls.predictions.transform.dense.weight"] = np.ones((64, 64), dtype=np.float32)
        tensors["embeddings.position_ids"] = np.arange(128).reshape(1, 128)

    change_weights(encoder, add_head)
    embed(encoder)
    embed(classifier)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.bool_])
def test_weights_in_whole_numbers_are_refused(encoder: Path, kind: type) -> None:
    def quantize(tensors: Tensors) -> None:
        tensors["encoder.layer.0.output.dense.weight"] = tensors["encoder.layer.0.output.dense.weight"].astype(kind)

    change_weights(encoder, quantize)
    with pytest.raises(ModelNotFound, match=r"model\.safetensors has .*layer\.0.* as [A-Z0-9]+: quantised weights"):
        embed(encoder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}']
)
def test_an_index_of_no_files_is_refused(encoder: Path, content: str) -> None:
    (encoder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelNotFound, match=r"model\.safetensors\.index\.json"):
        embed(encoder)


@pytest.mark.parametrize("content", ["[]", "[1]", "{}", "null", "5", '"text"', "true", ""])
@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_file_that_says_nothing_is_named(encoder: Path, classifier: Path, file: str, content: str) -> None:
    for load, folder in ((embed, encoder), (rerank, classifier)):
        (folder / file).write_text(content)
        with pytest.raises(ModelNotFound, match=file.replace(".", r"\.")):
            load(folder)


@pytest.mark.parametrize("content", ["[]", "[1]", "null", "5", '"text"', ""])
@pytest.mark.parametrize("file", ["sentence_bert_config.json", "tokenizer_config.json"])
def test_settings_that_are_no_object_are_refused(encoder: Path, classifier: Path, file: str, content: str) -> None:
    for load, folder in ((embed, encoder), (rerank, classifier)):
        (folder / file).write_text(content)
        with pytest.raises(ModelNotFound, match=file.replace(".", r"\.")):
            load(folder)


@pytest.mark.parametrize("value", [None, 0, -1, 10**9, 1.5, "text", [], {}, [{}], True])
@pytest.mark.parametrize(
    "field", ["architectures", "model_type", "hidden_size", "num_hidden_layers", "vocab_size", "id2label"]
)
def test_a_config_of_any_content_is_served_or_refused_and_never_a_traceback(
    encoder: Path, classifier: Path, field: str, value: Any
) -> None:
    for load, folder in ((embed, encoder), (rerank, classifier)):
        change_config(folder, **{field: value})
        try:
            load(folder)
        except ModelNotFound as error:
            assert str(folder) in str(error)


@pytest.mark.parametrize("window", [0, -5, 3, 10**9, 1e30, 12.5, "128", [128], True, float("nan"), float("inf")])
def test_an_absurd_window_is_refused(encoder: Path, classifier: Path, window: Any) -> None:
    for load, folder in ((embed, encoder), (rerank, classifier)):
        change_config(folder, "sentence_bert_config.json", max_seq_length=window)
        with pytest.raises(ModelNotFound, match=r"sentence_bert_config\.json states a window of"):
            load(folder)


@pytest.mark.parametrize("window", [0, -5, "128", float("nan")])
def test_an_absurd_window_of_the_model_or_its_tokenizer_is_refused(encoder: Path, window: Any) -> None:
    change_config(encoder, "tokenizer_config.json", model_max_length=window)
    with pytest.raises(ModelNotFound, match=r"tokenizer_config\.json states a window of"):
        embed(encoder)
    change_config(encoder, "tokenizer_config.json", model_max_length=10**30)
    change_config(encoder, max_position_embeddings=window)
    with pytest.raises(ModelNotFound, match=r"/config\.json states a window of"):
        embed(encoder)


def test_a_tokenizer_without_a_window_leaves_the_models(encoder: Path) -> None:
    change_config(encoder, "tokenizer_config.json", model_max_length=10**30)
    change_config(encoder, "sentence_bert_config.json", max_seq_length=None)
    assert load_embedder("it", encoder, "", Config(device="cpu", backend="torch")).info.max_tokens == 128


def test_a_model_that_overflows_is_refused_when_it_is_tried(encoder: Path) -> None:
    def enlarge(tensors: Tensors) -> None:
        tensors["encoder.layer.1.output.LayerNorm.weight"] *= np.float32(3e38)

    change_weights(encoder, enlarge)
    with pytest.raises(ModelNotFound, match="the model 'it' gives numbers that are not finite"):
        load_models(Config(device="cpu", backend="torch", embedders=(f"it={encoder}",)))

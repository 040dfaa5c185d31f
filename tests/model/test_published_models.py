"""Encoders and rerankers that are published to a running server: exported, compared, loaded and used."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shortlist import Client, Document, ModelInUse, ModelNotFound, ModelRefused, Rerank, SearchDefaults
from shortlist_server.testing import server

pytestmark = pytest.mark.model

TEXTS = {"owl": "an owl hunts at night", "lynx": "a lynx hunts in snow", "krill": "whales eat krill"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    with server(tmp_path / "data") as running, Client(running.target) as connected:
        connected.create_collection("docs")
        connected.ingest("docs", [Document(id=id, text=text) for id, text in TEXTS.items()]).finish()
        yield connected


def test_an_encoder_is_exported_and_its_export_goes_with_it(
    client: Client, tiny_bert: Path, layout_writer: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    write_layout, _ = layout_writer
    write_layout(folder, {"pooling_mode_mean_tokens": True}, 64)
    published = client.publish_model("bert@1", folder)
    assert published.kind == "embedder"
    assert published.number_format in ("int8", "float32")
    exports = tmp_path / "data" / "models"
    assert list(exports.iterdir())
    client.reindex("docs", embedder="bert@1")
    client.switch_generation("docs")
    found = client.search("docs", "an owl hunts at night", mode="dense")
    assert found.hits[0].id == "owl"
    with server(tmp_path / "other", embedders=(f"bert={folder}",)) as running, Client(running.target) as other:
        assert other.server_info().embedders[0].revision == published.revision
    client.delete_collection("docs")
    client.delete_model("bert@1")
    assert list(exports.iterdir()) == []


def test_a_reranker_is_named_in_searches_and_presets_without_a_restart(
    client: Client, minilm: Path, bert_parts: Any, tmp_path: Path
) -> None:
    import torch
    from transformers import BertForSequenceClassification

    folder = tmp_path / "model"
    bert_config, copy_bert_tokenizer = bert_parts
    torch.manual_seed(13)
    BertForSequenceClassification(bert_config(num_labels=1)).save_pretrained(folder)
    copy_bert_tokenizer(minilm, folder)
    with pytest.raises(ModelNotFound):
        client.search("docs", "who hunts", rerank=Rerank(model="judge@1"))
    assert client.publish_model("judge@1", folder).kind == "reranker"
    found = client.search("docs", "who hunts", rerank=Rerank(model="judge@1", depth=3, weight=1.0))
    assert found.report.reranker is not None and found.report.reranker.name == "judge@1"
    assert found.report.reranked == 3
    client.update_collection("docs", SearchDefaults(rerank=Rerank(model="judge@1", depth=3, weight=1.0)))
    assert [hit.id for hit in client.search("docs", "who hunts")] == [hit.id for hit in found]
    with pytest.raises(ModelInUse, match="'docs'"):
        client.delete_model("judge@1")
    client.update_collection("docs", SearchDefaults())
    client.delete_model("judge@1")
    with pytest.raises(ModelNotFound):
        client.search("docs", "who hunts", rerank=Rerank(model="judge@1"))


def test_weights_with_nan_are_refused_by_name(client: Client, tiny_bert: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match=r"^model\.safetensors has values in .* not finite"):
        client.publish_model("bert@1", folder, kind="embedder")
    assert list(client.list_models()) == []

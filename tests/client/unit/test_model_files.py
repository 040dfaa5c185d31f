"""Which files of a folder are a model's, and what kind of model they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from shortlist import InvalidArgument, ModelFile, PublishedModel
from shortlist._model_files import CHUNK_BYTES, read_folder


def make(folder: Path, files: dict[str, Any]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


MODULES = [{"path": ""}, {"path": "1_Pooling"}, {"path": "../outside"}, {"path": "2_Normalize"}]


def test_what_a_server_reads_is_taken_and_nothing_else(tmp_path: Path) -> None:
    folder = make(
        tmp_path / "model",
        {
            "config.json": {},
            "modules.json": MODULES,
            "1_Pooling/config.json": {},
            "model.safetensors": "weights",
            "README.md": "card",
            "chat_template.jinja": "{{ messages }}",
            "consolidated.safetensors": "the same again",
            "pytorch_model.bin": "pickle",
            "vocab.txt": "words",
            "optimizer.pt": "state",
            "onnx/config.json": {},
            "onnx/model.onnx": "graph",
            ".git/config.json": {},
        },
    )
    make(tmp_path / "outside", {"secret.json": {}})
    found = read_folder(folder)
    assert [file.path for file in found.files] == [
        "1_Pooling/config.json",
        "README.md",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "modules.json",
    ]
    assert found.files[4] == ModelFile(
        path="model.safetensors", size_bytes=7, sha256=hashlib.sha256(b"weights").hexdigest()
    )
    assert found.size_bytes == sum((folder / file.path).stat().st_size for file in found.files)


def test_of_weights_in_several_files_the_index_names_them(tmp_path: Path) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    folder = make(
        tmp_path,
        {
            "config.json": {"architectures": ["BertForSequenceClassification"]},
            "model.safetensors.index.json": {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}},
            **dict.fromkeys([*shards, "model.safetensors", "adapter.safetensors"], "weights"),
        },
    )
    paths = {file.path for file in read_folder(folder).files}
    assert {path for path in paths if path.endswith(".safetensors")} == set(shards)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"modules.json": MODULES}, "embedder"),
        ({"config.json": {"architectures": ["BertForSequenceClassification"]}}, "reranker"),
        ({"modules.json": MODULES, "config_sentence_transformers.json": {"model_type": "CrossEncoder"}}, "reranker"),
        (
            {"config.json": {}, "config_sentence_transformers.json": {"model_type": "SentenceTransformer"}},
            "embedder",
        ),
        ({"config.json": {"architectures": ["Qwen3ForCausalLM"]}, "modules.json": MODULES}, "embedder"),
    ],
)
def test_the_files_tell_the_kind(tmp_path: Path, files: dict[str, Any], kind: str) -> None:
    assert read_folder(make(tmp_path, files)).kind == kind


def test_where_the_files_do_not_tell_the_kind_it_must_be_given(tmp_path: Path) -> None:
    folder = make(tmp_path, {"config.json": {"architectures": ["Qwen3ForCausalLM"]}})
    with pytest.raises(InvalidArgument, match="give the kind"):
        read_folder(folder)
    assert read_folder(folder, "reranker").kind == "reranker"


@pytest.mark.parametrize("files", [{}, {"model.safetensors": "w"}])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match=r"neither config\.json nor modules\.json"):
        read_folder(make(tmp_path, files))


def test_a_damaged_file_is_left_for_the_server_to_name(tmp_path: Path) -> None:
    folder = make(tmp_path, {"config.json": "{", "modules.json": "[" * 100_000})
    assert {file.path for file in read_folder(folder, "embedder").files} == {"config.json", "modules.json"}


def test_files_are_read_in_pieces(tmp_path: Path) -> None:
    folder = make(tmp_path, {"config.json": "x" * (CHUNK_BYTES + 10), "modules.json": []})
    found = read_folder(folder)
    assert len(found.read("config.json", 0)) == CHUNK_BYTES
    assert found.read("config.json", CHUNK_BYTES) == b"x" * 10


def test_a_new_card_is_noticed_once_the_model_is_published(tmp_path: Path) -> None:
    found = read_folder(make(tmp_path, {"modules.json": [], "README.md": "new"}))

    def known(state: Any, files: tuple[ModelFile, ...]) -> PublishedModel:
        return PublishedModel(
            model="m@1", kind="embedder", state=state, revision="", size_bytes=0, received_bytes=0, files=files
        )

    other = (ModelFile(path="README.md", size_bytes=3, sha256="0" * 64),)
    assert found.new_card(known("loaded", other)) == "new"
    assert found.new_card(known("stored", ())) == "new"
    assert found.new_card(known("uploading", other)) is None
    assert found.new_card(known("loaded", found.files)) is None

"""What a published model may be called, and which files it may have."""

from __future__ import annotations

import dataclasses

import pytest

from shortlist_server.errors import InvalidArgument, ModelRefused
from shortlist_server.publishing.manifest import ModelFile
from shortlist_server.publishing.names import MAX_CARD_BYTES, MAX_FILES, MAX_JSON_BYTES, check_files, split_model

FILE = ModelFile(path="config.json", size_bytes=2, sha256="0" * 64)


def file(path: str, **changes: object) -> ModelFile:
    return dataclasses.replace(FILE, path=path, **changes)  # type: ignore[arg-type]


def test_a_name_and_a_version_make_a_model() -> None:
    assert split_model("all-MiniLM-L6-v2@2026.11_b") == ("all-MiniLM-L6-v2", "2026.11_b")


@pytest.mark.parametrize(
    "model",
    [
        "books",
        "books@",
        "@1",
        "books@1@2",
        "../books@1",
        "books@..",
        ".books@1",
        "books@.1",
        "a/b@1",
        "books@1/2",
        "bo oks@1",
        "bücher@1",
        "books@1\n",
        "b" * 65 + "@1",
        "",
    ],
)
def test_a_name_that_is_no_folder_name_is_refused(model: str) -> None:
    with pytest.raises(InvalidArgument, match="NAME@VERSION"):
        split_model(model)


def test_the_files_of_the_layouts_are_taken() -> None:
    paths = [
        *("modules.json", "config.json", "tokenizer.json", "model.safetensors", "README.md", "chat_template.jinja"),
        *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "1_Pooling/config.json"),
        *("2_Dense/model.safetensors", "0_StaticEmbedding/tokenizer.json"),
    ]
    check_files([file(path) for path in paths])


@pytest.mark.parametrize(
    "path",
    [
        "../config.json",
        "/etc/config.json",
        "a/../config.json",
        "1_Pooling/../../config.json",
        "a/b/config.json",
        "a//config.json",
        "./config.json",
        "config.json/",
        ".manifest.json",
        "a/.hidden.json",
        "a\\config.json",
        "con\x00fig.json",
        "c:config.json",
        "",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused_and_named(path: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        check_files([FILE, file(path)])
    assert repr(path) in refused.value.message
    assert refused.value.field == "files[1].path"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("pytorch_model.bin", "safetensors"),
        ("training.pt", "safetensors"),
        ("weights.pkl", "safetensors"),
        ("vocab.txt", "tokenizer.json"),
        ("spiece.model", "tokenizer.json"),
        ("modeling_own.py", "leave it out"),
        ("onnx/model.onnx", "leave it out"),
        ("LICENSE", "leave it out"),
    ],
)
def test_a_file_that_the_server_does_not_read_is_refused_and_named(path: str, why: str) -> None:
    with pytest.raises(ModelRefused, match=why) as refused:
        check_files([FILE, file(path)])
    assert refused.value.message.startswith(path)


@pytest.mark.parametrize(
    "paths", [("config.json", "config.json"), ("config.json", "Config.json"), ("a.json", "a.json/config.json")]
)
def test_two_files_cannot_have_one_place(paths: tuple[str, str]) -> None:
    with pytest.raises(ModelRefused, match="comes twice"):
        check_files([file(path) for path in paths])


@pytest.mark.parametrize(("path", "limit"), [("README.md", MAX_CARD_BYTES), ("tokenizer.json", MAX_JSON_BYTES)])
def test_a_text_file_is_bounded(path: str, limit: int) -> None:
    check_files([file(path, size_bytes=limit)])
    with pytest.raises(ModelRefused, match=f"{path} has {limit + 1} bytes"):
        check_files([file(path, size_bytes=limit + 1)])


def test_numbers_of_files_sizes_and_checksums_are_checked() -> None:
    for files in ([], [file(f"f{i}.json") for i in range(MAX_FILES + 1)]):
        with pytest.raises(InvalidArgument):
            check_files(files)
    for wrong in ({"size_bytes": -1}, {"sha256": "0" * 63}, {"sha256": "G" * 64}, {"sha256": ""}):
        with pytest.raises(InvalidArgument):
            check_files([file("config.json", **wrong)])

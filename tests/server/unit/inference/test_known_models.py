"""Models whose files are silent on what their cards demand are known by their own whole name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shortlist_server.inference.known_models import find_known

E5 = ("query: ", "passage: ")
INSTRUCT = ("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: ", "")
REPRESENT = ("Represent this sentence for searching relevant passages: ", "")
CHINESE = ("为这个句子生成表示以用于检索相关文章：", "")  # noqa: RUF001
NOMIC = ("search_query: ", "search_document: ")
NOTHING = ("", "")


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("intfloat/e5-small-v2", E5),
        ("intfloat/e5-base", E5),
        ("intfloat/e5-large-unsupervised", E5),
        ("intfloat/multilingual-e5-small", E5),
        ("intfloat/multilingual-e5-large", E5),
        ("intfloat/multilingual-e5-large-instruct", INSTRUCT),
        ("intfloat/e5-mistral-7b-instruct", INSTRUCT),
        ("Salesforce/SFR-Embedding-Mistral", INSTRUCT),
        ("Linq-AI-Research/Linq-Embed-Mistral", INSTRUCT),
        ("BAAI/bge-small-en-v1.5", REPRESENT),
        ("BAAI/bge-large-en", REPRESENT),
        ("BAAI/bge-base-en-v1.5@a1b2c3", REPRESENT),
        ("BAAI/bge-base-zh-v1.5", CHINESE),
        ("BAAI/bge-m3", NOTHING),
        ("BAAI/bge-small-en-v1.5-finetuned", NOTHING),
        ("mixedbread-ai/mxbai-embed-large-v1", REPRESENT),
        ("WhereIsAI/UAE-Large-V1", REPRESENT),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", REPRESENT),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", ("query: ", "")),
        ("nomic-ai/nomic-embed-text-v1.5", NOMIC),
        ("nomic-ai/modernbert-embed-base", NOMIC),
        ("google/embeddinggemma-300m", ("task: search result | query: ", "title: none | text: ")),
        ("thenlper/gte-base", NOTHING),
        ("sentence-transformers/all-MiniLM-L6-v2", NOTHING),
        ("me/not-e5-base-v2", NOTHING),
    ],
)
def test_a_model_is_known_by_its_whole_hub_name(tmp_path: Path, name: str, prompts: tuple[str, str]) -> None:
    known = find_known(tmp_path, name)
    assert (known.query, known.passage) == prompts


@pytest.mark.parametrize(
    "place",
    [
        "models--BAAI--bge-small-en-v1.5/snapshots/5c38ec7c405ec4b44b94cc5a9bb96e735b38267a",
        "models/bge-small-en-v1.5",
        "sentence_transformers/BAAI_bge-small-en-v1.5",
        "BAAI--bge-small-en-v1.5",
    ],
)
def test_a_model_is_known_by_the_folder_it_lies_in(tmp_path: Path, place: str) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    assert find_known(folder, str(folder)).query == REPRESENT[0]
    assert find_known(folder, "").query == REPRESENT[0]


def test_a_cached_model_is_not_known_by_anything_but_its_hub_name(tmp_path: Path) -> None:
    folder = tmp_path / "models--me--mine" / "snapshots" / "bge-small-en-v1.5"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"_name_or_path": "BAAI/bge-small-en-v1.5"}))
    assert find_known(folder, "").query == ""


def test_a_model_is_known_by_its_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "---\ntags:\n- mteb\nmodel-index:\n- name: bge-base-zh-v1.5\n  results: []\n---\n"
    )
    assert find_known(tmp_path, "").query == CHINESE[0]


def test_a_model_is_known_by_its_configuration_unless_it_was_trained_further(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "intfloat/e5-base-v2/"}))
    assert find_known(tmp_path, "").query == E5[0]
    (tmp_path / "README.md").write_text("---\nbase_model: intfloat/e5-base-v2\n---\n")
    assert find_known(tmp_path, "").query == ""


@pytest.mark.parametrize(
    ("name", "similarity"),
    [
        ("sentence-transformers/multi-qa-mpnet-base-dot-v1", "dot"),
        ("sentence-transformers/msmarco-bert-base-dot-v5", "dot"),
        ("sentence-transformers/msmarco-distilbert-base-tas-b", "dot"),
        ("facebook/contriever-msmarco", "dot"),
        ("sentence-transformers/multi-qa-mpnet-base-cos-v1", ""),
        ("sentence-transformers/msmarco-distilbert-cos-v5", ""),
    ],
)
def test_models_made_for_the_dot_product_are_known(tmp_path: Path, name: str, similarity: str) -> None:
    assert find_known(tmp_path, name).similarity == similarity
